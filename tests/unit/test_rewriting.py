"""A loose copy is rewritten: the same records in fewer pages, and nobody ever reads less than all of them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.catalog import Catalog, Kind
from shared.catalog.applying import Copy
from shared.catalog.rewriting import is_loose, rewrite
from shared.catalog.store import Store, current, heard_file, remove_others, turn_to
from shared.settings import CatalogSettings
from tests.unit.test_packing import link, record_of

SETTINGS = CatalogSettings(catalog_map_bytes=64 << 20)
LINKS = 10_000
DENSE = b"dense"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is a large copy here."""
    monkeypatch.setattr("shared.catalog.rewriting.PAGES_MIN", 50)
    monkeypatch.setattr("shared.catalog.rewriting.PAUSE_S", 0.0)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """A copy of links in no order, with a tenant and a key, complete."""
    copy = Copy(Store.of(tmp_path, SETTINGS.catalog_map_bytes), list(Kind))
    copy.wipe(0)
    others = {b"tenant:acme": b"{}", b"key:k1": b'{"key_id":"k1","secrets":[{"digest":"aa"}]}'}
    apply(copy, links(range(LINKS)) | others)
    copy.note(copy.noted().position, copy.noted().position, is_complete=True)
    return copy


def links(numbers: range, campaign: str = "spring") -> dict[bytes, bytes]:
    """Records by key, in no order."""
    order = list(numbers)
    Random(1).shuffle(order)
    return {b"link:go.example/%016x" % (n * 0x9E3779B97F4A7C15 % 2**64): record_of(link(n, campaign)) for n in order}


def apply(copy: Copy, records: Mapping[bytes, bytes | None]) -> None:
    """Apply records behind those that were applied."""
    at = copy.noted().position
    read: list[Any] = [SimpleNamespace(key=k, value=v, offset=at + n) for n, (k, v) in enumerate(records.items())]
    for begin in range(0, len(read), 1_000):
        copy.apply(read[begin : begin + 1_000])


def tables(store: Store) -> list[list[tuple[bytes, bytes]]]:
    """All that a store holds, but for the note of how dense it is."""
    with store.env.begin() as txn:
        return [[each for each in txn.cursor(table) if each[0] != DENSE] for table in store.tables]


def pages(store: Store) -> int:
    """Leaf pages of the links."""
    with store.env.begin() as txn:
        return int(txn.stat(store.links)["leaf_pages"])


def fill(store: Store) -> float:
    """The share of the links' pages that is used."""
    return sum(len(key) + len(value) + 10 for key, value in tables(store)[0]) / (pages(store) * 4_080)


def rewritten(source: Store, folder: Path) -> Store:
    """The rewritten store."""
    store = asyncio.run(rewrite(source, folder))
    assert store is not None
    return store


def turned(copy: Copy, folder: Path) -> Copy:
    """Rewrite a copy, and turn to the new one as the follower does."""
    store = rewritten(copy.store, folder)
    turn_to(folder, store.path)
    remove_others(folder)
    return Copy(store, list(Kind))


_records = st.dictionaries(
    st.binary(min_size=1, max_size=500), st.binary(max_size=60) | st.integers(0, 5_000).map(bytes), max_size=100
)


