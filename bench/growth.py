"""Ten times the links, the partitions, the stored rows: rates before and after, audit and reports over the large table.

The rows are made inside ClickHouse and look like those of a former stream, so the audit checks every one of them. They are gone
with the measurement: some 3 GB of disk.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable

from pydantic import SecretStr

from bench import fill, open_loop, reports, wrk
from bench.api import LINKS, QUICK_LINKS, WARM_UP_S, Server, api, ask
from bench.backlog import enrich, fill_raw, store
from bench.part import Recorder, main
from bench.stack import Stores, World, stores
from shared.clickhouse import ClickHouse
from shared.settings import ClickHouseSettings, SinkSettings
from tests.support.api_service import CLICKS
from tests.support.full_stack import clean_env

ROWS, QUICK_ROWS = 100_000_000, 1_000_000
PROMOTIONS = 90
BACKLOG, QUICK_BACKLOG = 240_000, 60_000
FULL_BLOCK = SinkSettings().sink_block_rows_max
"""Rows of a partition below which a block would wait for its age, which would be measured instead of the work."""
LINKS_S_MAX = 180.0
MERGED_S_MAX = 90.0
AUDIT_S_MAX = 120.0


def measure(recorder: Recorder) -> None:
    """API; enricher and sink; stored rows."""
    with stores() as found:
        found.pin_broker()
        small, wide = found.world("small"), found.world("wide", 60)
        with recorder.attempt("links and partitions of the API"):
            of_api(recorder, found)
        rates: dict[World, list[tuple[float, float]]] = {small: [], wide: []}
        with recorder.attempt("partitions of enricher and sink"):
            total = {small: 0, wide: 0}
            for _ in range(recorder.repetitions):
                for world, some in rates.items():
                    some.append(through(recorder, world, total))
            for place, name in enumerate(("enricher", "sink")):
                wide_rates, base = ([each[place] for each in rates[world]] for world in (wide, small))
                if recorder.is_quick and name == "sink":
                    recorder.skip(f"{name}: 60 partitions", "at this scale no block is full: each waits for its age")
                else:
                    recorder.figure(f"{name}: 60 partitions", wide_rates, base)
        with recorder.attempt("stored rows"):
            of_rows(recorder, found, small, total)


def through(recorder: Recorder, world: World, total: dict[World, int]) -> tuple[float, float]:
    """A backlog through enricher and sink, one after the other; the rates of both."""
    each = recorder.scale(max(BACKLOG // world.partitions, FULL_BLOCK), QUICK_BACKLOG // world.partitions)
    before = total[world]
    asyncio.run(fill_raw(world, each, before // world.partitions))
    total[world] = before + each * world.partitions
    return enrich(world, before, total[world]).rate, store(world, before, total[world]).rate


def of_api(recorder: Recorder, found: Stores) -> None:
    """A tenth of the links with 6 and with 60 partitions, in turn; then all links."""
    links, seconds = recorder.scale(LINKS, QUICK_LINKS), recorder.scale(3.0, 1.0)
    few, many = found.world("api6"), found.world("api60", 60)
    for world in (few, many):
        asyncio.run(fill.put_tenant(world.kafka))
        asyncio.run(fill.put_links(world.kafka, 0, links // 10))
    rates: dict[str, list[float]] = {"6": [], "60": [], "links": []}

    def turn(server: Server, name: str, load: wrk.Load) -> None:
        assert server.world is not None
        rates[name].append(ask(server, load, 64, seconds, server.world.folder).clicks_per_second)

    with api(few) as six, api(many) as sixty:
        load = wrk.single(links // 10)
        for server in (six, sixty):
            wrk.run(load, server.port, 64, WARM_UP_S, server.pids, few.folder)
        for _ in range(recorder.repetitions):
            turn(six, "6", load)
            turn(sixty, "60", load)
        asyncio.run(fill.put_links(few.kafka, links // 10, links - links // 10))
        wait(lambda: _takes(six, links - 1), LINKS_S_MAX, f"{links} links")
        for _ in range(recorder.repetitions):
            turn(six, "links", wrk.single(links))
    recorder.figure("API: 60 partitions", rates["60"], rates["6"])
    recorder.figure("API: 10 x the links", rates["links"], rates["6"], f"{links // 10:,} and {links:,} links")


def _takes(server: Server, link: int) -> bool:
    assert server.world is not None
    body = wrk.clicks(1, 1)[0].replace(fill.link_of(0), fill.link_of(link))
    try:
        return open_loop.hold(server.port, CLICKS, [body], 1, 1, server.world.folder).good == 1
    except RuntimeError:
        return False


def wait(holds: Callable[[], bool], seconds_max: float, what: str) -> None:
    """Wait until it holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds_max
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds_max:.0f} s for {what}")
        time.sleep(0.2)


def of_rows(recorder: Recorder, found: Stores, world: World, total: dict[World, int]) -> None:
    """The sink beside a tenth of the rows, and beside all; then audit and reports."""
    rows, count = recorder.scale(ROWS, QUICK_ROWS), recorder.repetitions
    asyncio.run(make_rows(world, 0, rows // 10))
    before = [] if recorder.is_quick else [through(recorder, world, total)[1] for _ in range(count)]
    asyncio.run(make_rows(world, rows // 10, rows - rows // 10))
    stored, size = asyncio.run(settled(world))
    if recorder.is_quick:
        recorder.skip("sink: 10 x the stored rows", "so few rows tell nothing")
    else:
        after = [through(recorder, world, total)[1] for _ in range(count)]
        recorder.figure("sink: 10 x the stored rows", after, before, f"{rows // 10:,} and {rows:,} rows")
    recorder.figure("stored rows", [stored])
    recorder.figure("bytes a stored row", [size / stored], note="rows made for this, with short texts")
    with recorder.attempt("audit"):
        recorder.figure("audit over them", [audit(world) for _ in range(count)])
    with recorder.attempt("reports"):
        asyncio.run(of_reports(recorder, world, found.clickhouse.pid))


def _client(world: World) -> ClickHouse:
    url = SecretStr(world.env["CLICKLEDGER_CLICKHOUSE_URL"])
    return ClickHouse(ClickHouseSettings(clickhouse_url=url, clickhouse_query_timeout_ms=600_000))


async def make_rows(world: World, first: int, count: int) -> None:
    """Rows of a former stream."""
    async with _client(world) as clickhouse:
        await reports.fill(clickhouse, count, PROMOTIONS, first)


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
