"""Reading clicks.enriched: each click once from any position, whatever copies stand there."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.enriched import Enriched, PositionLost, Taken
from shared.errors import TransientError
from shared.rte import Position
from tests.support.memory_topic import MemoryReader, reading


async def all_of(enriched: Enriched) -> list[Taken]:
    """Everything that there is now."""
    found: list[Taken] = []
    while enriched.lag(await enriched.ends()) or enriched._has_moved:
        found += await enriched.read(0)
    return found + await enriched.read(0)


def offsets(taken: list[Taken], partition: int = 0) -> list[int]:
    """The raw offsets of a partition."""
    return [each.raw_offset for each in taken if each.partition == partition]


@st.composite
def histories(draw: st.DrawFn) -> list[int]:
    """What enrichers leave: each writer begins where all lower offsets are written, goes up, and may pause in between."""
    written, writers = [0], [1]
    for _ in range(draw(st.integers(0, 25))):
        if draw(st.booleans()):
            writers.append(draw(st.integers(0, max(written) + 1)))
        who = draw(st.integers(0, len(writers) - 1))
        count = draw(st.integers(1, 30))
        written += range(writers[who], writers[who] + count)
        writers[who] += count
    return written


@settings(deadline=None, max_examples=200)
@given(histories(), st.data())
def test_each_click_once_from_any_position(written: list[int], data: st.DataObject) -> None:
    """From every position, and again from every position reached, the rest comes without a hole and without a copy.

    At the latest with the next click: only that tells when the last ones stand behind copies of others.
    """
    end = max(written) + 1
    start = data.draw(st.integers(0, end))
    cut = data.draw(st.integers(0, len(written)))  # so much is there when the reading begins

    async def read() -> None:
        reader = MemoryReader({0: written[:cut]}, raw_ends={0: end})
        enriched = reading(reader)
        await enriched.begin(Position("s", (start,)))
        found = await all_of(enriched)
        reader.written[0] = [*written, end]
        found += await all_of(enriched)
        assert offsets(found) == list(range(start, end + 1))
        assert str(enriched.position) == f"s.{end + 1}"
        assert not enriched.gaps

    asyncio.run(read())


@settings(deadline=None, max_examples=200)
@given(histories(), st.data())
def test_what_retention_took_is_told(written: list[int], data: st.DataObject) -> None:
    """A position whose next click is gone is refused with one that is not; every other one reads on without a hole."""
    end = max(written) + 1
    start, first = data.draw(st.integers(0, end)), data.draw(st.integers(0, len(written) - 1))

    async def read() -> None:
        enriched = reading(MemoryReader({0: [*written, end]}, {0: first}))
        try:
            await enriched.begin(Position("s", (start,)))
            found = await all_of(enriched)
        except PositionLost as lost:
            assert start not in written[first:] or start < written[first] or written[first:] != sorted(written[first:])
            await enriched.begin(lost.earliest)
            return
        reached = start + len(found)
        assert offsets(found) == list(range(start, reached))
        if enriched.gaps:  # what stands before them is left, but not what comes next
            assert enriched.gaps[0].first == reached not in written[first:]
        else:
            assert reached == end + 1

    asyncio.run(read())


@pytest.mark.parametrize(
    ("position", "why"),
    [
        ("other.0", "of stream other, the topic now carries s"),
        ("s.31", "beyond the end, 30"),
        ("s.0.0", "has 2 partitions, the topic 1"),
        ("s.9", "no longer in Kafka"),
    ],
)
async def test_positions_that_are_not_there(position: str, why: str) -> None:
    """Each says why, and where the stream begins now."""
    enriched = reading(MemoryReader({0: list(range(30))}, {0: 10}))
    with pytest.raises(PositionLost, match=why) as lost:
        await enriched.begin(Position.parse(position))
    assert str(lost.value.earliest) == "s.10"


async def test_where_a_reader_may_begin() -> None:
    """At the first kept record, behind the last one, or some before it; an empty partition begins where it must."""
    reader = MemoryReader({0: list(range(30)), 1: [], 2: [0]}, {0: 10, 2: 1}, raw_ends={0: 30, 1: 5, 2: 7})
    enriched = reading(reader, (0, 3))
    await enriched.begin_earliest()
    assert str(enriched.position) == "s.10.3.7"
    assert await enriched.begin_latest() == {0: 30, 1: 0, 2: 1}
    assert str(enriched.position) == "s.30.3.7"
    await enriched.begin_latest(history=15)
    assert str(enriched.position) == "s.25.3.7"


async def test_late_clicks_of_an_expired_partition_are_seen() -> None:
    """All its records have expired and raw clicks are not enriched yet: they come, from the first one on, and once."""
    reader = MemoryReader({0: [0, 1, 2]}, {0: 3}, raw_ends={0: 6}, nexts={0: 3})
    for begin in (reading(reader).begin_latest, reading(reader).begin_earliest):
        enriched: Enriched = begin.__self__
        await begin()
        assert str(enriched.position) == "s.3"
        reader.written[0] = [0, 1, 2, 3, 4, 3, 4, 5]
        assert offsets(await all_of(enriched)) == [3, 4, 5]
        reader.written[0] = [0, 1, 2]


class Writing(MemoryReader):
    """The enricher writes and commits between two questions."""

    async def committed(self, group_id: str, topic: str, partitions: list[int]) -> dict[int, int]:
        """What it committed after having written."""
        self.written[0] += [3, 4]
        self.nexts = {0: 5}
        return await super().committed(group_id, topic, partitions)


async def test_what_is_written_while_an_expired_partition_is_looked_at_is_seen() -> None:
    """The committed position is later than the end that was read: the reading begins at what was written meanwhile."""
    enriched = reading(Writing({0: [0, 1, 2]}, {0: 3}, raw_ends={0: 5}))
    await enriched.begin_earliest()
    assert str(enriched.position) == "s.3"
    assert offsets(await all_of(enriched)) == [3, 4]


async def test_a_gap_stands_until_it_is_filled_or_accepted() -> None:
    """Nothing jumps: the partition stands, the others go on; a refill or an accepted gap lets it go on without a hole."""
    reader = MemoryReader({0: [0, 1, 4, 5], 1: [0, 1]})
    enriched = reading(reader)
    await enriched.begin(Position("s", (0,)))
    found = await all_of(enriched)
    assert (offsets(found), offsets(found, 1)) == ([0, 1], [0, 1])
    assert {p: gap[:2] for p, gap in enriched.gaps.items()} == {0: (2, 3)}
    reader.written[0] += [2, 3, 4, 5, 6, 9]
    assert offsets(await all_of(enriched)) == [2, 3, 4, 5, 6]
    assert {p: gap[:2] for p, gap in enriched.gaps.items()} == {0: (7, 8)}
    enriched.pass_gap(0, 9)
    assert offsets(await all_of(enriched)) == [9]
    assert not enriched.gaps


async def test_an_error_in_between_loses_nothing() -> None:
    """What was taken before Kafka went away comes with the next read."""
    reader = MemoryReader({0: [0, 1, 3], 1: [0, 1]}, failing=False)
    enriched = reading(reader)
    await enriched.begin(Position("s", (0,)))
    reader.failing = True
    with pytest.raises(TransientError):
        await enriched.read(0)
    reader.failing = False
    found = await all_of(enriched)
    assert (offsets(found), offsets(found, 1)) == ([0, 1], [0, 1])


async def test_partitions_that_are_added_are_read_from_their_beginning() -> None:
    """The position gets longer; an old one reads them from 0."""
    reader = MemoryReader({0: [0]})
    enriched = reading(reader)
    await enriched.begin_latest()
    assert not await enriched.grow()
    reader.written[1] = [0, 1]
    assert await enriched.grow()
    assert offsets(await all_of(enriched), 1) == [0, 1]
    assert str(enriched.position) == "s.1.2"
    await enriched.begin(Position("s", (1,)))
    assert offsets(await all_of(enriched), 1) == [0, 1]
