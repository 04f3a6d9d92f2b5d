"""Rows a second of the sink on a backlog, beside ClickHouse's own ingest of the same blocks and a naive sink.

A real broker, the ClickHouse engine behind HTTP and the sink as a process. Records are enriched beforehand by the real
enricher's function. ClickHouse's own ingest is the same blocks as ready bodies over as many connections as the sink
uses, without Kafka and without any guarantee, into a table with as many rows (an empty one merges less). Both have
ClickHouse on a core of its own, all else on the other one; and once more with both cores for all, where what the sink and the
broker need is taken from ClickHouse. The sink's rate
counts from its first insert to the moment when a query sees the last row; every row is then checked to be there exactly
once, and every block to be one part.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from bench import fill
from bench.baselines.clickhouse_ingest import ingest
from bench.machine import ALL_CORES, LOAD_CORE, SERVER_CORE, cpu_seconds, pin, rss_mb
from bench.part import Recorder, main
from bench.stack import Stores, World, stores
from enricher.addresses import AddressBook
from enricher.agents import load_agent_parser
from enricher.directory import Directory
from enricher.enrich import enrich
from enricher.places import COUNTRY_FILE, PlaceFiles
from enricher.row import RawRecord, Tools
from shared.settings import SinkSettings
from sink.table import RAW_TIMES, insert_settings
from tests.support.full_stack import clean_env
from tests.support.sinks import SinkBench

SETTINGS = SinkSettings()
BLOCK_ROWS = SETTINGS.sink_block_rows_max
WAIT_S = 120.0
POLL_S = 0.25
NAIVE_S_MAX = 90.0
MERGED_S_MAX = 60.0

Value = tuple[int, bytes, bytes, bool]
"""(raw offset, key, enriched record, suspect)"""


class Caught(NamedTuple):
    """How the sink worked a backlog off. CPU in us a row."""

    rate: float
    cpu_us: float
    clickhouse_us: float
    peak_mb: float


class Turn(NamedTuple):
    """ClickHouse alone, and then the sink, with the same rows on the same cores."""

    direct_rate: float
    direct_cpu_us: float
    caught: Caught


class OneCampaign:
    """A catalog with one tenant and one promotion."""

    version = 0

    def tenant(self, _tenant: str) -> dict[str, object]:
        """The tenant."""
        return {"retention_days": 90, "privacy": "store"}

    def promotion(self, _tenant: str, _promotion: str) -> dict[str, object]:
        """The promotion."""
        return {"campaign_id": "c1", "deployment_id": "d1"}


def tools() -> Tools:
    """What the steps of the enricher use."""
    return Tools(load_agent_parser(), AddressBook(PlaceFiles([COUNTRY_FILE])), Directory(OneCampaign()))


def enriched(sink: SinkBench, each: int, step: Tools) -> dict[int, list[Value]]:
    """The next `each` enriched records of every partition."""
    at_ms = fill.now_ms()

    def made(partition: int, first: int) -> Iterator[Value]:
        for offset, (key, value) in enumerate(fill.raw_clicks(partition, each, first, 0), first):
            out = enrich(RawRecord(sink.stream, partition, offset, key, value, at_ms), step, at_ms)
            yield offset, out.key, out.value, False

    return {partition: list(made(partition, first)) for partition, first in sink.next_raw.items()}


async def append(sink: SinkBench, values: dict[int, list[Value]]) -> None:
    """Write them into the enriched topic."""
    await asyncio.gather(*(sink.write_values(partition, each) for partition, each in values.items()))
    for partition, each in values.items():
        sink.next_raw[partition] = each[-1][0] + 1


async def direct(sink: SinkBench, server: int, values: dict[int, list[Value]]) -> tuple[float, float]:
    """ClickHouse alone, into a table of the same definition with the same rows before: rows a second, its CPU in us a row."""
    await sink.clickhouse.command("CREATE TABLE IF NOT EXISTS clicks_direct AS clicks")
    known = await sink.clickhouse.query(
        "SELECT count() FROM system.settings WHERE name = {name:String}", {"name": RAW_TIMES}
    )
    ((stored_before,),) = await sink.clickhouse.query("SELECT count() FROM clicks_direct")
    bodies, count, at_ms = [], 0, fill.now_ms()
    for each in values.values():
        for begin in range(0, len(each), BLOCK_ROWS):
            block = each[begin : begin + BLOCK_ROWS]
            bodies.append(b"\n".join(b'%b,"block_at":%d}' % (value[:-1], at_ms) for _, _, value, _ in block))
            count += len(block)
    settings = insert_settings(raw_times=bool(known[0][0]), timeout_s=60)
    before = cpu_seconds(server)
    url = sink.env["CLICKLEDGER_CLICKHOUSE_URL"]
    seconds = await asyncio.to_thread(ingest, url, "clicks_direct", bodies, settings, SETTINGS.sink_inserts_at_once)
    used = cpu_seconds(server) - before
    ((stored,),) = await sink.clickhouse.query("SELECT count() FROM clicks_direct")
    if stored - stored_before != count:
        raise RuntimeError(f"{stored - stored_before} of {count} rows")
    return count / seconds, used / count * 1e6


async def catch_up(sink: SinkBench, server: int, first: int, count: int) -> Caught:
    """The sink process on a backlog of `count` rows, in each partition from raw offset `first` on."""
    before = cpu_seconds(server)
    child = await asyncio.to_thread(sink.start)
    try:
        seen, own = 0, 0.0  # at the first look that saw rows of this backlog: what start-up needs lies before
        of_backlog = f"FROM clicks WHERE stream = '{sink.stream}' AND raw_offset >= {first}"
        deadline = time.monotonic() + WAIT_S
        wanted = sum(sink.next_raw.values())
        while (stored := await _count(sink)) < wanted:
            if not seen and stored > wanted - count:
                seen, own = stored - (wanted - count), cpu_seconds(child.pid)
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {WAIT_S:.0f} s for {count} rows: {await sink.stored()}\n{child.tail()}")
            is_near = wanted - stored <= count // 20
            await asyncio.sleep(POLL_S / 10 if is_near else POLL_S)  # the end is to be seen exactly
        ended_ms = time.time_ns() / 1e6
        spent = cpu_seconds(child.pid) - own, cpu_seconds(server) - before
        peak = rss_mb(child.pid, peak=True)
        ((first_ms,),) = await sink.clickhouse.query(f"SELECT toUnixTimestamp64Milli(min(inserted_at)) {of_backlog}")
        await sink.assert_exact()
    finally:
        await asyncio.to_thread(child.stop)
    cpu_us = spent[0] / max(1, count - seen) * 1e6
    return Caught(count / (ended_ms - first_ms) * 1000, cpu_us, spent[1] / count * 1e6, peak)


async def merged(sink: SinkBench) -> None:
    """Wait until nothing is merged: what one side leaves to be merged must not be the other's work."""
    deadline = time.monotonic() + MERGED_S_MAX
    while time.monotonic() < deadline:
        ((merges,),) = await sink.clickhouse.query("SELECT count() FROM system.merges")
        if not merges:
            return
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"ClickHouse still merges after {MERGED_S_MAX:.0f} s")


