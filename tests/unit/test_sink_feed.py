"""When the block after a stored one is cut: it grows until it may be stored, and waits for nobody when it is full."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from shared.events import HEADER_RAW_OFFSET, encode_raw_offset
from sink.blocks import Block, Intake, Limits
from sink.feed import BLOCKS_IN_A_ROW, PartitionFeed, who_may_read
from sink.plans import Plan
from sink.table import PartitionTable, Store
from sink.watch import PartitionWatch
from tests.support.sink_model import Record

LIMITS = Limits(rows_max=10, bytes_max=1 << 20, age_ms=1)


def records(first: int, count: int) -> list[Record]:
    """Records that follow each other."""
    return [
        Record(
            at,
            1_700_000_000_000,
            b"k",
            b'{"v":1,"stream":"s1","raw_partition":2,"raw_offset":%d}' % at,
            ((HEADER_RAW_OFFSET, encode_raw_offset(at)),),
        )
        for at in range(first, first + count)
    ]


@pytest.fixture
def feed() -> PartitionFeed:
    """A feed that has begun."""
    return begun()


def begun() -> PartitionFeed:
    """A feed that has begun."""

    async def nowhere() -> int:
        return 0

    made = PartitionFeed(
        Intake("s1", 2), LIMITS, PartitionWatch("t", 2), begin_offset=nowhere, seek=lambda _offset: None
    )
    made.restart(0, -1)
    return made


def table(places: asyncio.Semaphore) -> PartitionTable:
    """A partition of a member with these places."""
    store = cast("Store", type("Places", (), {"places": places})())
    return PartitionTable(store, "s1", 2, 0)


async def test_a_block_grows_until_it_may_be_stored(feed: PartitionFeed) -> None:
    """Rows that come while others store go with it."""
    feed.put(records(0, 2))

    async def take_turn() -> None:
        feed.put(records(2, 3))

    block = await feed.following_block(take_turn)
    assert isinstance(block, Block)
    assert [row.raw_offset for row in block.rows] == [0, 1, 2, 3, 4]


async def test_a_full_block_waits_for_nobody(feed: PartitionFeed) -> None:
    """Its plan is committed while others store."""
    feed.put(records(0, 12))

    async def take_turn() -> None:
        raise AssertionError

    block = await feed.following_block(take_turn)
    assert isinstance(block, Block)
    assert len(block.rows) == LIMITS.rows_max


async def test_no_block_is_begun_when_it_is_time_to_finish(feed: PartitionFeed) -> None:
    """However long the place was waited for."""
    feed.put(records(0, 2))

    async def take_turn() -> None:
        feed.finish()

    assert await feed.following_block(take_turn) is None


async def test_a_stored_block_takes_no_room(feed: PartitionFeed) -> None:
    """However long its partition waits for the next one: the others may be read."""
    feed.put(records(0, LIMITS.rows_max))
    assert isinstance(await feed.next_block(), Block)
    assert feed.bytes

    async def take_turn() -> None:
        raise AssertionError

    waiting = asyncio.create_task(feed.following_block(take_turn))
    await asyncio.sleep(0)
    assert not feed.bytes
    feed.finish()
    assert await waiting is None


async def test_a_place_is_one_however_often_it_is_taken() -> None:
    """And is there for the next as soon as it is given back, in the order of asking."""
    places = asyncio.Semaphore(1)
    first, second = table(places), table(places)
    for _ in range(2):
        await first.take_turn()
    waiting = asyncio.create_task(second.take_turn())
    await asyncio.sleep(0)
    assert not waiting.done()
    for _ in range(2):
        first.give_turn()
    await waiting
    assert places.locked()
    second.give_turn()
    assert not places.locked()


async def test_a_wait_for_a_place_that_is_cancelled_takes_none() -> None:
    """The partition went to another member meanwhile."""
    places = asyncio.Semaphore(1)
    first, second = table(places), table(places)
    await first.take_turn()
    waiting = asyncio.create_task(second.take_turn())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    second.give_turn()
    first.give_turn()
    assert not places.locked()
    await asyncio.wait_for(first.take_turn(), 1)


async def test_each_partition_fills_a_block_before_the_next_when_room_is_short() -> None:
    """However often one asks, with rows behind for all: those that began go on, others begin when they are cut."""
    feeds = {partition: begun() for partition in range(6)}
    lags = dict.fromkeys(feeds, 1000)
    for feed in feeds.values():
        feed.put(records(0, 1))
    bytes_max = 2 * LIMITS.rows_max * feeds[0].bytes

    def reading() -> set[int]:
        return who_may_read(feeds, lags, bytes_max - sum(feed.bytes for feed in feeds.values()), 1)

    assert reading() == {0, 1}
    feeds[0].put(records(1, 5))
    feeds[1].put(records(1, 1))
    assert reading() == {0, 1}
    feeds[0].put(records(6, 4))
    assert isinstance(await feeds[0].next_block(), Block)
    assert reading() == {0}  # the block at hand takes its room until it is stored


async def test_a_partition_has_some_blocks_in_a_row() -> None:
    """What was fetched beyond one block begins the next, until the turn is over and the others are read first."""
    feeds = {partition: begun() for partition in range(3)}
    lags = dict.fromkeys(feeds, 1000)
    for block in range(BLOCKS_IN_A_ROW):
        assert who_may_read(feeds, lags, 1, 1) == {0}
        feeds[0].put(records(block * LIMITS.rows_max, LIMITS.rows_max))
        assert isinstance(await feeds[0].next_block(), Block)
    assert who_may_read(feeds, lags, 1, 1) == {1}


def test_all_are_read_when_little_is_behind() -> None:
    """A buffer that is small for full blocks of all is large enough for a few rows of each."""
    feeds = {partition: begun() for partition in range(60)}
    for feed in feeds.values():
        feed.put(records(0, 1))
    assert who_may_read(feeds, dict.fromkeys(feeds, 1), 60 * feeds[0].bytes, 1) == set(feeds)


def test_partitions_without_records_take_turns() -> None:
    """With room for a few fetches each is asked for in time."""
    feeds = {partition: begun() for partition in range(10)}
    asked: set[int] = set()
    for _ in range(4):
        some = who_may_read(feeds, dict.fromkeys(feeds, 0), 3 * 100, 100)
        assert len(some) == 3
        asked |= some
    assert asked == set(feeds)


async def test_a_planned_block_is_read_without_room(feed: PartitionFeed) -> None:
    """It was too large for the limits of now: nothing of the partition is stored before it."""
    feed.restart(0, -1, Plan(0, 49, -1, 49))
    feed.put(records(0, 40))
    assert who_may_read({2: feed, 3: begun()}, {2: 10, 3: 10}, 0, 100) == {2}
