"""The enricher's producer: wedged by a frozen broker or a lost leader, it is replaced, and the order of records holds."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from clickledger.stack.guard import Guard
from tests.support.brokers import LocalBrokers
from tests.support.enrichers import EnricherStack, comes_true, eventually, first_copies
from tests.support.processes import Child

PARTITIONS = 4
QUICK = {"CLICKLEDGER_KAFKA_REQUEST_TIMEOUT_MS": "2000"}
FROZEN_S = 5.0
"""Longer than the time-out; a broker that is silent for 9 s loses its leaderships."""
ALL_FROZEN_S = 15.0
"""As long as it may take until the missing acknowledgement is noticed; then the next freeze follows."""
FREEZES_MAX = 8


@pytest.fixture
async def stack(three_brokers: LocalBrokers, names: Any, tmp_path: Path, guard: Guard) -> AsyncIterator[EnricherStack]:
    """Topics with three replicas."""
    stack = EnricherStack(three_brokers.bootstrap, names, tmp_path, guard, PARTITIONS, replicas=3)
    await stack.open()
    yield stack
    await stack.close()


async def send(stack: EnricherStack, count: int = 200) -> None:
    """Clicks for every partition, whatever its leader has just been through."""
    for partition in range(PARTITIONS):
        await stack.send(partition, stack.clicks(partition, count))


async def moved_on(stack: EnricherStack, child: Child, before: float) -> None:
    """Wait until more records were acknowledged than `before`."""

    async def has_more() -> bool:
        return stack.metric(child, "clickledger_enricher_records_total") > before

    await eventually(has_more, [child])


async def test_a_wedged_producer_is_replaced_and_order_holds(stack: EnricherStack, three_brokers: LocalBrokers) -> None:
    """One broker is frozen past the time-out, then each is killed: no acknowledgement, no leader, no coordinator for a while."""
    child = stack.start(**QUICK)
    await send(stack)
    await stack.wait_enriched()
    before = stack.metric(child, "clickledger_enricher_records_total")
    await send(stack)
    os.kill(three_brokers.pid(1), signal.SIGSTOP)
    await asyncio.sleep(FROZEN_S)
    os.kill(three_brokers.pid(1), signal.SIGCONT)
    await moved_on(stack, child, before)
    for node in (1, 2, 3):
        await send(stack)
        await asyncio.to_thread(three_brokers.kill, node)
        await stack.wait_enriched()
        await asyncio.to_thread(three_brokers.start, node)
    raw, enriched = await stack.raw(), await stack.wait_enriched()
    for partition in range(PARTITIONS):
        assert len(first_copies(enriched[partition])) == len(raw[partition])
    assert child.alive, child.tail()


async def freezes_until_replaced(stack: EnricherStack, brokers: LocalBrokers, child: Child) -> bool:
    """Freeze all brokers in mid-load; False when that met a moment in which no batch was on its way."""

    async def is_replaced() -> bool:
        return stack.metric(child, 'clickledger_enricher_producers_replaced_total{reason="no_acknowledgement"}') >= 1

    before = stack.metric(child, "clickledger_enricher_records_total")
    await send(stack, 1_000)
    await moved_on(stack, child, before)
    for node in (1, 2, 3):
        os.kill(brokers.pid(node), signal.SIGSTOP)
    try:
        return await comes_true(is_replaced, ALL_FROZEN_S)
    finally:
        for node in (1, 2, 3):
            os.kill(brokers.pid(node), signal.SIGCONT)


async def test_a_frozen_cluster_replaces_the_producer_by_reason(
    stack: EnricherStack, three_brokers: LocalBrokers
) -> None:
    """With every broker silent in mid-load no batch is acknowledged: counted, closed with a bound, built anew."""
    child = stack.start(**QUICK, CLICKLEDGER_KAFKA_BATCH_BYTES_MAX="65536")
    await send(stack)
    await stack.wait_enriched()
    for _ in range(FREEZES_MAX):
        if await freezes_until_replaced(stack, three_brokers, child):
            break
    else:
        pytest.fail(f"{FREEZES_MAX} freezes, and no batch was on its way in any\n{child.tail()}")
    raw, enriched = await stack.raw(), await stack.wait_enriched()
    for partition in range(PARTITIONS):
        assert len(first_copies(enriched[partition])) == len(raw[partition])
