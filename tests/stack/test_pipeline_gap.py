"""Enriched records that Kafka lost before they were stored: one partition stops with an alarm, `refill` heals it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import HTTPError
from urllib.request import urlopen

from shared.settings import KafkaSettings
from tests.support.figures import Figure
from tests.support.full_stack import FullStack
from tests.support.pipeline import (
    audit_is_clean,
    count_rows,
    eventually,
    health_port,
    is_whole,
    now_ms,
    partitions_with_clicks_since,
    run,
    succeed,
    until_partitions_move,
)
from tests.support.topics import delete_records, end_offsets

CLICKS = 3_000
KEPT = 20
PARTITIONS = set(range(6))


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Let a process stand still meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def sink_says(stack: FullStack, path: str) -> str:
    """What the sink's health endpoint answers, ready or not."""
    address = f"http://127.0.0.1:{health_port(stack, 'sink', stack.ready['pids']['sink'])}{path}"
    try:
        with urlopen(address, timeout=10) as answer:
            text: str = answer.read().decode()
    except HTTPError as not_ready:
        with not_ready:
            text = not_ready.read().decode()
    return text


def gap_alarms(stack: FullStack) -> float:
    """The metric that an operator's alert is made of."""
    name = 'clickledger_alarms{reason="gap",service="sink"} '
    found = [line for line in sink_says(stack, "/metrics").splitlines() if line.startswith(name)]
    return float(found[0].removeprefix(name)) if found else 0.0


def lose_enriched_records(stack: FullStack, kafka: KafkaSettings) -> int:
    """Have clicks enriched, and most of one partition's enriched records deleted, before the sink sees them."""
    before = asyncio.run(end_offsets(kafka, kafka.topic_enriched))
    with frozen(stack.ready["pids"]["sink"]):
        succeed(stack, "send", "--count", str(CLICKS), "--rate", "3000", "--batch", "50")

        def is_enriched() -> bool:
            return sum(asyncio.run(end_offsets(kafka, kafka.topic_enriched)).values()) >= sum(before.values()) + CLICKS

        eventually(is_enriched, "the clicks are enriched")
        ends = asyncio.run(end_offsets(kafka, kafka.topic_enriched))
        partition = max(ends, key=lambda each: ends[each] - before[each])
        assert ends[partition] - before[partition] > 5 * KEPT
        asyncio.run(delete_records(kafka, kafka.topic_enriched, partition, ends[partition] - KEPT))
    return partition


def test_a_gap_stops_its_partition_and_refill_heals_it(full_stack: FullStack, figure: Figure) -> None:
    """The alarm stands in readiness and metrics, other partitions go on; after `refill` every record is a row."""
    kafka = KafkaSettings(kafka_bootstrap=full_stack.ready["kafka"])
    audit_is_clean(full_stack)
    rows = count_rows(full_stack)
    lost = lose_enriched_records(full_stack, kafka)
    eventually(lambda: gap_alarms(full_stack) == 1, "the sink's alarm")
    reasons = json.loads(sink_says(full_stack, "/readyz"))["reasons"]
    assert [reason for reason in reasons if reason.startswith(f"partition {lost}: gap: raw offsets ")] == reasons
    assert "clickledger refill" in reasons[0]

    since_ms = now_ms()
    succeed(full_stack, "send", "--count", "600", "--rate", "600", "--batch", "5")
    until_partitions_move(full_stack, PARTITIONS - {lost}, since_ms, 60.0)
    assert lost not in partitions_with_clicks_since(full_stack, since_ms)
    waiting = run(full_stack, "audit", "--wait", "--timeout", "1", "--json")
    assert waiting.returncode == 3, waiting
    assert set(json.loads(waiting.stdout)["not_stored"]) == {str(lost)}
    assert count_rows(full_stack) < rows + CLICKS

    began = time.monotonic()
    assert f"partition {lost}: enriching from raw offset " in succeed(full_stack, "refill")
    audit_is_clean(full_stack)
    figure(f"partition {lost} healed {time.monotonic() - began:.1f} s after `clickledger refill` began")
    assert count_rows(full_stack) == rows + CLICKS + 600
    assert gap_alarms(full_stack) == 0
    assert is_whole(full_stack)
