"""Records for webhooks that are behind: what is read ahead for them is what Kafka has, and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reporting.webhooks.choosing import Entry, weight
from reporting.webhooks.feed import OLDER_SHARE, Feed, _Kept
from reporting.webhooks.stretches import SHARES, Stretches
from shared.errors import OffsetLost
from shared.events import HEADER_RAW_OFFSET, encode_raw_offset
from shared.settings import KafkaSettings

BYTES_MAX = 64 << 10


def entries(offsets: Iterable[int], size: int = 100) -> list[Entry]:
    """Of one partition."""
    return [Entry(offset, offset, b'"acme"', b"x" * size) for offset in offsets]


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 40), st.integers(1, 30), st.sampled_from([0, 100, 5_000, 70_000]))
    ),
    st.sets(st.integers(0, 80)),
)
def test_a_stretch_has_no_hole_of_its_own(puts: list[tuple[int, int, int, int]], missing: set[int]) -> None:
    """Whatever was kept and dropped: an answer begins with the first offset from the asked one on that Kafka has."""
    kept = Stretches(BYTES_MAX)
    for partition, offset, count, size in puts:
        if found := entries([each for each in range(offset, offset + count) if each not in missing], size):
            kept.put(partition, offset, found)
            assert kept.size == sum(each.size for each in kept._kept.values()) <= BYTES_MAX
    for partition in range(2):
        for offset in range(80):
            if answer := [entry.offset for entry in kept.read(partition, offset)]:
                assert answer == [each for each in range(offset, answer[-1] + 1) if each not in missing]


def test_the_stretch_that_was_asked_for_last_stays() -> None:
    """Each takes its share at most, and the one that nobody asked of for longest goes first."""
    kept = Stretches(BYTES_MAX)
    for number in range(SHARES):
        kept.put(0, 100 * number, entries(range(100 * number, 100 * number + 99), 500))
    assert [len(kept.read(0, 100 * number)) for number in (1, 0)] == [2, 2]
    for number in range(SHARES, 2 * SHARES - 2):
        kept.put(0, 100 * number, entries(range(100 * number, 100 * number + 99), 500))
    assert [bool(kept.read(0, 100 * number)) for number in (0, 1, 2, SHARES - 1)] == [True, True, False, False]
    assert kept.size == SHARES * 2 * weight(entries([0], 500)[0])


class Topic:
    """Partition 0 of a topic in memory; a fetch gives a hundred records."""

    def __init__(self, count: int) -> None:
        self.begin, self.count, self.fetches = 0, count, 0


class TopicReader:
    """`Reader` without Kafka; a question while it fetches would wait for the fetch."""

    topic = "clicks.enriched"

    def __init__(self, kafka: Topic) -> None:
        self._kafka, self._next, self._rests = kafka, 0, True

    async def start(self) -> None:
        """Connected."""

    async def begin_offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """The earliest."""
        assert self._rests
        return dict.fromkeys(partitions, self._kafka.begin)

    async def end_offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """Behind the last."""
        assert self._rests
        return dict.fromkeys(partitions, self._kafka.count)

    def assign(self, positions: Mapping[int, int]) -> None:
        """From here on."""
        ((_, self._next),) = positions.items()
        self._rests = False

    def rest(self) -> None:
        """Fetch nothing."""
        self._rests = True

    async def getmany(self, timeout_ms: int) -> dict[int, list[Any]]:
        """The next records."""
        await asyncio.sleep(0)
        self._kafka.fetches += 1
        offsets = range(self._next, min(self._next + 100, self._kafka.count))
        return {0: [SimpleNamespace(offset=n, value=b"{}", headers=_headers(n)) for n in offsets]}


def _headers(raw_offset: int) -> list[tuple[str, bytes]]:
    return [(HEADER_RAW_OFFSET, encode_raw_offset(raw_offset))]


def feed_of(kafka: Topic, bytes_max: int = 32 << 20) -> Feed:
    """A feed that has just begun at the end of the topic."""
    feed = Feed(KafkaSettings(), bytes_max=bytes_max, readers=2)
    feed._new_reader = lambda _gather_ms: TopicReader(kafka)  # type: ignore[assignment, return-value]
    feed._kept = {0: _Kept(end=kafka.count)}
    return feed


async def test_one_fetch_serves_many_requests() -> None:
    """Who takes one older event after the other needs no fetch for each, and the reader rests between fetches."""
    kafka = Topic(1_000)
    feed = feed_of(kafka)
    for offset in range(1_000):
        assert (await feed.read(0, offset))[0].offset == offset
    assert kafka.fetches == 10
    assert not await feed.read(0, 1_000)


async def test_webhooks_at_the_same_place_share_a_fetch() -> None:
    """Those that asked while the first one's fetch was under way have what it brought."""
    kafka = Topic(1_000)
    feed = feed_of(kafka)
    found = await asyncio.gather(*(feed.read(0, 0) for _ in range(20)))
    assert {len(each) for each in found} == {100}
    assert kafka.fetches <= 2  # as many as there are readers


async def test_newest_and_older_records_share_the_bound() -> None:
    """What is read ahead takes a share of the memory at most, and the newest give way to it."""
    kafka, bytes_max = Topic(10_000), 1 << 20
    feed = feed_of(kafka, bytes_max)
    feed._put(0, entries(range(10_000, 12_000)))
    kafka.count = 12_000
    newest = feed._bytes
    assert bytes_max - 600 <= newest <= bytes_max
    for offset in range(0, 10_000, 20):
        await feed.read(0, offset)
        assert feed._bytes + feed._older.size <= bytes_max
        assert feed._older.size <= bytes_max // OLDER_SHARE
    assert feed._bytes >= newest - bytes_max // OLDER_SHARE - 600


async def test_what_kafka_deleted_is_lost() -> None:
    """An offset that is neither kept nor left in Kafka is told as lost, with what is left."""
    kafka = Topic(1_000)
    feed = feed_of(kafka)
    await feed.read(0, 0)
    kafka.begin = 500
    with pytest.raises(OffsetLost) as lost:
        await feed.read(0, 100)
    assert (lost.value.wanted, lost.value.earliest) == (100, 500)
