"""Who may read: the tenant behind a request's key. A key sees its own tenant, whatever the request says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import NamedTuple

from fastapi import Request

from reporting.problems import Refused
from reporting.state import Directory, State
from shared.keys import Grant, KeyFault, find_key, read_bearer


class Reader(NamedTuple):
    """An authenticated key with the grant `reports`."""

    tenant: str
    zone: str
    """Time zone of the tenant's days."""


def reader_of(state: State, request: Request) -> Reader:
    """Who asks, by the newest catalog. Every route calls this. Raises as `find_reader` does."""
    values = [value for name, value in request.headers.raw if name == b"authorization"]
    state.catalog.refresh()
    return find_reader(state.catalog, values, time.time_ns() // 1_000_000)


def find_reader(catalog: Directory, authorization: Sequence[bytes], now_ms: int) -> Reader:
    """The reader behind the values of all Authorization headers.

    Raises Refused: 401 without a valid key, 403 without the grant, 503 while the catalog is not ready.
    """
    secret = read_bearer(authorization)
    if isinstance(secret, KeyFault):
        raise Refused(HTTPStatus.UNAUTHORIZED, f"Invalid token: {secret}")
    if not catalog.is_ready:
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "The catalog is not ready. Try again.")
    found = find_key(catalog, secret, now_ms)
    if isinstance(found, KeyFault):
        raise Refused(HTTPStatus.UNAUTHORIZED, f"Invalid token: {found}")
    if not found.has(Grant.REPORTS):
        raise Refused(HTTPStatus.FORBIDDEN, "This key may not read reports: it needs the grant 'reports'")
    tenant = found.record["tenant"]
    return Reader(tenant, (catalog.tenant(tenant) or {}).get("zone", "UTC"))
