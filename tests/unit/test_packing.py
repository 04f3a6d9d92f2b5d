"""Links compressed in the copy: every link comes back, from whichever dictionary, and they are small."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import lmdb
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.catalog import Catalog, Kind
from shared.catalog.applying import Copy
from shared.catalog.packing import (
    DICTIONARIES_MAX,
    FIRST_LOOK,
    LOOK_EVERY,
    SAMPLES,
    Packer,
    Unpacker,
    common_text,
)
from shared.catalog.store import Store
from shared.settings import CatalogSettings
from shared.stored_links import StoredLink, record_of, store_link

Table = dict[bytes, bytes]


@contextmanager
def a_store() -> Iterator[Store]:
    """An empty copy."""
    with TemporaryDirectory() as folder:
        yield Store.at(Path(folder), 16 << 20)


def link(number: int, campaign: str = "spring", to: str = "") -> StoredLink:
    """One of a campaign."""
    record = {
        "v": 1,
        "tenant": "acme",
        "link": f"go.example/s/{number * 7919:07x}",
        "promotion_id": campaign,
        "recipient": to or f"r{number * 104729:x}",
        "long_url": f"https://shop.example/{campaign * 3}?utm_source=sms&utm_campaign={campaign}&to={number:x}",
        "sent_at": 1_790_000_000_000 + number // 100,
        "expires_at": None,
        "disabled": False,
        "match": "exact",
        "registered_at": 1_790_000_000_000 + number,
    }
    return store_link(orjson.dumps(record), record)


def write(store: Store, packer: Packer, links: Sequence[StoredLink], at_once: int = 1_000) -> None:
    """Write links under their numbers, behind those that are there."""
    for begin in range(0, len(links), at_once):
        with store.env.begin(write=True) as txn:
            some = links[begin : begin + at_once]
            packer.refresh(txn, store)
            packer.look_at(txn, store, some)
            first = txn.stat(store.records)["entries"]
            for number, each in enumerate(some, first):
                txn.put(b"%08d" % number, packer.pack(each), db=store.records)


def read(store: Store, unpacker: Unpacker) -> list[StoredLink]:
    """All links, each by itself and all together."""
    with store.env.begin() as txn, txn.cursor(store.records) as cursor:
        unpacker.refresh(txn, store)
        packed = list(cursor.iternext(keys=False))
    links = unpacker.unpack_all(packed)
    assert links == [unpacker.unpack(each) for each in packed]
    return links


def stored_bytes(store: Store) -> int:
    """Bytes of all values."""
    with store.env.begin() as txn, txn.cursor(store.records) as cursor:
        return sum(map(len, cursor.iternext(keys=False)))


def names(store: Store) -> int:
    """How many dictionaries there are."""
    unpacker = Unpacker()
    read(store, unpacker)
    return len(unpacker.names) // 16


_texts = st.one_of(st.binary(min_size=1, max_size=40), st.sampled_from([bytes(link(n)) for n in range(20)]))


@given(st.lists(_texts, max_size=300), st.integers(1, 300))
def test_every_link_comes_back(texts: list[bytes], at_once: int) -> None:
    """Whatever stands in it, and however many are written together."""
    links = [StoredLink(text) for text in texts]
    with a_store() as store:
        write(store, Packer(), links, at_once)
        assert read(store, Unpacker()) == links
        assert stored_bytes(store) <= sum(map(len, links)) + len(links)


def test_links_of_a_campaign_are_small() -> None:
    """A quarter of their size, at most."""
    links = [link(number) for number in range(3_000)]
    with a_store() as store:
        write(store, Packer(), links, at_once=100)
        assert stored_bytes(store) < sum(map(len, links)) / 4


def test_links_that_come_one_by_one_get_a_dictionary_too() -> None:
    """The first ones stay as they are."""
    links = [link(number) for number in range(2 * FIRST_LOOK)]
    with a_store() as store:
        write(store, Packer(), links, at_once=1)
        assert read(store, Unpacker()) == links
        assert stored_bytes(store) < sum(map(len, links)) * 0.65


def test_another_campaign_gets_a_dictionary_of_its_own() -> None:
    """When its links have been seen for a while; the former one's links are read as before, and its dictionary is used again."""
    campaigns = ("spring", "an-autumn-of-offers", "spring")
    links = [link(number, campaign) for campaign in campaigns for number in range(3 * LOOK_EVERY)]
    with a_store() as store:
        write(store, Packer(), links, at_once=LOOK_EVERY)
        assert read(store, Unpacker()) == links
        assert names(store) == 2
        assert stored_bytes(store) < sum(map(len, links)) / 4


def test_a_follower_that_starts_again_goes_on() -> None:
    """With the dictionaries that are there."""
    links = [link(number) for number in range(400)]
    with a_store() as store:
        for begin in range(0, 400, 100):
            write(store, Packer(), links[begin : begin + 100])
        assert read(store, Unpacker()) == links
        assert names(store) == 1


def test_dictionaries_are_bounded() -> None:
    """Links of ever other campaigns are stored all the same."""
    campaigns = [f"{number * 7919**5:x}" for number in range(DICTIONARIES_MAX + 8)]
    links = [link(number, campaign * 8) for campaign in campaigns for number in range(LOOK_EVERY)]
    with a_store() as store:
        write(store, Packer(), links, at_once=LOOK_EVERY)
        assert names(store) == DICTIONARIES_MAX
        assert read(store, Unpacker()) == links


def _wipe(store: Store) -> None:
    with store.env.begin(write=True) as txn:
        for table in (store.records, store.meta):
            txn.drop(table, delete=False)


