"""Ten times the links, the partitions, the stored rows: rates before and after, audit and reports over the large table.

The rows are made inside ClickHouse and look like those of a former stream, so the audit checks every one of them. They are gone
with the measurement: some 3 GB of disk.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import ExitStack

from pydantic import SecretStr

from bench import fill, reports, wrk
from bench.api import LINKS, QUICK_LINKS, WARM_UP_S, api, ask
from bench.backlog import enrich, fill_raw, store
from bench.part import Recorder, main
from bench.stack import Stores, World, stores
from shared.clickhouse import ClickHouse
from shared.settings import ClickHouseSettings, SinkSettings
from tests.support.full_stack import clean_env

ROWS, QUICK_ROWS = 100_000_000, 1_000_000
PROMOTIONS = 90
BACKLOG, QUICK_BACKLOG = 240_000, 60_000
PARTED = 60 * 2 * SinkSettings().sink_block_rows_max
"""Records in 60 partitions and in 6: full blocks in both, since a small one costs nearly as much as a full one."""
PARTED_TURNS = 2
"""Of the sink: five times the records of other turns, so fewer of them."""
ENRICHER_TURNS = 2
"""For each turn of the sink: the machine's speed drifts, and the enricher needs no full blocks."""
TURNS, TURN_S = 7, 2.0
"""Of each API: many short ones, since the machine's speed drifts between them."""
MERGED_S_MAX = 90.0
AUDIT_S_MAX = 120.0


def measure(recorder: Recorder) -> None:
    """API; enricher and sink; stored rows."""
    with stores() as found:
        found.pin_broker()
        small, wide = found.world("small"), found.world("wide", 60)
        with recorder.attempt("links and partitions of the API"):
            of_api(recorder, found)
        total = {small: 0, wide: 0}
        with recorder.attempt("partitions of enricher and sink"):
            of_partitions(recorder, small, wide, total)
        with recorder.attempt("stored rows"):
            of_rows(recorder, found, small, total)


