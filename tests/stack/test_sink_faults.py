"""ClickHouse fails under a running sink in every way we can make it: it stands still, says why, and goes on by itself.

One sink lives through all of it. It never ends, keeps its partitions (heartbeats go on), holds no more than its buffer
may, and at the end of each fault every record is exactly one row.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from clickledger.stack.guard import Guard
from sink.ddl import apply_ddl
from tests.support.clickhouse import LocalClickHouse
from tests.support.pipeline import assignments
from tests.support.processes import Child
from tests.support.sinks import QUICK, SinkBench

BUFFER_BYTES = 4 << 20


@dataclass
class Place:
    """The sink, its table and its server."""

    bench: SinkBench
    server: LocalClickHouse
    sink: Child

    async def sql(self, statement: str) -> None:
        """Change the table behind the sink's back."""
        await self.bench.clickhouse.command(statement)

    async def table(self, change: str) -> None:
        """Alter the table, and the one where rows are probed."""
        for name in ("clicks", "clicks_probe"):
            await self.sql(f"ALTER TABLE {name} {change}")

    async def restart(self, password: str) -> None:
        """Kill the server and start it with a password."""
        await self.kill()
        await asyncio.to_thread(self.server.start, password)

    async def kill(self) -> None:
        """As kill -9."""
        await asyncio.to_thread(self.server.kill)


