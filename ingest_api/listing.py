"""A tenant's links, a page at a time, out of the copy that clicks are answered from (docs/adr/0048).

The copy has no order but that of its keys, so a listing looks at everybody's links. It does so in short looks with pauses in
between, whoever asks, so that clicks keep most of the event loop. A page ends at a link of the tenant's own or at the end:
where it goes on says nothing about the links of others.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import orjson

from shared.stored_links import StoredLink, is_of, record_of

LINKS_A_LOOK: Final = 1_000
"""Links looked at between two turns of the event loop: 1 to 3 ms."""
PAUSE: Final = 3
"""Times as long as a look took nobody looks: all listings of a process together take a quarter of its loop."""
LINKS_A_PAGE: Final = 20_000
"""Links looked at, from which on a page ends at the tenant's next one, wanted or not: some 100 ms."""
PAGE_BYTES: Final = 1 << 20
"""Of records, from which on a page ends."""


CURSOR_CHARS_MAX: Final = 700
"""Of a name of 500 bytes."""


class BadCursor(ValueError):
    """A text that no page gave."""


class ListedCatalog(Protocol):
    """The part of `shared.catalog.Catalog` that is needed here."""

    def links_behind(self, name: bytes, links_max: int) -> Sequence[tuple[bytes, StoredLink]]:
        """The links behind a name, each with its own."""


class LinksPage(NamedTuple):
    """Some links of a tenant."""

    records: list[bytes]
    """JSON, in the order of their keys."""
    next_cursor: str | None
    """Where the next page begins; None when there is no more."""


class Listing:
    """Reads pages, one look at a time for all callers."""

    def __init__(self, catalog: ListedCatalog) -> None:
        self._catalog = catalog
        self._one_look = asyncio.Lock()
        self._next_look_s = 0.0

    async def page(self, tenant: str, promotion_id: str | None, *, cursor: str, links_max: int) -> LinksPage:
        """The tenant's links from a cursor on ('': from the beginning), of one promotion or of all.

        Fewer than `links_max`, even none, need not be the end. Raises BadCursor.
        """
        page = _Page(tenant, promotion_id, links_max, _name_of(cursor))
        while page.goes_on_behind is not None and not page.is_full:
            await self._look(page)
        return LinksPage(page.records, None if page.goes_on_behind is None else _cursor_of(page.goes_on_behind))

    async def _look(self, page: _Page) -> None:
        async with self._one_look:
            await asyncio.sleep(self._next_look_s - time.monotonic())  # the loop's own clock stands still during a look
            began_s = time.monotonic()
            assert page.goes_on_behind is not None
            page.take(self._catalog.links_behind(page.goes_on_behind, LINKS_A_LOOK))
            ended_s = time.monotonic()
            self._next_look_s = ended_s + PAUSE * (ended_s - began_s)


class _Page:
    """What was found so far."""

    def __init__(self, tenant: str, promotion_id: str | None, links_max: int, behind: bytes) -> None:
        self.records: list[bytes] = []
        self.goes_on_behind: bytes | None = behind
        """The name of the last link that was looked at; None: there are no more."""
        self.is_full = False
        self._tenant = tenant.encode()
        self._promotion_id = promotion_id
        self._links_max = links_max
        self._looked_at = self._bytes = 0

    def take(self, links: Sequence[tuple[bytes, StoredLink]]) -> None:
        """Look at the next links, until the page is full. It is so at a link of the tenant's only."""
        for number, (name, link) in enumerate(links, self._looked_at + 1):
            if is_of(link, self._tenant):
                self._take_own(record_of(link))
                self.is_full |= number >= LINKS_A_PAGE
                if self.is_full:
                    self.goes_on_behind = name
                    return
        self._looked_at += len(links)
        self.goes_on_behind = links[-1][0] if len(links) == LINKS_A_LOOK else None

    def _take_own(self, record: bytes) -> None:
        if self._promotion_id is None or orjson.loads(record).get("promotion_id") == self._promotion_id:
            self.records.append(record)
            self._bytes += len(record)
            self.is_full = len(self.records) >= self._links_max or self._bytes >= PAGE_BYTES


def _cursor_of(name: bytes) -> str:
    return base64.urlsafe_b64encode(name).rstrip(b"=").decode()


def _name_of(cursor: str) -> bytes:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BadCursor("cursor: not one that a page gave") from exc