def of_partitions(recorder: Recorder, small: World, wide: World, total: dict[World, int]) -> None:
    """The same number of records in few and in many partitions, in turn."""
    rows = recorder.scale(PARTED, QUICK_BACKLOG)
    enricher: dict[World, list[float]] = {small: [], wide: []}
    sink: dict[World, list[float]] = {small: [], wide: []}
    for _ in range(recorder.scale(PARTED_TURNS, 1)):
        before = dict(total)
        for _ in range(ENRICHER_TURNS):
            for world in (small, wide):
                enricher[world].append(behind(world, rows // ENRICHER_TURNS, total))
        for world in (small, wide):
            sink[world].append(store(world, before[world], total[world]).rate)
    note = f"{rows // ENRICHER_TURNS:,} records in both"
    recorder.figure("enricher: 60 partitions", enricher[wide], enricher[small], note)
    if recorder.is_quick:
        recorder.skip("sink: 60 partitions", "at this scale no block is full: each waits for its age")
    else:
        recorder.figure("sink: 60 partitions", sink[wide], sink[small], f"{rows:,} records in both")


def behind(world: World, rows: int, total: dict[World, int]) -> float:
    """The enricher's rate on a new backlog. `total`: the records of each world so far."""
    each, before = rows // world.partitions, total[world]
    asyncio.run(fill_raw(world, each, before // world.partitions))
    total[world] = before + each * world.partitions
    return enrich(world, before, total[world]).rate


def through(world: World, total: dict[World, int]) -> float:
    """The sink's rate on a new backlog, which the enricher has worked off."""
    before = total[world]
    behind(world, BACKLOG, total)
    return store(world, before, total[world]).rate


def of_api(recorder: Recorder, found: Stores) -> None:
    """Three servers in turn: 6 partitions between those that it is compared with, ten times the links and 60 partitions."""
    links, seconds = recorder.scale(LINKS, QUICK_LINKS), recorder.scale(TURN_S, 1.0)
    large, base, wide = found.world("links"), found.world("api6"), found.world("api60", 60)
    counts = {large: links, base: links // 10, wide: links // 10}
    for world, count in counts.items():
        asyncio.run(fill.put_tenant(world.kafka))
        asyncio.run(fill.put_links(world.kafka, 0, count))
    rates: dict[World, list[float]] = {world: [] for world in counts}
    with ExitStack() as running:
        servers = {world: running.enter_context(api(world)) for world in counts}
        loads = {world: wrk.single(count) for world, count in counts.items()}
        for world, server in servers.items():
            wrk.run(loads[world], server.port, 64, WARM_UP_S, server.pids, world.folder)
        for _ in range(recorder.scale(TURNS, 1)):
            for world, server in servers.items():
                rates[world].append(ask(server, loads[world], 64, seconds, world.folder).clicks_per_second)
    recorder.figure("API: 60 partitions", rates[wide], rates[base])
    recorder.figure("API: 10 x the links", rates[large], rates[base], f"{links // 10:,} and {links:,} links")


def of_rows(recorder: Recorder, found: Stores, world: World, total: dict[World, int]) -> None:
    """The sink in turn beside a tenth of the rows and beside all; then audit and reports over all."""
    rows, count = recorder.scale(ROWS, QUICK_ROWS), recorder.repetitions
    asyncio.run(make_rows(world, rows))
    if recorder.is_quick:
        recorder.skip("sink: 10 x the stored rows", "so few rows tell nothing")
    else:
        tenth = found.world("tenth")
        total[tenth] = 0
        asyncio.run(make_rows(tenth, rows // 10))
        asyncio.run(settled(world))
        few, many = [], []
        for _ in range(count):
            few.append(through(tenth, total))
            many.append(through(world, total))
        recorder.figure("sink: 10 x the stored rows", many, few, f"{rows // 10:,} and {rows:,} rows")
    stored, size = asyncio.run(settled(world))
    recorder.figure("stored rows", [stored])
    recorder.figure("bytes a stored row", [size / stored], note="rows made for this, with short texts")
    with recorder.attempt("audit"):
        recorder.figure("audit over them", [audit(world) for _ in range(count)])
    with recorder.attempt("reports"):
        asyncio.run(of_reports(recorder, world, found.clickhouse.pid))


def _client(world: World) -> ClickHouse:
    url = SecretStr(world.env["CLICKLEDGER_CLICKHOUSE_URL"])
    return ClickHouse(ClickHouseSettings(clickhouse_url=url, clickhouse_query_timeout_ms=600_000))


async def make_rows(world: World, count: int) -> None:
    """Rows of a former stream."""
    async with _client(world) as clickhouse:
        await reports.fill(clickhouse, count, PROMOTIONS)


async def settled(world: World) -> tuple[int, int]:
    """Wait until nothing is merged; all rows and their bytes."""
    async with _client(world) as clickhouse:
        deadline = time.monotonic() + MERGED_S_MAX
        while time.monotonic() < deadline:
            ((merges,),) = await clickhouse.query("SELECT count() FROM system.merges")
            if not merges:
                break
            await asyncio.sleep(0.5)
        ((stored, size),) = await clickhouse.query(
            "SELECT sum(rows), sum(bytes_on_disk) FROM system.parts "
            "WHERE active AND table = 'clicks' AND database = currentDatabase()"
        )
    return int(stored), int(size)


def audit(world: World) -> float:
    """Seconds of `clickledger audit`, which must find nothing wrong."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "clickledger", "audit"],
        env={**clean_env(), **world.env},
        capture_output=True,
        text=True,
        timeout=AUDIT_S_MAX,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the audit ended with {done.returncode}: {done.stdout}{done.stderr}")
    return time.monotonic() - began


async def of_reports(recorder: Recorder, world: World, server: int) -> None:
    """Three reports of `bench.reports`."""
    by_name = {asked.name: asked for asked in reports.REPORTS}
    async with _client(world) as clickhouse:
        for row, name in (
            ("report of one promotion in a month", "one promotion, by day"),
            ("report of one promotion, without uniques", "one promotion, by day, without uniques"),
            ("report of every promotion, without uniques", "every promotion, without uniques"),
        ):
            found = await reports.measure(clickhouse, server, by_name[name], by_projection=True)
            recorder.figure(row, [found.ms], note=f"reads {found.rows_read:,} rows")


if __name__ == "__main__":
    main("growth", measure, __doc__)
