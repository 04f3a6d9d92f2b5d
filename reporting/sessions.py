"""The session of a browser: a cookie that stands for a key, without holding it.

The cookie is the SHA-256 of the key's secret and an end, sealed (shared/secret_box.py). Nothing is kept on the server:
every process with the same CLICKLEDGER_SECRET_KEY opens it, after a restart too, and every request looks the key up in
the catalog, so that revoking or expiring a key ends its sessions at the next request. `now_ms` is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import urlsplit

import orjson
from starlette.responses import Response

from shared.secret_box import NotOurs, SecretBox

COOKIE: Final = "clickledger_session"
PURPOSE: Final = "dashboard session"
_LABEL: Final = b"v1"


class Sessions:
    """Makes and reads session cookies."""

    def __init__(self, box: SecretBox, lasts_ms: int) -> None:
        self._box = box
        self.lasts_ms = lasts_ms

    def begin(self, digest: str, now_ms: int) -> str:
        """The cookie's value for the key whose secret has this SHA-256 (hex)."""
        return self._box.encrypt_text(orjson.dumps([digest, now_ms + self.lasts_ms]), _LABEL)

    def digest_of(self, headers: Mapping[str, str], now_ms: int) -> str | None:
        """The digest in a request's cookie; None without one, and for one that is not ours or has ended.

        `headers` look names up without regard to case. A request that another site's page made the browser send gets
        nothing: SameSite is about sites, and other ports of this machine are the same site.
        """
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return None
        sealed = _cookie(headers.get("cookie", ""))
        if not sealed:
            return None
        try:
            digest, ends_at_ms = orjson.loads(self._box.decrypt_text(sealed, _LABEL))
        except NotOurs:
            return None
        return str(digest) if now_ms < ends_at_ms else None


def put_cookie(response: Response, value: str, *, seconds: int, is_https: bool) -> None:
    """Set the cookie; with no seconds, have it forgotten."""
    response.set_cookie(COOKIE, value, max_age=seconds, path="/", httponly=True, samesite="strict", secure=is_https)


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a request that changes something may come from a page of ours.

    Browsers say so in Sec-Fetch-Site; older ones in Origin, which then has our host. What is no browser says neither.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == headers.get("host")
    except ValueError:  # a broken host is not ours
        return False


def _cookie(text: str) -> str:
    try:
        found = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""