@settings(max_examples=40)
@given(_records)
def test_a_rewritten_store_holds_the_same(records: dict[bytes, bytes]) -> None:
    """Whatever keys and values it has, those too that no page holds."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        source = Store.of(folder, 16 << 20)
        with source.env.begin(write=True) as txn:
            for table in source.tables:
                txn.cursor(table).putmulti(records.items())
        assert tables(rewritten(source, folder)) == tables(source)


def test_pages_are_full_but_for_a_rest(copy: Copy, tmp_path: Path) -> None:
    """A tenth of each is free; the copy takes a quarter less than it did."""
    store = rewritten(copy.store, tmp_path)
    assert tables(store) == tables(copy.store)
    assert fill(copy.store) < 0.72
    assert 0.85 < fill(store) < 0.93


def test_links_that_are_added_later_split_few_pages(copy: Copy, tmp_path: Path) -> None:
    """Full pages would all be split by a few links more, and stay half empty."""
    copy = turned(copy, tmp_path)
    before = pages(copy.store)
    apply(copy, links(range(LINKS, LINKS * 105 // 100)))
    apply(copy, links(range(LINKS // 20), "summer"))
    assert pages(copy.store) < before * 1.06
    assert not is_loose(copy.store)


def test_a_copy_is_rewritten_when_it_is_loose_and_large(
    copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once when it is complete, then when it has grown by a good part; a small one never."""
    assert is_loose(copy.store)
    copy = turned(copy, tmp_path)
    assert not is_loose(copy.store)
    apply(copy, links(range(LINKS, LINKS * 125 // 100)))
    assert is_loose(copy.store)
    copy = turned(copy, tmp_path)
    assert not is_loose(copy.store)
    apply(copy, dict.fromkeys(links(range(LINKS // 2))))
    assert is_loose(copy.store)
    monkeypatch.setattr("shared.catalog.rewriting.PAGES_MIN", 2 * pages(copy.store))
    assert not is_loose(copy.store)


def test_a_copy_that_is_read_anew_is_rewritten_anew(copy: Copy, tmp_path: Path) -> None:
    """How dense a former one was says nothing of it."""
    copy = turned(copy, tmp_path)
    copy.wipe(0)
    apply(copy, links(range(LINKS)))
    assert is_loose(copy.store)


def test_a_snapshot_is_not_newer_than_its_proof(copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a follower proves while a reader takes its snapshot does not count for it: the snapshot may have an older end."""
    heard_file(tmp_path).touch()
    os.utime(heard_file(tmp_path), (1_000, 1_000))
    catalog = Catalog(SETTINGS, tmp_path)

    def proved_meanwhile(folder: Path) -> Path:
        heard_file(folder).touch()
        return current(folder)

    monkeypatch.setattr("shared.catalog.reader.current", proved_meanwhile)
    catalog.refresh()
    assert catalog.age_ms > 1_000_000
    catalog.refresh()
    assert catalog.age_ms < 60_000
    catalog.close()


def test_a_reader_goes_over_with_its_next_snapshot(copy: Copy, tmp_path: Path) -> None:
    """Until then it reads the former copy, whose files may be gone; what was applied since is there afterwards."""
    catalog = Catalog(SETTINGS, tmp_path)
    before = dict(catalog.scan(Kind.LINK))
    assert len(before) == LINKS
    scan = catalog.scan(Kind.LINK)
    first = next(scan)
    copy = turned(copy, tmp_path)
    apply(copy, {b"link:h/new": b"{}", b"tenant:acme": None})
    assert dict([first, *scan]) == before
    assert catalog.tenant("acme") == {}
    assert catalog.refresh()
    assert (catalog.tenant("acme"), catalog.link("h/new"), catalog.is_complete) == (None, b"{}", True)
    assert dict(catalog.scan(Kind.LINK)) == before | {"h/new": b"{}"}
    assert {path.name for path in tmp_path.iterdir()} == {"current", copy.store.path.name}
    catalog.close()


_READS = """
import sys
from pathlib import Path
from random import choice
from shared.catalog import Catalog
from shared.settings import CatalogSettings
keys = sys.stdin.read().split()
settings, folder = CatalogSettings(catalog_map_bytes=64 << 20), Path(sys.argv[1])
old, reads = Catalog(settings, folder), 0
while old.tenant("stop") is None:
    new = Catalog(settings, folder)  # this process opens the copy again and again, and one stays open
    for catalog in (old, new):
        catalog.refresh()
        some = [choice(keys) for _ in range(20)]
        assert catalog.is_complete, "not complete"
        assert catalog.exact_links(some) is not None, "a link is missing"
        assert catalog.key_by_digest("aa"), "a key is missing"
    new.close()
    if not reads:
        print("reading", flush=True)
    reads += 1
print(reads)
"""


def test_no_reader_misses_a_link(copy: Copy, tmp_path: Path) -> None:
    """Another process that reads, and opens the copy anew, all the time, while it is rewritten again and again."""
    command = [sys.executable, "-c", _READS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("\n".join(key[5:].decode() for key in links(range(LINKS))))
        child.stdin.close()
        assert child.stdout.readline() == "reading\n"
        for _ in range(30):
            copy = turned(copy, tmp_path)
        apply(copy, {b"tenant:stop": b"{}"})
        assert int(child.stdout.read()) > 30
    assert child.returncode == 0


_WRITES = """
import asyncio, sys
from pathlib import Path
from shared.catalog import rewriting
from shared.catalog.store import Store, current
rewriting.AT_ONCE, rewriting.PAUSE_S = 500, 0.2
async def main():
    folder = Path(sys.argv[1])
    writing = asyncio.create_task(rewriting.rewrite(Store.of(folder, 64 << 20), folder))
    await asyncio.sleep(0.7)
    print("writing", flush=True)
    await writing
asyncio.run(main())
"""


def test_a_copy_survives_a_kill_while_it_is_rewritten(copy: Copy, tmp_path: Path) -> None:
    """What was half-written is removed, and nobody reads it."""
    before = tables(copy.store)
    with subprocess.Popen([sys.executable, "-c", _WRITES, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        child.kill()
    (left,) = tmp_path.glob("copy-*")
    half = Store.at(left, SETTINGS.catalog_map_bytes)
    with half.env.begin() as txn:
        assert 0 < txn.stat(half.links)["entries"] < LINKS
    assert current(tmp_path) == tmp_path
    remove_others(tmp_path)
    assert not left.exists()
    assert tables(Store.of(tmp_path, SETTINGS.catalog_map_bytes)) == before
    turned(copy, tmp_path)


def test_a_rewriting_that_is_given_up_changes_nothing(
    copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that stops does not wait for it."""
    monkeypatch.setattr("shared.catalog.rewriting.PAUSE_S", 60.0)
    before = tables(copy.store)

    async def give_up() -> None:
        writing = asyncio.create_task(rewrite(copy.store, tmp_path))
        await asyncio.sleep(0.2)
        writing.cancel()
        await asyncio.wait([writing])
        assert writing.cancelled()

    asyncio.run(give_up())
    remove_others(tmp_path)
    assert tables(Store.of(tmp_path, SETTINGS.catalog_map_bytes)) == before
    assert not list(tmp_path.glob("copy-*"))


@pytest.mark.parametrize("lacks", ["map", "disk"])
def test_without_room_a_copy_stays_as_it_is(
    copy: Copy, tmp_path: Path, lacks: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says why."""
    before = tables(copy.store)
    if lacks == "map":
        copy.store.map_bytes = 1 << 20
    else:
        monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=1_000_000))
    assert asyncio.run(rewrite(copy.store, tmp_path)) is None
    assert "could not be rewritten" in caplog.text
    remove_others(tmp_path)
    assert not list(tmp_path.glob("copy-*"))
    assert tables(copy.store) == before
