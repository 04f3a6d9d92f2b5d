"""The delivery guarantee of one partition against a model of the broker: crashes, lost and late batches, rewinds.

The model decides each outcome from a script that Hypothesis draws: an append may succeed, fail, be lost after a
time-out, or arrive much later (a producer that was given up, a former owner that was asleep); a commit may be applied
without an answer; the process may die at any of these points; a fetch from before a rewind may still be handed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enricher.feed import MISSING_TRIES_MAX, Feed, contiguous
from enricher.refill import (
    Position,
    Request,
    decode_metadata,
    encode_metadata,
    position_of,
    rewound,
)
from enricher.worker import PartitionWorker
from shared.errors import NotOwned, OffsetLost, OutcomeUnknown, TransientError
from shared.kafka import Committed
from tests.support.enricher_model import ModelBatch
from tests.support.enriching import NOW_MS, STREAM, tools

RECORDS = 12
FETCH_RECORDS = 4
STEPS_MAX = 2_000


@dataclass
class Raw:
    """A raw record that takes little time to enrich."""

    offset: int
    partition: int = 1
    timestamp: int = NOW_MS
    key: bytes | None = None
    value: bytes | None = b"{"
    headers: Sequence[tuple[str, bytes]] = ()


class Fate(IntEnum):
    """What becomes of an append or a commit."""

    DONE = 0
    REFUSED = 1
    LOST = 2
    LATE = 3
    DONE_THEN_DEAD = 4
    DEAD = 5
    STALE_FETCH = 6
    NOT_OURS = 7


@dataclass
class World:
    """The topics, the group and the script."""

    script: list[int]
    log: list[int] = field(default_factory=list)
    """Raw offsets of the enriched topic, in its order."""
    late: list[list[int]] = field(default_factory=list)
    """Batches in the air: they may arrive at any time."""
    committed: Committed | None = None
    requests: tuple[Request, ...] = ()
    is_dead: bool = False

    def fate(self) -> Fate:
        """The next outcome; when the script is over, everything works."""
        fate = Fate(self.script.pop(0)) if self.script else Fate.DONE
        if self.late and fate in (Fate.REFUSED, Fate.STALE_FETCH, Fate.DEAD):
            self.log += self.late.pop(0)
        return fate


async def _die(world: World) -> None:
    world.is_dead = True
    await asyncio.Event().wait()


class ModelProducer:
    """Appends batches whole, or not, or later."""

    def __init__(self, world: World) -> None:
        self._world = world

    def new_batch(self) -> ModelBatch:
        """An empty batch."""
        return ModelBatch()

    async def send_batch(self, _topic: str, _partition: int, batch: Any) -> int:
        """Append, as fate says."""
        world = self._world
        match world.fate():
            case Fate.REFUSED:
                raise TransientError("not sent")
            case Fate.LOST:
                raise OutcomeUnknown("time-out")
            case Fate.LATE:
                world.late.append(batch.offsets)
                raise OutcomeUnknown("time-out")
            case Fate.DEAD:
                world.late.append(batch.offsets)
                await _die(world)
            case Fate.DONE_THEN_DEAD:
                world.log += batch.offsets
                await _die(world)
            case _:
                world.log += batch.offsets
        return len(world.log)


class ModelProducing:
    """Hands out one producer."""

    def __init__(self, world: World) -> None:
        self._producer = ModelProducer(world)

    async def get(self) -> ModelProducer:
        """The producer."""
        return self._producer

    async def give_up(self, _producer: ModelProducer, _why: str) -> None:
        """Nothing to close."""


class ModelGroup:
    """One assignment's commits."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.is_active = True

    async def committed(self) -> Committed | None:
        """The committed position; sometimes unknown."""
        if self._world.fate() is Fate.REFUSED:
            raise TransientError("coordinator loading")
        return self._world.committed

    async def commit(self, committed: Committed) -> None:
        """Commit, as fate says."""
        match self._world.fate():
            case Fate.REFUSED | Fate.LOST:
                raise TransientError("not committed")
            case Fate.LATE:
                self._world.committed = committed
                raise OutcomeUnknown("time-out")
            case Fate.DONE_THEN_DEAD:
                self._world.committed = committed
                await _die(self._world)
            case Fate.DEAD:
                await _die(self._world)
            case Fate.NOT_OURS:
                self.is_active = False
                raise NotOwned("rebalanced")
            case _:
                self._world.committed = committed

    async def wait_revoked(self, _seconds_max: float) -> None:
        """The rebalance is over."""


