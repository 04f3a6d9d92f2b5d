"""The page's files, read once at the start: types, ETags, compression.

Files below `/dashboard/static/<version>/` never change under their address, since the version is a digest of all of them;
the two pages name the version and are asked for again each time.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

from starlette.responses import Response

FOLDER: Final = Path(__file__).parent / "static"
TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""A file of another kind is not served."""
SECURITY: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # without a referrer browsers say "Origin: null" where a form is posted
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_IMMUTABLE: Final = "public, max-age=31536000, immutable"
_ASK_AGAIN: Final = "no-cache"
_VERSION_MARK: Final = b"{{version}}"
_COMPRESSED_FROM: Final = 1_024
"""Bytes; a smaller file fits a packet anyway."""


class Asset(NamedTuple):
    """One file as it is served."""

    body: bytes
    packed: bytes | None
    """compressed by gzip, where that is shorter"""
    kind: str
    etag: str


class Assets:
    """All files, by their path below the folder."""

    def __init__(self, folder: Path = FOLDER) -> None:
        paths = sorted(path for path in folder.rglob("*") if path.suffix in TYPES)
        bodies = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        digest = hashlib.sha256()
        for name, body in bodies.items():
            digest.update(f"{name}:{len(body)}:".encode() + body)
        self.version = digest.hexdigest()[:16]
        self._assets = {name: self._asset(name, body) for name, body in bodies.items()}

    def _asset(self, name: str, body: bytes) -> Asset:
        if name.endswith(".html"):
            body = body.replace(_VERSION_MARK, self.version.encode())
        packed = gzip.compress(body, mtime=0) if len(body) >= _COMPRESSED_FROM else None
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        return Asset(body, packed, TYPES[Path(name).suffix], etag)

    def page(self, name: str) -> str:
        """A page's text, for the one that has words to be filled in."""
        return self._assets[name].body.decode()

    def answer(self, name: str, headers: Mapping[str, str], version: str | None = None) -> Response | None:
        """The response for a file; None when there is no such file.

        `version` is the one in the address; a page that is older than this process gets the newer file uncached.
        """
        asset = self._assets.get(name)
        if asset is None:
            return None
        fields = {
            **SECURITY,
            "Cache-Control": _IMMUTABLE if version == self.version else _ASK_AGAIN,
            "ETag": asset.etag,
            "Vary": "Accept-Encoding",
        }
        if asset.etag in headers.get("if-none-match", ""):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=fields)
        body = asset.body
        if asset.packed is not None and "gzip" in headers.get("accept-encoding", ""):
            body, fields["Content-Encoding"] = asset.packed, "gzip"
        return Response(body, media_type=asset.kind, headers=fields)
