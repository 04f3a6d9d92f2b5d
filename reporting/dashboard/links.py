"""One-time login links: a sealed token that stands for a key for a few minutes, and opens one session.

A token names the machine that made it and is opened there only, once: the first to create the file
`<folder>/<key>-<id>.<end>` has it. The file system decides, so it is once over all processes of the machine and over restarts; at another machine behind
the same address the token is refused, never opened a second time. Files are deleted when their token has ended anyway.
"""

from __future__ import annotations

import secrets
from enum import StrEnum
from pathlib import Path
from typing import Final

import orjson

from shared.secret_box import NotOurs, SecretBox

PURPOSE: Final = "dashboard login link"
LASTS_MS: Final = 600_000
"""Ten minutes: to be read in a terminal and opened, not to be kept."""
USED_MAX: Final = 100
"""Links of one key that may be used within that time; each is an empty file."""
_ID_BYTES: Final = 16
_KEY_CHARS: Final = 16
"""Of a key's digest in a file's name: enough to tell keys apart."""


class LinkFault(StrEnum):
    """Why a link opens nothing."""

    UNKNOWN = "link_unknown"
    ENDED = "link_ended"
    USED = "link_used"
    ELSEWHERE = "link_elsewhere"
    TOO_MANY = "link_too_many"


class LoginLinks:
    """Makes tokens and takes each once."""

    def __init__(self, box: SecretBox, node: str, folder: Path) -> None:
        self._box, self._node, self._folder = box, node, folder

    def make(self, digest: str, now_ms: int) -> str:
        """A token for the key whose secret has this digest."""
        token_id = secrets.token_hex(_ID_BYTES)
        return self._box.encrypt_text(orjson.dumps([token_id, self._node, digest, now_ms + LASTS_MS]))

    def take(self, token: str, now_ms: int) -> str | LinkFault:
        """The digest that a token stands for, the first time; what is wrong with it, else."""
        try:
            token_id, node, digest, ends_at_ms = orjson.loads(self._box.decrypt_text(token))
        except NotOurs:
            return LinkFault.UNKNOWN
        if now_ms >= ends_at_ms:
            return LinkFault.ENDED
        if node != self._node:
            return LinkFault.ELSEWHERE
        self._folder.mkdir(parents=True, exist_ok=True)
        key = f"{digest[:_KEY_CHARS]}-"
        if self._forget_ended(now_ms, key) >= USED_MAX:
            return LinkFault.TOO_MANY
        try:
            (self._folder / f"{key}{token_id}.{ends_at_ms}").touch(exist_ok=False)
        except FileExistsError:
            return LinkFault.USED
        return str(digest)

    def _forget_ended(self, now_ms: int, key: str) -> int:
        """Delete the files of tokens that have ended; how many are left of this key."""
        left = 0
        for path in self._folder.iterdir():
            if int(path.suffix[1:] or 0) <= now_ms:
                path.unlink(missing_ok=True)
            else:
                left += path.name.startswith(key)
        return left