Step = Callable[[Place], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """What is done, how it is undone, and what the alarm must say; without an alarm it is only waited for."""

    name: str
    inflict: Step
    heal: Step
    alarm: str = ""
    records: int = 100
    """Written to each partition meanwhile."""


async def _freeze(place: Place) -> None:
    os.kill(place.server.pid, signal.SIGSTOP)


async def _thaw(place: Place) -> None:
    os.kill(place.server.pid, signal.SIGCONT)


def _setting(text: str) -> Step:
    return lambda place: place.sql(f"ALTER TABLE clicks MODIFY SETTING {text}")


def _reset(names: str) -> Step:
    return lambda place: place.sql(f"ALTER TABLE clicks RESET SETTING {names}")


async def _set_up(place: Place) -> None:
    await apply_ddl(place.bench.clickhouse, place.bench.clickhouse.database)  # `setup` does, but wants raw records too


FAULTS = [
    Fault("killed, with more than the buffer takes", Place.kill, lambda place: asyncio.to_thread(place.server.start), records=1_000),
    Fault("frozen past the insert's time-out", _freeze, _thaw),
    Fault("too many parts", _setting("parts_to_throw_insert = 1, parts_to_delay_insert = 0"), _reset("parts_to_throw_insert, parts_to_delay_insert")),
    Fault("disk full", _setting(f"min_free_disk_bytes_to_perform_insert = {1 << 60}"), _reset("min_free_disk_bytes_to_perform_insert"), "NOT_ENOUGH_SPACE"),
    Fault("read-only", _setting("table_readonly = 1"), _setting("table_readonly = 0"), "READ_ONLY"),
    Fault("a column is missing", lambda p: p.table("DROP COLUMN city"), lambda p: p.table("ADD COLUMN city LowCardinality(String) AFTER region"), "city"),
    Fault(
        "a column has another type, so that every row is refused",
        lambda p: p.table("DROP COLUMN city, ADD COLUMN city UUID AFTER region"),
        lambda p: p.table("DROP COLUMN city, ADD COLUMN city LowCardinality(String) AFTER region"),
        "known to be good",
    ),
    Fault("password changed", lambda p: p.restart("another"), lambda p: p.restart(""), "AUTHENTICATION_FAILED"),
    Fault("database dropped", lambda p: p.sql(f"DROP DATABASE {p.bench.clickhouse.database} SYNC"), _set_up, "UNKNOWN_DATABASE"),
]  # fmt: skip


@pytest.fixture
async def bench(prepared_env: dict[str, str], guard: Guard, tmp_path: Path) -> AsyncIterator[SinkBench]:
    """Topics, stream and table of this test's own."""
    bench = SinkBench(guard, tmp_path, prepared_env)
    await bench.open()
    yield bench
    await bench.close()


async def test_a_sink_survives_whatever_clickhouse_does(bench: SinkBench, clickhouse_server: LocalClickHouse) -> None:
    """Alarm or patience as the error's class says, and after each fault the rows are exact; the same member all along."""
    sink = bench.start(
        **QUICK, CLICKLEDGER_SINK_BUFFER_BYTES_MAX=str(BUFFER_BYTES), CLICKLEDGER_CLICKHOUSE_QUERY_TIMEOUT_MS="2000"
    )
    place = Place(bench, clickhouse_server, sink)
    for fault in FAULTS:
        await bench.write_new(50)
        await bench.wait_stored(sink)
        await _live_through(place, fault)
    assert len(assignments(sink)) == 1, "it lost its partitions meanwhile"
    assert await bench.rows("raw_offset", "status != 'accepted'") == []
    assert sink.stop() == 0, sink.tail()


async def _live_through(place: Place, fault: Fault) -> None:
    bench, sink = place.bench, place.sink
    retries = bench.metric(sink, "clickledger_sink_retries_total")
    await fault.inflict(place)
    await bench.write_new(fault.records)

    def stands_still() -> bool:
        assert bench.metric(sink, "clickledger_sink_buffered_bytes") <= BUFFER_BYTES, fault.name
        reasons = "; ".join(bench.reasons(sink))
        is_told = fault.alarm in reasons if fault.alarm else True
        return is_told and bench.metric(sink, "clickledger_sink_retries_total") >= retries + 2

    try:
        await bench.until(stands_still, f"{fault.name}: the sink to stand still", sink)
        assert bool(bench.metric(sink, 'clickledger_alarms{reason="operator"')) == bool(fault.alarm), fault.name
    finally:
        await fault.heal(place)
    await bench.wait_stored(sink)
    await bench.until(lambda: not bench.reasons(sink), f"{fault.name}: readiness", sink)


async def test_a_sink_that_starts_into_a_fault_waits_for_its_end(bench: SinkBench) -> None:
    """A newer schema, an older one, a wrong password: an alarm in readiness and metric, no exit, and it begins when it is mended."""
    await bench.write_new(10)
    await bench.clickhouse.command("INSERT INTO schema_versions (version, name, digest) VALUES (999, 'later.sql', 'x')")
    child = bench.spawn(**QUICK)
    await bench.until(lambda: "does not know" in _said(bench, child), "the alarm for a newer schema", child)
    ((digest,),) = await bench.clickhouse.query("SELECT digest FROM schema_versions WHERE version = 3")
    await bench.clickhouse.command(
        "ALTER TABLE schema_versions DELETE WHERE version IN (3, 999) SETTINGS mutations_sync = 2"
    )
    await bench.until(lambda: "the schema lacks 0003" in _said(bench, child), "the alarm for an older schema", child)
    assert bench.metric(child, 'clickledger_alarms{reason="start"') == 1
    url = bench.env["CLICKLEDGER_CLICKHOUSE_URL"].replace("owner-of", "thief-of")
    stranger = bench.spawn(**QUICK, CLICKLEDGER_CLICKHOUSE_URL=url)
    await bench.until(lambda: "AUTHENTICATION_FAILED" in _said(bench, stranger), "the alarm for a password", stranger)
    assert bench.metric(stranger, 'clickledger_alarms{reason="start"') == 1
    assert stranger.stop() == 0, stranger.tail()
    await bench.clickhouse.command(
        f"INSERT INTO schema_versions (version, name, digest) VALUES (3, '0003', '{digest}')"
    )
    await bench.wait_stored(child)
    await bench.until(lambda: not bench.reasons(child), "readiness", child)


def _said(bench: SinkBench, child: Child) -> str:
    return json.dumps(bench.reasons(child))
