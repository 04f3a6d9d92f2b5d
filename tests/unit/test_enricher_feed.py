"""What waits for a partition's worker: how much, how it is handed out, and what happens at holes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from enricher.feed import BYTES_MAX, FETCHES_MAX, MISSING_TRIES_MAX, RECORDS_MAX, TOGETHER_MAX, Feed
from shared.errors import OffsetLost


class OnlyOffset(NamedTuple):
    """A record as far as a feed looks at it."""

    offset: int
    value: bytes | None = None


class Bench:
    """A feed, and what it asked of the consumer."""

    def __init__(self) -> None:
        self.sought: list[int] = []
        self.feed = Feed("clicks.raw", 3, self.sought.append, lambda: None)
        self.feed.restart(0)

    def put(self, *bounds: tuple[int, int]) -> None:
        """Fetches arrive: records from the first offset up to, without, the second."""
        for first, end in bounds:
            self.feed.put(records(first, end))

    async def next_offsets(self) -> list[int]:
        """The offsets that the worker gets."""
        return [record.offset for record in await self.feed.next()]


def records(first: int, end: int) -> Sequence[Any]:
    """Records of these offsets."""
    return [OnlyOffset(offset) for offset in range(first, end)]


async def test_small_fetches_that_wait_are_handed_out_together() -> None:
    """One batch and one commit for all that came while the worker waited for the one before."""
    bench = Bench()
    bench.put((0, 2), (2, 3), (3, 7))
    assert await bench.next_offsets() == list(range(7))
    assert bench.sought == [0]


@pytest.mark.parametrize("second", [TOGETHER_MAX - 11, TOGETHER_MAX - 10, TOGETHER_MAX - 9])
async def test_what_is_handed_out_together_is_bounded(second: int) -> None:
    """A fetch that would make it too many waits for its turn."""
    bench = Bench()
    bench.put((0, 10), (10, 10 + second))
    fits = second <= TOGETHER_MAX - 10
    assert len(await bench.next_offsets()) == (10 + second if fits else 10)
    if not fits:
        assert await bench.next_offsets() == list(range(10, 10 + second))


async def test_a_large_fetch_is_handed_out_whole() -> None:
    """It is in memory already."""
    bench = Bench()
    bench.put((0, 5_000), (5_000, 5_001))
    assert len(await bench.next_offsets()) == 5_000
    assert await bench.next_offsets() == [5_000]


def test_two_fetches_fill_a_feed_when_they_are_large_and_eight_always() -> None:
    """What waits is bounded in records and, by the number of fetches, in bytes."""
    bench = Bench()
    bench.put((0, RECORDS_MAX))
    assert not bench.feed.is_full, "one fetch is behind the one at work"
    bench.put((RECORDS_MAX, RECORDS_MAX + 1))
    assert bench.feed.is_full
    small = Bench()
    for number in range(FETCHES_MAX):
        assert not small.feed.is_full
        small.put((number, number + 1))
    assert small.feed.is_full


async def test_a_hole_between_fetches_ends_what_is_handed_out_and_is_read_again() -> None:
    """What is behind it comes again, behind what was missing."""
    bench = Bench()
    bench.put((0, 3), (5, 8), (8, 9))
    assert await bench.next_offsets() == [0, 1, 2]
    assert bench.sought == [0, 3]
    bench.put((3, 9))
    assert await bench.next_offsets() == list(range(3, 9))


async def test_stale_fetches_are_dropped_and_what_continues_is_taken() -> None:
    """After going back, a fetch of before may arrive first."""
    bench = Bench()
    bench.put((0, 9))
    await bench.next_offsets()
    bench.put((4, 7), (6, 11), (11, 12))
    assert await bench.next_offsets() == [9, 10, 11]


async def test_records_that_stay_away_are_lost_even_when_others_wait() -> None:
    """The range is named; nothing behind it is handed out."""
    bench = Bench()
    for _ in range(MISSING_TRIES_MAX - 1):
        bench.feed._take(records(5, 8))
    bench.put((5, 8), (0, 2))
    with pytest.raises(OffsetLost) as lost:
        await bench.feed.next()
    assert (lost.value.wanted, lost.value.earliest) == (0, 5)


@pytest.mark.parametrize("size", [BYTES_MAX // 4 - 1, BYTES_MAX // 4])
def test_few_large_records_are_enough_to_wait(size: int) -> None:
    """Two fetches of two records each: whether their partition is held is a matter of their bytes."""
    bench = Bench()
    bench.feed.put([OnlyOffset(0, bytes(size)), OnlyOffset(1, bytes(size))])  # type: ignore[list-item]
    assert not bench.feed.is_full
    bench.feed.put([OnlyOffset(2, bytes(size)), OnlyOffset(3, bytes(size))])  # type: ignore[list-item]
    assert bench.feed.is_full == (4 * size >= BYTES_MAX)
