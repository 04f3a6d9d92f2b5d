"""Copies of a click in either order, on a real broker and a real ClickHouse: one is accepted, whatever lies between them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from clickledger.stack.guard import Guard
from shared.ids import keyed_id, uuid7_with_partition
from sink.suspects import REMEMBERED_MAX
from tests.support.sinks import SinkBench

BLOCKS = {"CLICKLEDGER_SINK_BLOCK_ROWS_MAX": "200"}
HOUR_MS = 3_600_000


@pytest.fixture
async def bench(prepared_env: dict[str, str], guard: Guard, tmp_path: Path) -> AsyncIterator[SinkBench]:
    """Topics, stream and table of this test's own."""
    bench = SinkBench(guard, tmp_path, prepared_env)
    await bench.open()
    yield bench
    await bench.close()


class Copies:
    """Writes clicks to partition 0 and says which of them must be duplicates."""

    def __init__(self, bench: SinkBench) -> None:
        self.bench = bench
        self.duplicates: set[int] = set()

    async def write(self, *records: dict[str, Any]) -> list[dict[str, Any]]:
        """Append records at the next raw offsets; what was written."""
        first = self.bench.next_raw[0]
        placed = [record | {"raw_offset": first + n} for n, record in enumerate(records)]
        self.bench.next_raw[0] += len(placed)
        await self.bench.write(0, placed)
        return placed

    async def write_duplicate(self, *records: dict[str, Any]) -> None:
        """Append records that must not be accepted."""
        self.duplicates |= {record["raw_offset"] for record in await self.write(*records)}

    def click(self, number: int, **fields: Any) -> dict[str, Any]:
        """A click with an id of its own."""
        return self.bench.record(0, number, **fields)

    async def assert_each_accepted_once(self) -> None:
        """All is stored exactly, and the duplicates are those that were expected."""
        await self.bench.wait_stored()
        rows = await self.bench.rows("raw_offset", "status = 'duplicate' AND raw_partition = 0")
        assert {raw_offset for (raw_offset,) in rows} == self.duplicates
        ((accepted, distinct),) = await self.bench.clickhouse.query(
            "SELECT count(), uniqExact(transaction_id) FROM clicks WHERE status = 'accepted'"
        )
        assert accepted == distinct == sum(self.bench.next_raw.values()) - len(self.duplicates)


@pytest.fixture
def copies(bench: SinkBench) -> Copies:
    """The copies of this test."""
    return Copies(bench)


def replay(record: dict[str, Any]) -> dict[str, Any]:
    """The same click from a spool."""
    return record | {"suspect": True, "source": "spool"}


async def test_either_order_in_one_block_and_in_two(bench: SinkBench, copies: Copies) -> None:
    """Original and replay, replay and original, twice the replay: the first stays."""
    a, b, c, d = (copies.click(n) for n in range(1000, 1004))
    await copies.write(a, replay(b), replay(c))
    await copies.write_duplicate(replay(a), b, replay(c))  # one block: the sink has not started
    await copies.write(d)
    child = bench.start(**BLOCKS)
    await bench.wait_stored(child)
    await copies.write_duplicate(replay(d), replay(a), b, c)
    await copies.assert_each_accepted_once()


@pytest.mark.parametrize("point", ["before:insert:1", "after:insert:1"])
async def test_a_crash_between_the_copies(bench: SinkBench, copies: Copies, point: str) -> None:
    """Kill -9 around the block that holds the first copies; the second ones come to a sink that has to ask."""
    originals = [copies.click(n) for n in range(1000, 1006)]
    await copies.write(*originals[:3], *map(replay, originals[3:]))
    await bench.died(bench.start_faulty(point, **BLOCKS))
    await copies.write_duplicate(*map(replay, originals[:3]), *originals[3:])
    bench.start(**BLOCKS)
    await copies.assert_each_accepted_once()


async def test_a_change_of_owner_between_the_copies(bench: SinkBench, copies: Copies) -> None:
    """Replays stored by one member, originals by the other: the new owner has read what it must remember."""
    first = bench.start(**BLOCKS)
    originals = [copies.click(n) for n in range(1000, 1020)]
    await copies.write(*map(replay, originals))
    await bench.wait_stored(first)
    second = bench.start(**BLOCKS)
    first.kill()
    await copies.write_duplicate(*originals)
    await copies.assert_each_accepted_once()
    assert second.alive


async def test_beyond_what_is_remembered_the_table_answers(bench: SinkBench, copies: Copies) -> None:
    """A replay hours after its original, a key repeated after weeks; ids that carry another time than their rows."""
    child = bench.start(**BLOCKS)
    now_ms = time.time_ns() // 1_000_000
    days_ago = {"received_at": now_ms - 60 * 24 * HOUR_MS, "expires_at": now_ms + 30 * 24 * HOUR_MS}
    old = copies.click(
        1, transaction_id=uuid7_with_partition(now_ms - 5 * HOUR_MS, 0, b"12345678"), received_at=now_ms - 5 * HOUR_MS
    )
    keyed = copies.click(2, transaction_id=keyed_id("acme", "order", 6), suspect=True, **days_ago)
    strange = [
        copies.click(n, transaction_id=uuid7_with_partition(made_ms, 0, b"%08d" % n))
        for n, made_ms in ((3, (1 << 48) - 1), (4, 0), (5, now_ms + 9 * HOUR_MS))
    ]
    await copies.write(old, keyed, *strange)
    await bench.wait_stored(child)
    repeated = keyed | {"received_at": now_ms, "expires_at": now_ms + 90 * 24 * HOUR_MS}
    await copies.write_duplicate(replay(old), repeated, *map(replay, strange))
    await copies.assert_each_accepted_once()


async def test_one_query_for_a_block(bench: SinkBench, copies: Copies) -> None:
    """1,000 suspects in blocks of 200, half of them stored before, cost one query for each block; others cost none."""
    child = bench.start(**BLOCKS)
    originals = [copies.click(n) for n in range(10_000, 10_500)]
    await copies.write(*originals)
    await bench.wait_stored(child)
    assert bench.metric(child, "clickledger_sink_copy_queries_total") == 0
    before = bench.metric(child, "clickledger_sink_blocks_total")
    await copies.write(*(replay(copies.click(n)) for n in range(20_000, 20_500)))
    await copies.write_duplicate(*map(replay, originals))
    await copies.assert_each_accepted_once()
    blocks = bench.metric(child, "clickledger_sink_blocks_total") - before
    assert bench.metric(child, "clickledger_sink_copy_queries_total") == blocks


async def test_a_flood_of_suspects_is_stored_and_its_copies_are_found(bench: SinkBench, copies: Copies) -> None:
    """More than are remembered, as from a long spool: every later id is looked up, by this member and by the next."""
    child = bench.start()
    originals = [copies.click(n) for n in range(REMEMBERED_MAX + 20_000)]
    for begin in range(0, len(originals), 10_000):
        await copies.write(*map(replay, originals[begin : begin + 10_000]))
    await bench.wait_stored(child)
    await copies.write_duplicate(*originals[:5], *originals[-5:])
    await bench.wait_stored(child)
    child.kill()
    await copies.write_duplicate(*originals[5:10], *originals[-10:-5])
    await copies.write(copies.click(REMEMBERED_MAX + 20_000))
    bench.start()
    await copies.assert_each_accepted_once()
