"""Links compressed in the copy: every link comes back, from whichever dictionary, and they are small."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
from hypothesis import given
from hypothesis import strategies as st

from shared.catalog.packing import DICTIONARIES_MAX, FIRST_LOOK, LOOK_EVERY, Packer, Unpacker
from shared.catalog.store import Store
from shared.stored_links import StoredLink, store_link

Table = dict[bytes, bytes]


@contextmanager
def a_store() -> Iterator[Store]:
    """An empty copy."""
    with TemporaryDirectory() as folder:
        yield Store.at(Path(folder), 16 << 20)


def link(number: int, campaign: str = "spring") -> StoredLink:
    """One of a campaign."""
    record = {
        "v": 1,
        "tenant": "acme",
        "link": f"go.example/s/{number * 7919:07x}",
        "promotion_id": campaign,
        "recipient": f"r{number * 104729:x}",
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


def test_links_of_a_campaign_are_small() -> None:
    """A sixth of their size, at most."""
    links = [link(number) for number in range(3_000)]
    with a_store() as store:
        write(store, Packer(), links, at_once=100)
        assert stored_bytes(store) < sum(map(len, links)) / 6


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
        assert stored_bytes(store) < sum(map(len, links)) / 6


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
        _wipe(store)
        assert read(store, reader) == []
