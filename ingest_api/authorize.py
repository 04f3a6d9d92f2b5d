"""Who is calling: the Authorization header, the key behind its secret, and the address that failures are counted for.

A secret is looked up by its SHA-256, so no comparison leaks time, and only digests stay in memory. What the catalog
says about a key is remembered per process until the catalog's version changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, NamedTuple, Protocol

from ingest_api.answers import Refusal
from shared import keys
from shared.errors import OperatorError
from shared.events import Source, raw_origin
from shared.http.answer import Header
from shared.keys import Grant, KeyFault

DAY_MS: Final = 86_400_000
GRANT_CLICKS: Final = Grant.CLICKS
GRANT_ADMIN: Final = Grant.ADMIN

_REFUSALS: Final = {
    KeyFault.MISSING: Refusal.AUTHORIZATION_MISSING,
    KeyFault.DOUBLED: Refusal.AUTHORIZATION_DOUBLED,
    KeyFault.MALFORMED: Refusal.AUTHORIZATION_MALFORMED,
    KeyFault.UNKNOWN: Refusal.KEY_UNKNOWN,
    KeyFault.REVOKED: Refusal.KEY_REVOKED,
    KeyFault.EXPIRED: Refusal.KEY_EXPIRED,
}

Network = IPv4Network | IPv6Network


class KeyCatalog(keys.KeyCatalog, Protocol):
    """The part of `shared.catalog.Catalog` that callers need."""

    version: int
    is_ready: bool

    def tenant(self, tenant: str) -> dict[str, Any] | None:
        """The record of a tenant."""


class Caller(NamedTuple):
    """An authenticated key, with everything about it that a request needs, computed once."""

    tenant: str
    key_id: str
    grants: frozenset[str]
    expires_at_ms: int | None
    """When the secret that was used ends; None for never."""
    rate_limit: int
    """Clicks per window."""
    retention_ms: int
    """How long after its message was sent a click counts."""
    is_agent_source: bool
    """Whether the caller's own User-Agent header is the phone's."""
    origin: bytes
    """`raw_origin` of single clicks."""
    batch_origin: bytes
    """`raw_origin` of clicks in batches."""
    limit_header: Header


class Callers:
    """Finds the key behind an Authorization header; remembers at most `cache_max` keys."""

    def __init__(self, catalog: KeyCatalog, *, node: str, cache_max: int, rate_limit: int, retention_days: int) -> None:
        self._catalog = catalog
        self._node = node
        self._cache_max = cache_max
        self._rate_limit = rate_limit
        self._retention_days = retention_days
        self._cache: dict[bytes, Caller] = {}
        self._version = catalog.version

    def find(self, authorization: Sequence[bytes], now_ms: int) -> Caller | Refusal:
        """The caller, given the values of all Authorization headers, or why there is none. Grants are not judged."""
        secret = read_bearer(authorization)
        if isinstance(secret, Refusal):
            return secret
        catalog = self._catalog
        if not catalog.is_ready:
            return Refusal.CATALOG_NOT_READY
        if catalog.version != self._version:
            self._cache.clear()
            self._version = catalog.version
        digest = hashlib.sha256(secret).digest()
        caller = self._cache.get(digest)
        if caller is None:
            found = self._look_up(digest.hex())
            if isinstance(found, Refusal):
                return found
            caller = found
            if len(self._cache) >= self._cache_max:
                del self._cache[next(iter(self._cache))]
            self._cache[digest] = caller
        if caller.expires_at_ms is not None and now_ms >= caller.expires_at_ms:
            return Refusal.KEY_EXPIRED
        return caller

    def _look_up(self, digest: str) -> Caller | Refusal:
        found = keys.key_behind(self._catalog, digest)
        if isinstance(found, KeyFault):
            return _REFUSALS[found]
        record = found.record
        tenant = self._catalog.tenant(record["tenant"])
        if tenant is None:  # no click of a tenant without a record may be answered 200: its row would be rejected
            return Refusal.CATALOG_NOT_READY
        rate_limit = _first(record.get("rate_limit"), tenant.get("rate_limit"), self._rate_limit)
        retention_days = _first(tenant.get("retention_days"), self._retention_days)
        return Caller(
            tenant=record["tenant"],
            key_id=record["key_id"],
            grants=frozenset(record["grants"]),
            expires_at_ms=found.expires_at_ms,
            rate_limit=rate_limit,
            retention_ms=retention_days * DAY_MS,
            is_agent_source=bool(record.get("caller_user_agent")),
            origin=raw_origin(record["tenant"], record["key_id"], self._node, Source.API),
            batch_origin=raw_origin(record["tenant"], record["key_id"], self._node, Source.BATCH),
            limit_header=(b"x-ratelimit-limit", b"%d" % rate_limit),
        )


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


def read_bearer(authorization: Sequence[bytes]) -> bytes | Refusal:
    """The secret in the values of all Authorization headers, or what is wrong with them."""
    found = keys.read_bearer(authorization)
    return _REFUSALS[found] if isinstance(found, KeyFault) else found


def parse_networks(text: str) -> tuple[Network, ...]:
    """Comma-separated networks or addresses. Raises OperatorError naming the wrong one."""
    networks: list[Network] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            networks.append(ip_network(part, strict=False))
        except ValueError as exc:
            raise OperatorError(f"CLICKLEDGER_API_TRUSTED_PROXIES: {part!r} is not a network: {exc}") from exc
    return tuple(networks)


def client_address(peer: str, forwarded_for: Sequence[bytes], trusted: Sequence[Network]) -> str:
    """The peer's address, or the one a trusted peer forwards for.

    X-Forwarded-For is read from the right, because only what our own proxies appended can be believed: the first
    address that is not a trusted proxy is the client.
    """
    address = _parse_address(peer)
    if address is None or not _is_trusted(address, trusted):
        return peer
    client = peer
    hops = b",".join(forwarded_for).decode("latin-1").split(",")
    for hop in reversed(hops):
        address = _parse_address(hop.strip())
        if address is None:
            break
        client = str(address)
        if not _is_trusted(address, trusted):
            break
    return client


def _is_trusted(address: IPv4Address | IPv6Address, trusted: Sequence[Network]) -> bool:
    return any(address in network for network in trusted)


def _parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """An address as proxies write it: plain, in brackets, with a port; IPv4-mapped ones as IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def find_headers(headers: Sequence[Header], wanted: frozenset[bytes]) -> Mapping[bytes, list[bytes]]:
    """The values of each wanted header that is there, in order."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in wanted:
            found.setdefault(name, []).append(value)
    return found