async def _count(sink: SinkBench) -> int:
    """All rows; the server knows them without reading any."""
    ((rows,),) = await sink.clickhouse.query("SELECT count() FROM clicks")
    return int(rows)


async def parts_per_block(sink: SinkBench, server: int, step: Tools) -> float:
    """Parts that a backlog of one block for each partition makes while nothing is merged, for each block."""
    of_inserts = "FROM system.parts WHERE database = currentDatabase() AND table = 'clicks' AND active"
    await merged(sink)  # one that is under way would end all the same
    await sink.clickhouse.command("SYSTEM STOP MERGES clicks")
    first = sink.next_raw[0]
    ((before,),) = await sink.clickhouse.query(f"SELECT count() {of_inserts}")
    await append(sink, await asyncio.to_thread(enriched, sink, BLOCK_ROWS, step))
    await catch_up(sink, server, first, BLOCK_ROWS * sink.partitions)
    ((after,),) = await sink.clickhouse.query(f"SELECT count() {of_inserts}")
    ((blocks,),) = await sink.clickhouse.query(
        "SELECT uniqExact(raw_partition, inserted_at) FROM clicks WHERE raw_offset >= {first:UInt64}", {"first": first}
    )
    await sink.clickhouse.command("SYSTEM START MERGES clicks")
    return float((after - before) / blocks)


