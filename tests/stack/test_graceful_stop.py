"""SIGTERM: what is at hand is finished, partitions are given up, and the end comes in time, whatever is frozen meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clickledger.stack.guard import Guard
from shared.kafka import Admin
from sink.member import group_id
from tests.support.brokers import LocalBrokers
from tests.support.clickhouse import LocalClickHouse
from tests.support.enrichers import EnricherStack, eventually, first_copies
from tests.support.processes import STOPPED_S_MAX, Child
from tests.support.sinks import QUICK, SinkBench

STOP = {"CLICKLEDGER_STOP_DEADLINE_MS": "6000"}
PATIENT = {"CLICKLEDGER_STOP_DEADLINE_MS": "29000"}
"""The longest there is: time to ask a process that is stopping."""


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Let a process stand still meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
async def bench(prepared_env: dict[str, str], guard: Guard, tmp_path: Path) -> AsyncIterator[SinkBench]:
    """Topics, stream and table of this test's own."""
    bench = SinkBench(guard, tmp_path, prepared_env)
    await bench.open()
    yield bench
    await bench.close()


@pytest.fixture
async def stack(kafka_bootstrap: str, names: Any, tmp_path: Path, guard: Guard) -> AsyncIterator[EnricherStack]:
    """Topics and a catalog of this test's own."""
    stack = EnricherStack(kafka_bootstrap, names, tmp_path, guard, 2)
    await stack.open()
    yield stack
    await stack.close()


async def test_a_stopped_sink_leaves_no_block_half_done(bench: SinkBench) -> None:
    """Every partition's last commit says what the table says: no plan is left for the next owner to find."""
    child = bench.start(**QUICK, **PATIENT)
    await bench.write_new(500)
    await bench.until(lambda: bench.metric(child, "clickledger_sink_blocks_total") > 2, "blocks", child)
    assert await asyncio.to_thread(child.stop) == 0, child.tail()
    stored = await bench.stored()
    group = group_id(bench.stream, f"{bench.clickhouse.database}.clicks")
    async with Admin(bench.kafka) as admin:
        committed = await admin.committed(group, bench.kafka.topic_enriched, sorted(stored))
    for partition, position in stored.items():
        at = committed[partition]
        assert at is not None
        assert at.metadata == f"v1:{at.next_offset}-{at.next_offset - 1}:{position.last}:{position.last}"
    await bench.wait_stored(bench.start(**QUICK))


async def test_a_sink_stops_in_time_while_clickhouse_is_frozen(
    bench: SinkBench, clickhouse_server: LocalClickHouse
) -> None:
    """The block at hand is left to its plan; the next process stores it."""
    child = bench.start(**STOP)
    await bench.write_new(10)
    await bench.wait_stored(child)
    with frozen(clickhouse_server.pid):
        await bench.write_new(10)
        await bench.until_planned(child)
        assert await asyncio.to_thread(child.stop) == 0, child.tail()
    await bench.wait_stored(bench.start())


async def test_a_sink_stops_in_time_while_kafka_is_frozen(bench: SinkBench, brokers: LocalBrokers) -> None:
    """Nothing can be committed, and leaving the group has no answer: still an end, at the latest by the deadline."""
    child = bench.start(**STOP)
    await bench.write_new(10)
    await bench.wait_stored(child)
    with frozen(brokers.pid()):
        assert await asyncio.to_thread(child.stop) in (0, 1), child.tail()
    await bench.write_new(10)
    await bench.wait_stored(bench.start())


async def test_an_enricher_stops_in_time_while_kafka_is_frozen(stack: EnricherStack, brokers: LocalBrokers) -> None:
    """The batch at hand is not acknowledged: it is written again by the next process."""
    child = stack.start(**STOP)
    await stack.send(0, stack.clicks(0, 50))
    await stack.wait_enriched()
    with frozen(brokers.pid()):
        assert await asyncio.to_thread(child.stop) in (0, 1), child.tail()
    await stack.send(0, stack.clicks(0, 50))
    stack.start()
    enriched = await stack.wait_enriched()
    assert len(first_copies(enriched[0])) == 100


async def stop_and_kill(child: Child) -> None:
    """SIGTERM after a random moment of work, SIGKILL after a random moment of the stop."""
    await asyncio.sleep(random.uniform(0, 0.5))
    os.kill(child.pid, signal.SIGTERM)
    await asyncio.sleep(random.uniform(0, 0.3))
    child.kill()


async def test_a_sink_killed_while_it_stops_has_only_crashed(bench: SinkBench) -> None:
    """Again and again under load: the rows are exact."""
    for _ in range(3):
        child = bench.start(**QUICK)
        await bench.write_new(300)
        await stop_and_kill(child)
    await bench.wait_stored(bench.start(**QUICK))


async def test_an_enricher_killed_while_it_stops_has_only_crashed(stack: EnricherStack) -> None:
    """Again and again under load: no hole, no lower offset behind a higher one."""
    for _ in range(3):
        child = stack.start()
        await stack.send(0, stack.clicks(0, 500))
        await eventually(partial(_works, child), [child])
        await stop_and_kill(child)
    stack.start()
    enriched = await stack.wait_enriched()
    assert len(first_copies(enriched[0])) == 1_500


async def _works(child: Child) -> bool:
    return "assigned partitions" in child.log.read_text()


async def test_readiness_ends_first(bench: SinkBench, clickhouse_server: LocalClickHouse) -> None:
    """While the block at hand still waits for ClickHouse, /readyz says that the process is stopping."""
    child = bench.start(**PATIENT)
    await bench.write_new(10)
    await bench.wait_stored(child)
    with frozen(clickhouse_server.pid):
        await bench.write_new(10)
        await bench.until_planned(child)
        os.kill(child.pid, signal.SIGTERM)
        await bench.until(lambda: bench.reasons(child) == ["stopping"], "readiness", child)
    assert await asyncio.to_thread(child.process.wait, STOPPED_S_MAX) == 0, child.tail()
    await bench.wait_stored(bench.start())