def _again(store: Store, packer: Packer, campaign: str) -> list[StoredLink]:
    links = [link(number, campaign) for number in range(200)]
    write(store, packer, links)
    return links


def test_a_copy_that_is_made_anew_has_other_dictionaries() -> None:
    """Who has read the former one, or written it, goes by what stands there now."""
    reader, packer = Unpacker(), Packer()
    fill: list[Callable[[], Packer]] = [lambda: packer, lambda: packer, Packer]
    with a_store() as store:
        for campaign, writer in zip(("spring", "autumn", "winter"), fill, strict=True):
            _wipe(store)
            links = _again(store, writer(), campaign)
            assert read(store, reader) == links
            assert read(store, Unpacker()) == links
        _wipe(store)
        assert read(store, reader) == []


def test_a_transaction_that_is_given_up_leaves_nothing() -> None:
    """Its dictionary is not there: what is written next must not need it."""
    packer, links = Packer(), [link(number) for number in range(200)]
    with a_store() as store:
        with suppress(lmdb.MapFullError), store.env.begin(write=True) as txn:
            packer.refresh(txn, store)
            packer.look_at(txn, store, links)
            raise lmdb.MapFullError
        assert packer.names
        write(store, packer, links[:10])
        assert read(store, Unpacker()) == links[:10]


def test_dictionaries_that_cannot_be_loaded_are_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that failed once does not believe that it has them."""
    links = [link(number) for number in range(200)]
    with a_store() as store:
        write(store, Packer(), links)
        reader = Unpacker()
        with monkeypatch.context() as broken, store.env.begin() as txn:
            broken.setattr("shared.catalog.packing._dictionary", _fail)
            with pytest.raises(MemoryError):
                reader.refresh(txn, store)
        assert read(store, reader) == links


def _fail(_content: bytes) -> None:
    raise MemoryError


def test_a_dictionary_has_nothing_of_a_single_recipient() -> None:
    """Somebody's links can be deleted, and their dictionary stays."""
    everybody = [link(number, to=f"+91 98{number * 1009:08d}") for number in range(100)]
    one = [link(number, to="Zoë Example <zoe@example.org>") for number in range(100)]
    for links in (everybody[:SAMPLES], one[:SAMPLES], everybody[: SAMPLES // 2] + one[: SAMPLES // 2]):
        text = common_text(links)
        assert (b"https://shop.example/springspringspring?utm_source=sms" in text) == (links[0] not in one)
        for each in links:
            record = orjson.loads(record_of(each))
            for name in ("recipient", "link"):
                assert orjson.dumps(record[name])[1:-1] not in text
        assert b"example.org" not in text


@pytest.mark.parametrize("kinds", [2, 3])
@pytest.mark.parametrize("at_once", [1, 100, 1_000])
def test_links_of_some_kinds_in_turn_are_all_small(kinds: int, at_once: int) -> None:
    """What is compared is chosen by chance, so no kind is left out."""
    texts = ("spring", "goodbye-and-thanks-for-all", "0123456789")[:kinds]
    links = [link(number, texts[number % kinds]) for number in range(6_000)]
    with a_store() as store:
        write(store, Packer(), links, at_once)
        with store.env.begin() as txn, txn.cursor(store.records) as cursor:
            packed = list(cursor.iternext(keys=False))[3_000:]
    for kind in range(kinds):
        of_kind = [
            (len(small), len(each))
            for small, each in zip(packed[kind::kinds], links[3_000 + kind :: kinds], strict=True)
        ]
        assert sum(small for small, _ in of_kind) < sum(size for _, size in of_kind) / 3


def test_long_links_are_small_too() -> None:
    """A dictionary has their beginnings."""
    links = [link(number, "a-long-parameter-of-a-long-address" * 20) for number in range(400)]
    with a_store() as store:
        write(store, Packer(), links, at_once=100)
        assert stored_bytes(store) < sum(map(len, links)) / 4
        assert read(store, Unpacker()) == links


def test_a_follower_that_begins_chooses_the_best() -> None:
    """Not the newest: a service that is often started again writes small links, too."""
    with a_store() as store:
        write(store, Packer(), [link(number) for number in range(1_000)])
        write(store, Packer(), [link(number, "an-autumn-of-offers" * 4) for number in range(1_000)])
        assert names(store) == 2
        before = stored_bytes(store)
        again = [link(number) for number in range(1_000, 2_000)]
        write(store, Packer(), again)
        assert stored_bytes(store) - before < sum(map(len, again)) / 4


def test_a_copy_that_its_follower_makes_anew() -> None:
    """As the follower does it, with links that are as they were and one that has gone."""

    def records(campaign: str) -> list[Any]:
        links = [(b"link:h/%d" % number, record_of(link(number, campaign))) for number in range(300)]
        return [SimpleNamespace(key=key, value=value, offset=at) for at, (key, value) in enumerate(links)]

    with TemporaryDirectory() as folder:
        settings = CatalogSettings(catalog_map_bytes=16 << 20)
        copy = Copy(Store.of(Path(folder), settings.catalog_map_bytes), list(Kind))
        for campaign in ("spring", "autumn", "spring"):
            copy.wipe(0)
            copy.apply(records(campaign))
            copy.apply([SimpleNamespace(key=b"link:h/7", value=None, offset=300)])  # type: ignore[list-item]
            catalog = Catalog(settings, Path(folder))
            expected = {each.key[5:].decode(): each.value for each in records(campaign) if each.key != b"link:h/7"}
            assert dict(catalog.scan(Kind.LINK)) == expected
            catalog.close()
