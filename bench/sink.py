"""Rows per second of the sink on a backlog, beside ClickHouse's own ingest of the same rows.

Run: .venv/bin/python -m bench.sink [--rows 240000]. A real broker, the ClickHouse engine behind HTTP and the sink as a
process. Records are enriched beforehand by the real enricher's function; blocks are the sink's default of 10,000 rows,
two inserts at a time in both cases. The rate counts from the first insert to the moment when the last row is visible.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from bench.enricher import clicks, tools
from bench.stack import Stores, cpu_seconds, stores
from clickledger.output import print_table
from enricher.enrich import enrich
from shared.clickhouse import ClickHouse
from sink.blocks import Row, block_at_ms, encode_body
from sink.table import RAW_TIMES, insert_settings
from tests.support.sinks import SinkBench

BLOCK_ROWS = 10_000
AT_ONCE = 2
WAIT_S = 120.0
POLL_S = 0.05

Value = tuple[int, bytes, bytes, bool]
"""(raw offset, key, enriched record, suspect)"""


class Figure(NamedTuple):
    """One measurement. CPU in processor seconds per million rows."""

    name: str
    rows_per_second: float
    clickhouse_cpu: float
    sink_cpu: float | None


def enriched(sink: SinkBench, rows: int) -> dict[int, list[Value]]:
    """Enriched records for each partition, `rows` in all, in whole blocks."""
    step, now_ms = tools(), time.time_ns() // 1_000_000
    source = clicks(2_000, now_ms)
    each = max(1, rows // (sink.partitions * BLOCK_ROWS)) * BLOCK_ROWS
    values: dict[int, list[Value]] = {}
    for partition in range(sink.partitions):
        raw = (
            record._replace(stream=sink.stream, partition=partition, offset=offset)
            for offset, record in enumerate(itertools.islice(source, each))
        )
        made = ((record.offset, enrich(record, step, now_ms)) for record in raw)
        values[partition] = [(offset, out.key, out.value, False) for offset, out in made]
    return values


async def until(done: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for `await done()`. Raises TimeoutError."""
    deadline = time.monotonic() + WAIT_S
    while not await done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {WAIT_S:.0f} s for {what}")
        await asyncio.sleep(POLL_S)


async def measure_direct(clickhouse: ClickHouse, server: int, blocks: Sequence[Sequence[Value]]) -> Figure:
    """ClickHouse alone: the same blocks into a table of the same definition."""
    await clickhouse.command("CREATE TABLE clicks_direct AS clicks")
    ((known,),) = await clickhouse.query(
        "SELECT count() FROM system.settings WHERE name = {name:String}", {"name": RAW_TIMES}
    )
    settings = insert_settings(raw_times=bool(known), timeout_s=60)
    waiting = list(enumerate(blocks))
    before, began = cpu_seconds(server), time.monotonic()

    async def insert_all() -> None:
        while waiting:
            number, block = waiting.pop(0)
            rows = [Row(offset, offset, 0, key, value, False, False) for offset, key, value, _ in block]  # noqa: FBT003
            body = encode_body(rows, block_at_ms(rows[0]), {})
            await clickhouse.insert_bytes("clicks_direct", body, settings | {"insert_deduplication_token": str(number)})

    await asyncio.gather(*(insert_all() for _ in range(AT_ONCE)))
    seconds = time.monotonic() - began
    count = sum(map(len, blocks))
    ((stored,),) = await clickhouse.query("SELECT count() FROM clicks_direct")
    assert stored == count, f"{stored} of {count} rows"
    await clickhouse.command("DROP TABLE clicks_direct SYNC")
    return Figure("ClickHouse alone", count / seconds, (cpu_seconds(server) - before) / count * 1e6, None)


async def measure_sink(sink: SinkBench, server: int, count: int) -> Figure:
    """The sink process on the backlog, and every row exactly once afterwards."""
    before = cpu_seconds(server)
    child = await asyncio.to_thread(sink.start)
    own = cpu_seconds(child.pid)

    async def is_stored() -> bool:
        ((stored,),) = await sink.clickhouse.query("SELECT count() FROM clicks")
        return bool(stored >= count)

    await until(is_stored, f"{count} rows")
    ended_ms = time.time_ns() / 1e6
    spent = cpu_seconds(child.pid) - own, cpu_seconds(server) - before
    ((first_ms,),) = await sink.clickhouse.query("SELECT toUnixTimestamp64Milli(min(inserted_at)) FROM clicks")
    await sink.assert_exact()
    rate = count / (ended_ms - first_ms) * 1000
    return Figure("sink, exactly once", rate, spent[1] / count * 1e6, spent[0] / count * 1e6)


async def measure(found: Stores, rows: int) -> list[Figure]:
    """Both, one after the other."""
    sink = SinkBench(found.guard, found.folder, found.env)
    await sink.open()
    try:
        values = enriched(sink, rows)
        await asyncio.gather(*(sink.write_values(partition, each) for partition, each in values.items()))
        sink.next_raw = {partition: len(each) for partition, each in values.items()}
        whole = [each[n : n + BLOCK_ROWS] for each in values.values() for n in range(0, len(each), BLOCK_ROWS)]
        direct = await measure_direct(sink.clickhouse, found.clickhouse.pid, whole)
        return [direct, await measure_sink(sink, found.clickhouse.pid, sum(map(len, whole)))]
    finally:
        await sink.close()


def show(figures: Sequence[Figure]) -> None:
    """Print the table; the ratio is to ClickHouse alone."""
    base = figures[0].rows_per_second
    print_table(
        ("backlog", "rows/s", "ratio", "ClickHouse CPU-s/million", "sink CPU-s/million"),
        [
            (
                figure.name,
                round(figure.rows_per_second),
                f"{figure.rows_per_second / base:.2f}",
                f"{figure.clickhouse_cpu:.1f}",
                "" if figure.sink_cpu is None else f"{figure.sink_cpu:.1f}",
            )
            for figure in figures
        ],
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=240_000, help="rows of the backlog (default 240,000)")
    rows = max(60_000, min(2_000_000, parser.parse_args().rows))
    with stores() as found:
        show(asyncio.run(measure(found, rows)))


if __name__ == "__main__":
    main()
