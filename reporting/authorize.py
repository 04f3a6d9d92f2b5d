"""Who may read: the tenant behind a request's key. A key sees its own tenant, whatever the request says."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

from reporting.problems import Refused
from shared.keys import Grant, KeyCatalog, KeyFault, find_key, read_bearer


class Directory(KeyCatalog, Protocol):
    """The part of `shared.catalog.Catalog` that reports need."""

    is_ready: bool

    def refresh(self) -> bool:
        """Renew the snapshot."""

    def tenant(self, tenant: str) -> dict[str, Any] | None:
        """The record of a tenant."""


class Reader(NamedTuple):
    """An authenticated key with the grant `reports`."""

    tenant: str
    zone: str
    """Time zone of the tenant's days."""


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
