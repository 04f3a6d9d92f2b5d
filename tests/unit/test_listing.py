"""Listing a tenant's links: all of them, in order, nobody else's, in short looks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from ingest_api import listing
from ingest_api.listing import LINKS_A_LOOK, PAUSE, BadCursor, Listing
from shared.catalog import Catalog, Kind
from shared.catalog.applying import Copy
from shared.catalog.store import KEY_BYTES_MAX, Store
from shared.settings import CatalogSettings
from shared.stored_links import StoredLink, record_of
from tests.support.catalog import MemoryCatalog, link_record


class Slow(MemoryCatalog):
    """Takes its time, and notes from when to when, and for how many links."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[tuple[float, float, int]] = []
        self.takes_s = 0.0

    def links_behind(self, name: bytes, links_max: int) -> list[tuple[bytes, StoredLink]]:
        """As ever."""
        began_s = time.monotonic()
        found = super().links_behind(name, links_max)
        time.sleep(self.takes_s)  # as in the copy, others wait meanwhile
        self.looks.append((began_s, time.monotonic(), len(found)))
        return found


def catalog_of(own: Sequence[int], others: int, promotions: int = 2) -> Slow:
    """Links of `acme` at some numbers, all others of `rival`, in one host."""
    catalog = Slow()
    for number in range(others):
        tenant = "acme" if number in own else "rival"
        key = f"s.example/{number:05}"
        catalog.put("link", key, link_record(key, tenant=tenant, promotion_id=f"p{number % promotions}"))
    return catalog


async def all_pages(
    found: Listing, links_max: int, promotion_id: str | None = None, tenant: str = "acme"
) -> list[list[int]]:
    """The numbers on each page."""
    pages, cursor = [], ""
    while True:
        page = await found.page(tenant, promotion_id, cursor=cursor, links_max=links_max)
        records = [orjson.loads(record) for record in page.records]
        assert {record["tenant"] for record in records} <= {tenant}
        pages.append([int(record["link"].rpartition("/")[2]) for record in records])
        if page.next_cursor is None:
            return pages
        cursor = page.next_cursor


@pytest.mark.parametrize("links_max", [1, 2, 3, 7, 8, 100])
async def test_pages_are_the_tenants_links_in_order(links_max: int) -> None:
    """Each once, none of another tenant's, whatever the size of a page and wherever the others' lie."""
    own = [0, 3, 4, 5, 40, 41, 77]
    pages = await all_pages(Listing(catalog_of(own, 80)), links_max)
    assert [number for page in pages for number in page] == own
    assert all(len(page) == links_max for page in pages[:-1])


async def test_a_promotions_links() -> None:
    """Only its own; another tenant's promotion of that name is another one, and one that is not there has none."""
    found = Listing(catalog_of(range(0, 80, 3), 80))
    assert [n for page in await all_pages(found, 5, "p1") for n in page] == [n for n in range(0, 80, 3) if n % 2]
    assert await all_pages(found, 5, "p9") == [[]]
    assert await all_pages(found, 5, tenant="nobody") == [[]]


async def test_a_page_ends_at_an_own_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many links a page may be short, and goes on behind a link of the tenant's: others' are never told."""
    monkeypatch.setattr(listing, "LINKS_A_PAGE", 10)
    monkeypatch.setattr(listing, "LINKS_A_LOOK", 4)
    found = Listing(catalog_of([1, 30, 31, 60], 80))
    first = await found.page("acme", "p0", cursor="", links_max=100)
    assert [orjson.loads(record)["link"] for record in first.records] == ["s.example/00030"]
    assert first.next_cursor is not None
    assert listing._name_of(first.next_cursor) == b"s.example/00030"
    assert await all_pages(found, 100, "p1") == [[1], [31], []]


async def test_many_bytes_end_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of long records is cut where its bytes are enough."""
    monkeypatch.setattr(listing, "PAGE_BYTES", 700)
    assert [len(page) for page in await all_pages(Listing(catalog_of(range(7), 7)), 100)] == [3, 3, 1]


async def test_what_changes_between_pages() -> None:
    """A cursor holds its place when its link is deleted; a link that comes behind it is listed, one before it is not."""
    catalog = catalog_of(range(6), 6)
    found = Listing(catalog)
    page = await found.page("acme", None, cursor="", links_max=3)
    assert page.next_cursor is not None
    catalog.put("link", "s.example/00002", None)
    for key in ("s.example/00000a", "s.example/00003a"):
        catalog.put("link", key, link_record(key))
    rest = await found.page("acme", None, cursor=page.next_cursor, links_max=100)
    names = [orjson.loads(record)["link"].rpartition("/")[2] for record in rest.records]
    assert (names, rest.next_cursor) == (["00003", "00003a", "00004", "00005"], None)


@pytest.mark.parametrize("cursor", ["!", "a", "ä", "AAAA\n", "=" * 8])
async def test_a_cursor_that_is_none(cursor: str) -> None:
    """Refused, not taken for the beginning."""
    with pytest.raises(BadCursor):
        await Listing(catalog_of([0], 1)).page("acme", None, cursor=cursor, links_max=1)


async def test_looks_are_short_and_apart() -> None:
    """Among many links of others, of all listings of a process: never more than a look at once, and three quarters for clicks."""
    catalog = catalog_of([], 5 * LINKS_A_LOOK // 2)
    catalog.takes_s = 0.002
    found = Listing(catalog)
    await asyncio.gather(*(found.page("acme", None, cursor="", links_max=10) for _ in range(3)))
    assert sorted(number for *_, number in catalog.looks) == [LINKS_A_LOOK // 2] * 3 + [LINKS_A_LOOK] * 6
    for (began_s, ended_s, _), (next_s, *_) in pairwise(catalog.looks):
        assert next_s - ended_s >= 0.95 * PAUSE * (ended_s - began_s)


@pytest.mark.parametrize("links_max", [1, 2, 50, 200])
def test_the_copy_gives_links_behind_a_name(tmp_path: Path, links_max: int) -> None:
    """In the order of their names, each once, packed or not, keys too long for LMDB too; from the beginning and from any name."""
    settings = CatalogSettings(catalog_map_bytes=16 << 20)
    copy = Copy(Store.of(tmp_path, settings.catalog_map_bytes), list(Kind))
    copy.wipe(0)
    keys = [f"s.example/{number}" for number in range(100)] + [f"s.example/{'x' * KEY_BYTES_MAX}{n}" for n in range(9)]
    records: list[Any] = [
        SimpleNamespace(key=f"link:{key}".encode(), value=orjson.dumps(link_record(key)), offset=number)
        for number, key in enumerate(keys)
    ]
    copy.apply(records)
    catalog = Catalog(settings, tmp_path)
    found: list[tuple[bytes, StoredLink]] = []
    while some := catalog.links_behind(found[-1][0] if found else b"", links_max):
        assert len(some) <= links_max
        found += some
    assert sorted(orjson.loads(record_of(link))["link"] for _, link in found) == sorted(keys)
    assert [name for name, _ in found] == sorted(name for name, _ in found)
    assert [link for _, link in found] == [link for _, link in catalog.links_behind(b"", 200)]
    assert catalog.links_behind(b"s.example/4", 1)[0][0] == b"s.example/40"
    assert catalog.links_behind(b"s.example/4!", 1)[0][0] == b"s.example/40", "a name that is not there holds its place"
    assert catalog.links_behind(b"t", 1) == []
    catalog.close()
