"""Registering, listing and reading links and promotions: the shell between HTTP and the catalog.

Ownership of a short URL. A line is checked against this machine's copy of the catalog, which must be level with the
topic. Two tenants that register the same free URL within the copy's lag (tens of milliseconds) both pass that check,
and the later record stands: the catalog is compacted, so only its last record is sure to be seen by every reader, and a
first-writer rule would make old and new readers disagree. Every write is read back, so a tenant whose record was
replaced before that is told that it does not have the URL; one whose record is replaced just after finds out from
`links/resolve`. Nobody ever resolves to two tenants.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import orjson

from ingest_api.answers import describe
from ingest_api.listing import LinksPage, ListedCatalog, Listing
from ingest_api.normalise import normalise
from shared.catalog import CatalogWriter, Entry, Kind, promotion_key
from shared.errors import TransientError
from shared.links import OWNED_BY_OTHER, GoodLine, RefusedLine, read_link, read_promotion

T = TypeVar("T")

SEEN_SECONDS_MAX: Final = 5.0
"""How long a write waits to be read back; after that it is registered but may not be visible here yet."""

LINES_AT_ONCE: Final = 100
"""Lines between two turns of the event loop, about 5 ms: clicks are answered by the same process meanwhile."""


class RegistryCatalog(ListedCatalog, Protocol):
    """The part of `shared.catalog.Catalog` that is needed here."""

    is_current: bool

    def link(self, key: str) -> bytes | None:
        """A link's record."""

    def promotion(self, tenant: str, promotion_id: str) -> dict[str, Any] | None:
        """A promotion's record."""

    async def wait_for(self, version: int, timeout_s: float) -> None:
        """Wait until the copy holds a version. Raises TransientError."""


class Registered(NamedTuple):
    """Results in the order of the lines, and the catalog version that holds them (-1: nothing was written)."""

    results: list[GoodLine | RefusedLine]
    version: int


class NotAShortUrl(ValueError):
    """Why a text has no key."""


def short_url_key(short_url: str) -> str:
    """The key of a short URL. Raises NotAShortUrl."""
    key, refusal = normalise(short_url)
    if refusal is not None:
        raise NotAShortUrl(describe(refusal))
    return key


class Registry:
    """Links and promotions of the caller's tenant."""

    def __init__(self, writer: Callable[[], CatalogWriter], catalog: RegistryCatalog) -> None:
        """`writer()` raises TransientError while there is no connection to Kafka."""
        self._writer = writer
        self._catalog = catalog
        self._listing = Listing(catalog)

    async def put_links(self, tenant: str, lines: Sequence[object], now_ms: int) -> Registered:
        """Register links. Raises TransientError and OperatorError when nothing, or not surely anything, was written."""
        self._require_current()

        def read(fields: Mapping[str, object]) -> GoodLine | RefusedLine:
            return read_link(fields, tenant=tenant, now_ms=now_ms, to_key=short_url_key, registered=self._registered)

        results = [_read(line, read) async for line in _in_turns(lines)]
        entries = [Entry(Kind.LINK, line.id, line.record) for line in results if isinstance(line, GoodLine)]
        version = await self._write(entries)
        return Registered([self._confirm(result, tenant) async for result in _in_turns(results)], version)

    async def put_promotions(self, tenant: str, lines: Sequence[object]) -> Registered:
        """Register promotions. Errors as `put_links`."""
        results = [_read(line, lambda fields: read_promotion(fields, tenant=tenant)) async for line in _in_turns(lines)]
        good = [line for line in results if isinstance(line, GoodLine)]
        entries = [Entry(Kind.PROMOTION, promotion_key(tenant, line.id), line.record) for line in good]
        return Registered(results, await self._write(entries))

    def link(self, tenant: str, short_url: str) -> dict[str, Any] | None:
        """The tenant's link of a short URL, by its exact key. Raises NotAShortUrl."""
        record = self._registered(short_url_key(short_url))
        return record if record is not None and record["tenant"] == tenant else None

    async def links(self, tenant: str, promotion_id: str | None, *, cursor: str, links_max: int) -> LinksPage:
        """A page of the tenant's links, see `Listing.page`. Raises BadCursor."""
        return await self._listing.page(tenant, promotion_id, cursor=cursor, links_max=links_max)

    def promotion(self, tenant: str, promotion_id: str) -> dict[str, Any] | None:
        """The tenant's promotion."""
        return self._catalog.promotion(tenant, promotion_id)

    async def delete_link(self, tenant: str, short_url: str) -> int | None:
        """Delete the tenant's link; the version of the deletion, None when there is none. Errors as `put_links`."""
        self._require_current()
        record = self.link(tenant, short_url)
        return None if record is None else await self._write([Entry(Kind.LINK, record["link"], None)])

    async def delete_promotion(self, tenant: str, promotion_id: str) -> int | None:
        """Delete the tenant's promotion, as `delete_link`. Its links stay and resolve to no campaign."""
        self._require_current()
        if self.promotion(tenant, promotion_id) is None:
            return None
        return await self._write([Entry(Kind.PROMOTION, promotion_key(tenant, promotion_id), None)])

    async def _write(self, entries: list[Entry]) -> int:
        """Write and wait until this machine's copy has it; the version, -1 when there was nothing to write."""
        if not entries:
            return -1
        version = await self._writer().put_many(entries)
        with contextlib.suppress(TransientError):  # written all the same; the caller learns the version to wait for
            await self._catalog.wait_for(version, SEEN_SECONDS_MAX)
        return version

    def _confirm(self, result: GoodLine | RefusedLine, tenant: str) -> GoodLine | RefusedLine:
        if isinstance(result, RefusedLine):
            return result
        record = self._registered(result.id)
        return OWNED_BY_OTHER if record is not None and record["tenant"] != tenant else result

    def _registered(self, key: str) -> dict[str, Any] | None:
        record = self._catalog.link(key)
        return None if record is None else orjson.loads(record)

    def _require_current(self) -> None:
        if not self._catalog.is_current:
            raise TransientError("the catalog's copy is behind its topic: whose a short URL is, is not known now")


async def _in_turns(lines: Sequence[T]) -> AsyncIterator[T]:
    """The lines, letting others run in between."""
    for number, line in enumerate(lines):
        if number % LINES_AT_ONCE == 0:
            await asyncio.sleep(0)
        yield line


def _read(line: object, read: Callable[[Mapping[str, object]], GoodLine | RefusedLine]) -> GoodLine | RefusedLine:
    return read(line) if isinstance(line, dict) else RefusedLine("the line is not a JSON object")
