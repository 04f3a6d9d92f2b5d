"""Enriched records that Kafka lost before they were stored: one partition stops with an alarm, `refill` heals it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from shared.enriched import enricher_group
from shared.kafka import Admin
from shared.settings import KafkaSettings
from tests.support.figures import Figure
from tests.support.full_stack import FullStack
from tests.support.health import health_text, metric
from tests.support.pipeline import (
    audit_is_clean,
    eventually,
    is_whole,
    now_ms,
    query,
    run,
    succeed,
    until_partitions_move,
)
from tests.support.promise import promised
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


def sink_reasons(stack: FullStack) -> list[str]:
    """Why the sink says that it is not ready."""
    text = health_text(stack.data, "sink", stack.ready["pids"]["sink"], "/readyz")
    found: list[str] = json.loads(text)["reasons"] if text else []
    return found


def gap_alarms(stack: FullStack) -> float:
    """The metric that an operator's alert is made of."""
    return metric(stack.data, "sink", stack.ready["pids"]["sink"], 'clickledger_alarms{reason="gap",service="sink"} ')


async def committed(kafka: KafkaSettings, stream: str) -> dict[int, int]:
    """Up to where the enricher is done for good: below its commit it never writes again unless it is asked to."""
    async with Admin(kafka) as admin:
        found = await admin.committed(enricher_group(stream), kafka.topic_raw, sorted(PARTITIONS))
    return {partition: position.next_offset for partition, position in found.items() if position is not None}


def lose_enriched_records(stack: FullStack, kafka: KafkaSettings, stream: str) -> int:
    """Have clicks enriched, and most of one partition's enriched records deleted, before the sink sees them.

    A batch that was written but not committed (the group was just distributed anew) is written again: that would fill
    the gap. So nothing is deleted before the enricher has committed the end of the raw topic.
    """
    raw_before = sum(asyncio.run(end_offsets(kafka, kafka.topic_raw)).values())
    before = asyncio.run(end_offsets(kafka, kafka.topic_enriched))
    with frozen(stack.ready["pids"]["sink"]):
        succeed(stack, "send", "--count", str(CLICKS), "--rate", "3000", "--batch", "50")

        def is_enriched() -> bool:
            written = asyncio.run(end_offsets(kafka, kafka.topic_raw))
            return sum(written.values()) >= raw_before + CLICKS and asyncio.run(committed(kafka, stream)) == written

        eventually(is_enriched, "the clicks are enriched, and never again")
        ends = asyncio.run(end_offsets(kafka, kafka.topic_enriched))
        partition = max(ends, key=lambda each: ends[each] - before[each])
        assert ends[partition] - before[partition] > 5 * KEPT
        asyncio.run(delete_records(kafka, kafka.topic_enriched, partition, ends[partition] - KEPT))
    return partition


def count_clicks(stack: FullStack) -> int:
    """Rows, without the second copies of clicks that the API had kept in its spool."""
    return int(query(stack, "SELECT count() AS n FROM clicks WHERE reason != 'replayed'")[0]["n"])


def not_stored(stack: FullStack) -> set[str]:
    """The partitions of which the audit waited in vain for a second."""
    waiting = run(stack, "audit", "--wait", "--timeout", "1", "--json")
    assert waiting.returncode == 3, waiting
    return set(json.loads(waiting.stdout)["not_stored"])


def highest_row(stack: FullStack, partition: int) -> int:
    """Up to which raw offset a partition is stored, -1 where nothing is."""
    highest = "if(count() = 0, -1, max(toInt64(raw_offset)))"
    return int(query(stack, f"SELECT {highest} AS n FROM clicks WHERE raw_partition = {partition}")[0]["n"])


def until_stopped(stack: FullStack, lost: int) -> None:
    """The alarm says what is missing; then clicks of all other partitions are stored, and none of this one."""
    told = re.compile(rf"partition {lost}: gap: raw offsets (\d+) to \d+ are missing .* run `clickledger refill`")
    seen: list[list[str]] = []

    def is_told() -> bool:  # a group that is distributed anew meanwhile begins with what Kafka has lost
        seen.append(sink_reasons(stack))
        return gap_alarms(stack) == 1 and len(seen[-1]) == 1 and told.match(seen[-1][0]) is not None

    eventually(is_told, "the sink's alarm")
    ((reason,),) = seen[-1:]
    missing = told.match(reason)
    assert missing
    since_ms = now_ms()
    succeed(stack, "send", "--count", "600", "--rate", "600", "--batch", "5")
    until_partitions_move(stack, PARTITIONS - {lost}, since_ms)
    eventually(lambda: not_stored(stack) == {str(lost)}, "the audit waits for this partition only")
    promised(highest_row(stack, lost) == int(missing[1]) - 1, f"{reason}, and yet it moved")


def test_a_gap_stops_its_partition_and_refill_heals_it(full_stack: FullStack, figure: Figure) -> None:
    """The alarm stands in readiness and metrics, other partitions go on; after `refill` every record is a row."""
    kafka = KafkaSettings(kafka_bootstrap=full_stack.ready["kafka"])
    stream = audit_is_clean(full_stack)["stream"]
    clicks = count_clicks(full_stack)
    lost = lose_enriched_records(full_stack, kafka, stream)
    try:
        until_stopped(full_stack, lost)
    except BaseException:  # a failed assertion, too: other tests share the stack
        run(full_stack, "refill")  # later tests find no gap
        raise

    began = time.monotonic()
    assert f"partition {lost}: enriching from raw offset " in succeed(full_stack, "refill")
    audit_is_clean(full_stack)
    figure(f"partition {lost} healed {time.monotonic() - began:.1f} s after `clickledger refill` began")
    assert count_clicks(full_stack) == clicks + CLICKS + 600
    assert gap_alarms(full_stack) == 0
    assert is_whole(full_stack)