def naive(world: World, rows: int) -> float:
    """Rows a second of the naive sink, from its first record to its last row; as many of the topic's as it can in its time."""
    command = [sys.executable, "-m", "bench.baselines.naive_sink", str(rows), str(NAIVE_S_MAX)]
    env = {**clean_env(), **world.env}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=2 * NAIVE_S_MAX, check=False)
    if done.returncode:
        raise RuntimeError(f"the naive sink: {done.stderr}")
    found = json.loads(done.stdout)
    return float(found["rows"] / found["seconds"])


@contextmanager
def cores_of_their_own(found: Stores) -> Iterator[None]:
    """ClickHouse on one core; the broker, this process and what it starts on the other."""
    others = (os.getpid(), found.brokers.pid())
    pin(found.clickhouse.pid, LOAD_CORE)
    for pid in others:
        pin(pid, SERVER_CORE)
    try:
        yield
    finally:
        for pid in (*others, found.clickhouse.pid):
            pin(pid, ALL_CORES)


async def turn(sink: SinkBench, server: int, each: int, step: Tools) -> Turn:
    """ClickHouse alone, then the sink."""
    values = await asyncio.to_thread(enriched, sink, each, step)
    first = sink.next_raw[0]
    await append(sink, values)
    await merged(sink)
    rate, cpu_us = await direct(sink, server, values)
    await merged(sink)
    return Turn(rate, cpu_us, await catch_up(sink, server, first, each * sink.partitions))


async def measure_world(recorder: Recorder, world: World, found: Stores, rows: int) -> None:
    """Repetitions in turn."""
    server = found.clickhouse.pid
    sink = SinkBench(world.guard, world.folder, world.env)
    await sink.open()
    try:
        each = max(1, rows // (sink.partitions * BLOCK_ROWS)) * BLOCK_ROWS
        step = tools()
        apart: list[Turn] = []
        together: list[Turn] = []
        for _ in range(recorder.repetitions):
            with cores_of_their_own(found):
                apart.append(await turn(sink, server, each, step))
            together.append(await turn(sink, server, each, step))
        figures(recorder, apart, together)
        with recorder.attempt("parts per block"):
            recorder.figure("parts per block", [await parts_per_block(sink, server, step)])
        with recorder.attempt("the naive sink"):
            await sink.clickhouse.command("CREATE TABLE clicks_naive AS clicks")
            found = await asyncio.to_thread(naive, world, min(recorder.scale(100_000, 20_000), each))
            recorder.figure("naive: rows as lists, client.insert", [found], [turn.direct_rate for turn in together])
    finally:
        await sink.close()


def figures(recorder: Recorder, apart: Sequence[Turn], together: Sequence[Turn]) -> None:
    """The rows of both."""
    note = f"{SETTINGS.sink_inserts_at_once} connections, blocks of {BLOCK_ROWS:,} rows"
    for turns, where in ((apart, ""), (together, ", both cores for all")):
        own = [turn.direct_rate for turn in turns]
        recorder.figure(f"ClickHouse's own ingest of the same blocks{where}", own, note=note)
        recorder.figure(f"backlog, exactly once{where}", [turn.caught.rate for turn in turns], own)
    recorder.figure("CPU of the sink", [turn.caught.cpu_us for turn in together])
    cpu = [turn.direct_cpu_us for turn in together]
    recorder.figure("CPU of ClickHouse", [turn.caught.clickhouse_us for turn in together], cpu)
    recorder.figure("memory, peak", [turn.caught.peak_mb for turn in (*apart, *together)])


def measure(recorder: Recorder) -> None:
    """Everything about the sink."""
    with stores() as found:
        world = found.world("sink")
        asyncio.run(measure_world(recorder, world, found, recorder.scale(600_000, 60_000)))


if __name__ == "__main__":
    main("sink", measure, __doc__)