class OpenGate:
    """A catalog that has every version."""

    async def reach(self, _version: int) -> int | None:
        """At once."""
        return None

    async def until_ready(self) -> None:
        """At once."""


class Source:
    """Feeds a worker from the raw topic, sometimes with a fetch from before a rewind."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._position = 0
        self._before = 0
        self.feed = Feed("raw", 1, self._seek, lambda: None)

    def _seek(self, offset: int) -> None:
        self._before, self._position = self._position, offset

    def step(self) -> None:
        """Hand over the next fetch."""
        if self.feed.is_full:
            return
        if self._world.script and self._world.script[0] == Fate.STALE_FETCH:
            self._world.fate()
            start = self._before
        else:
            start = self._position
            self._position = min(RECORDS, start + FETCH_RECORDS)
        if start < RECORDS:
            self.feed.put([Raw(offset) for offset in range(start, min(RECORDS, start + FETCH_RECORDS))])


async def _no_pause(_seconds: float) -> None:
    await asyncio.sleep(0)


def _worker(world: World, feed: Feed, group: ModelGroup) -> PartitionWorker[ModelProducer]:
    return PartitionWorker(
        stream=STREAM,
        partition=1,
        start_offset=0,
        topic_enriched="enriched",
        feed=feed,
        group=group,
        producing=ModelProducing(world),
        tools=tools(),
        gate=OpenGate(),
        requests=lambda _partition: world.requests,
        now_ms=lambda: NOW_MS,
        pause=_no_pause,
    )


async def _live(world: World, is_over: Callable[[], bool]) -> None:
    """One life of an owner: until it dies, loses the partition, or all is done."""
    world.is_dead = False
    source, group = Source(world), ModelGroup(world)
    worker = _worker(world, source.feed, group)
    task = asyncio.ensure_future(worker.run())
    for _ in range(STEPS_MAX):
        if task.done() or world.is_dead or is_over():
            break
        source.step()
        source.feed.nudge()
        await asyncio.sleep(0)
    else:
        raise AssertionError("the worker stands still")
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def run_world(world: World) -> None:
    """Owners follow one another until every record is enriched and committed."""

    def is_over() -> bool:
        done = world.committed is not None and world.committed.next_offset == RECORDS
        return done and not _pending(world)

    for _ in range(len(world.script) + 2):
        await _live(world, is_over)
        if is_over():
            break
    for batch in world.late:
        world.log += batch


def _pending(world: World) -> bool:
    done = decode_metadata(world.committed.metadata) if world.committed else frozenset()
    return any(request.id not in done for request in world.requests)


def assert_no_hole(log: Iterable[int]) -> None:
    """Before any record of offset o stand all lower offsets, and none is missing."""
    expected = 0
    for offset in log:
        assert offset <= expected
        expected = max(expected, offset + 1)
    assert expected == RECORDS


fates = st.lists(st.integers(0, 7), max_size=40)


@settings(max_examples=300, deadline=None)
@given(fates)
def test_no_crash_loss_or_delay_makes_a_hole(script: list[int]) -> None:
    """Whatever happens at every append, commit and fetch, the enriched topic has every offset after all lower ones."""
    world = World(list(script))
    asyncio.run(run_world(world))
    assert_no_hole(world.log)


@settings(max_examples=200, deadline=None)
@given(fates, st.lists(st.integers(0, RECORDS), min_size=1, max_size=3))
def test_a_refill_writes_everything_from_its_offset_again_once(script: list[int], offsets: list[int]) -> None:
    """A request made at any time, with crashes around it, is done, and keeps the order."""
    first = World([])
    asyncio.run(run_world(first))
    requests = tuple(Request(f"r{index}", offset, accept_lost=False) for index, offset in enumerate(offsets))
    world = World(list(script), log=list(first.log), committed=first.committed, requests=requests)
    asyncio.run(run_world(world))
    assert_no_hole(world.log)
    again = world.log[len(first.log) :]
    assert set(again) >= set(range(min(offsets), RECORDS))
    assert world.committed is not None
    assert decode_metadata(world.committed.metadata) == {request.id for request in requests}
    if not script:
        assert again == list(range(min(offsets), RECORDS))


@pytest.mark.parametrize(
    ("fetched", "expected", "taken"),
    [
        ([3, 4, 5], 3, [3, 4, 5]),
        ([3, 4, 5], 4, [4, 5]),
        ([3, 4, 5], 6, []),
        ([3, 4, 5], 2, []),
        ([3, 5, 6], 3, [3]),
    ],
)
def test_only_what_continues_is_handed_out(fetched: list[int], expected: int, taken: list[int]) -> None:
    """A fetch that begins elsewhere never makes a hole."""
    assert [record.offset for record in contiguous([Raw(offset) for offset in fetched], expected)] == taken


def test_offsets_that_never_come_are_lost_records() -> None:
    """A position that holds no record (a marker, a deletion) stops the partition instead of being skipped."""
    sought: list[int] = []
    feed = Feed("raw", 1, sought.append, lambda: None)
    feed.restart(5)

    async def read() -> None:
        for _ in range(MISSING_TRIES_MAX + 1):
            feed.put([Raw(7)])
            try:
                await asyncio.wait_for(feed.next(), 0.01)
            except TimeoutError:
                continue

    with pytest.raises(OffsetLost, match="offsets 5 to 6"):
        asyncio.run(read())
    assert set(sought) == {5}


def _awaited(awaitable: Awaitable[Any]) -> Any:
    async def run() -> Any:
        return await awaitable

    return asyncio.run(run())


def test_a_nudge_wakes_a_waiting_worker_without_records() -> None:
    """A request is seen also on an idle partition."""
    feed = Feed("raw", 1, lambda _offset: None, lambda: None)
    feed.nudge()
    assert list(_awaited(feed.next())) == []


@given(st.sets(st.from_regex(r"[0-9a-f]{17}", fullmatch=True), max_size=100))
def test_done_requests_fit_a_commits_metadata(ids: set[str]) -> None:
    """The newest ids are kept, within Kafka's limit of 4,096 bytes."""
    metadata = encode_metadata(ids)
    assert len(metadata) <= 4096
    assert decode_metadata(metadata) == frozenset(sorted(ids)[-64:])


def test_foreign_metadata_holds_no_requests() -> None:
    """An operator's own note in a commit changes nothing."""
    assert position_of(Committed(5, "by hand"), 0) == Position(5)
    assert position_of(None, 3) == Position(3)


@pytest.mark.parametrize(
    ("requests", "next_offset"),
    [
        ([], 50),
        ([Request("a", 20, accept_lost=False)], 20),
        ([Request("a", 20, accept_lost=False), Request("b", 10, accept_lost=False)], 10),
        ([Request("a", 2, accept_lost=False)], 5),
        ([Request("a", 80, accept_lost=False)], 50),
        ([Request("a", 80, accept_lost=True)], 80),
        ([Request("a", 20, accept_lost=True)], 50),
        ([Request("done", 20, accept_lost=False)], 50),
        ([Request("a", 80, accept_lost=True), Request("b", 10, accept_lost=False)], 10),
    ],
)
def test_a_rewind_goes_back_and_only_an_accepted_loss_goes_forward(requests: list[Request], next_offset: int) -> None:
    """Never before the stream's start, never again what is done."""
    after = rewound(Position(50, frozenset({"done"})), requests, 5)
    assert after == Position(next_offset, frozenset(request.id for request in requests))
