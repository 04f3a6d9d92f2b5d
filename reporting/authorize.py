"""Who may read: the tenant behind a request's key. A key sees its own tenant, whatever the request says."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Final, NamedTuple

from fastapi import Request

from reporting.problems import Refused
from reporting.state import State
from shared.keys import FoundKey, Grant, KeyFault, digest_of, key_behind, read_bearer

_READING: Final = ("GET", "HEAD")
_LOOK_S: Final = 1.0
"""Seconds between two looks at a key in a catalog that has not changed: keys and sessions expire."""


class Reader(NamedTuple):
    """An authenticated key with the grant that the route asks for."""

    tenant: str
    zone: str
    """Time zone of the tenant's days."""


def reader_of(state: State, request: Request, grant: Grant = Grant.REPORTS) -> Reader:
    """Who asks, by the newest catalog: a key, or for what only reads a browser's session. Every route calls this.

    Raises Refused: 401 without a valid key, 403 without the grant, 503 while the catalog is not ready.
    """
    now_ms = time.time_ns() // 1_000_000
    session = None
    if request.method in _READING and "authorization" not in request.headers:
        session = state.sessions.digest_of(request.headers, now_ms)
    return _find_reader(state, session or _bearer(request), now_ms, grant)


def still_reads(state: State, request: Request, tenant: str) -> bool:
    """Whether a request that takes long may go on; while that is not known it may."""
    try:
        return reader_of(state, request).tenant == tenant
    except Refused as exc:
        return exc.status == HTTPStatus.SERVICE_UNAVAILABLE


class Standing:
    """Whether a request that is answered bit by bit may have more; cheap enough to be asked before each bit.

    It looks when the version of the catalog has changed, and every second.
    """

    def __init__(self, state: State, request: Request, tenant: str) -> None:
        self._state, self._request, self._tenant = state, request, tenant
        self._version, self._looked_s = state.catalog.version, time.monotonic()
        self._holds = True

    def __call__(self) -> bool:
        """Ask."""
        now_s = time.monotonic()
        if self._state.catalog.version != self._version or now_s - self._looked_s >= _LOOK_S:
            self._holds = still_reads(self._state, self._request, self._tenant)
            self._version, self._looked_s = self._state.catalog.version, now_s
        return self._holds


def bearer_digest_of(state: State, request: Request) -> str:
    """The digest of the secret in the Authorization header, a key that may read reports. Raises as `reader_of`."""
    digest = _bearer(request)
    _find_reader(state, digest, time.time_ns() // 1_000_000)
    return str(digest)


def _bearer(request: Request) -> str | KeyFault:
    secret = read_bearer([value for name, value in request.headers.raw if name == b"authorization"])
    return secret if isinstance(secret, KeyFault) else digest_of(secret)


def _find_reader(state: State, digest: str | KeyFault, now_ms: int, grant: Grant = Grant.REPORTS) -> Reader:
    if isinstance(digest, KeyFault):
        raise Refused(HTTPStatus.UNAUTHORIZED, f"Invalid token: {digest}")
    state.catalog.refresh()
    if not state.catalog.is_ready:
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "The catalog is not ready. Try again.")
    found = key_behind(state.catalog, digest)
    if isinstance(found, FoundKey) and found.is_expired(now_ms):
        found = KeyFault.EXPIRED
    if isinstance(found, KeyFault):
        raise Refused(HTTPStatus.UNAUTHORIZED, f"Invalid token: {found}")
    if not found.has(grant):
        raise Refused(HTTPStatus.FORBIDDEN, f"This key may not do this: it needs the grant '{grant}'")
    tenant = found.record["tenant"]
    return Reader(tenant, (state.catalog.tenant(tenant) or {}).get("zone", "UTC"))
