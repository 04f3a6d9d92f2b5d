"""Kafka fails under running sinks: records that are gone, a broker that dies at the worst moment, members that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from clickledger.stack.guard import Guard
from shared.kafka import Assignment, Consumer
from sink.member import group_id
from tests.support.brokers import LocalBrokers
from tests.support.command_line import run_process
from tests.support.pipeline import assignments
from tests.support.processes import WAIT_S, Child
from tests.support.sinks import QUICK, SMALL, SinkBench
from tests.support.topics import delete_records

CHANGES = 6


@pytest.fixture
async def bench(prepared_env: dict[str, str], guard: Guard, tmp_path: Path) -> AsyncIterator[SinkBench]:
    """Topics, stream and table of this test's own."""
    bench = SinkBench(guard, tmp_path, prepared_env)
    await bench.open()
    yield bench
    await bench.close()


def says(bench: SinkBench, child: Child, text: str) -> bool:
    """Whether readiness names this."""
    return text in "; ".join(bench.reasons(child))


async def test_deleted_records_are_named_and_passed_only_by_a_decision(bench: SinkBench) -> None:
    """Everything behind the last row deleted, then a record that shows the range, then an operator's row; also after a restart."""
    child = bench.start(**QUICK)
    await bench.write_new(100)
    await bench.wait_stored(child)
    child.stop()
    await bench.write_new(50, [0])
    await delete_records(bench.kafka, bench.kafka.topic_enriched, 0, 150)
    child = bench.start(**QUICK)
    named = partial(says, bench, child, "offsets 100 to 149 are no longer in Kafka (retention)")
    await bench.until(named, "the alarm for lost records", child)
    assert says(bench, child, "partition 0: lost: ")
    assert says(bench, child, "raw offsets from 100 on may be among them")
    assert bench.metric(child, "clickledger_sink_records_lost_total") == 50

    await bench.write_new(10)
    await bench.until(lambda: says(bench, child, "raw offsets 100 to 149 are missing"), "the exact range", child)
    assert not says(bench, child, "partition 0: lost: ")
    child.kill()
    child = bench.start(**QUICK)
    await bench.until(
        lambda: says(bench, child, "raw offsets 100 to 149 are missing"), "the same after a restart", child
    )

    for _ in range(160):
        await bench.producer.send(bench.kafka.topic_raw, 0, key=b"x", value=b"x", timestamp_ms=1)
    decision = ("audit", "--accept-gap", "0:100-149", "--reason", "deleted by the test")
    decided = await asyncio.to_thread(run_process, bench.env, *decision)
    assert decided.returncode == 0, decided.stderr
    await bench.until(lambda: not bench.reasons(child), "readiness", child)

    async def is_passed() -> bool:
        position = (await bench.stored())[0]
        return (position.last, position.rows, position.distinct) == (159, 110, 110)

    await bench.until_async(is_passed, "the rows behind the gap", child)
    child.kill()
    await bench.write_new(10, [1])
    child = bench.start(**QUICK)
    await bench.until_async(partial(_ends_at, bench, 1, 119), "rows after a restart", child)
    await bench.until(lambda: not bench.reasons(child), "readiness after a restart", child)


async def _ends_at(bench: SinkBench, partition: int, last: int) -> bool:
    return (await bench.stored())[partition].last == last


async def test_a_plan_that_cannot_be_read_is_unknown(bench: SinkBench, brokers: LocalBrokers) -> None:
    """A member dies with a plan; the broker dies as the next one takes over, so that the plan cannot be read for a while."""
    heir = bench.start(**QUICK)
    doomed = bench.start_faulty("after:insert:3", **QUICK)
    while not doomed.log.exists() or not any(assignments(doomed)):
        await asyncio.sleep(0.1)
    before = len(assignments(heir))
    await bench.write_new(600)
    await bench.died(doomed)
    await bench.until(lambda: len(assignments(heir)) > before, "the take-over", heir)
    await asyncio.to_thread(brokers.kill, 1)
    await asyncio.sleep(2)
    await asyncio.to_thread(brokers.start, 1)
    await bench.wait_stored(heir)


async def test_a_storm_of_rebalances_under_load(bench: SinkBench) -> None:
    """Guests join the group, take partitions, store nothing and leave, one after the other: every row once."""
    child = bench.start(**SMALL)
    for number in range(CHANGES // 2):
        await bench.write_new(200)
        guest = Guest(bench, f"guest-{number}")
        await guest.stay(child)
        await bench.write_new(200)
    await bench.wait_stored(child)
    assert len(assignments(child)) > CHANGES // 2
    assert child.alive


async def test_two_sinks_of_one_name(bench: SinkBench, tmp_path: Path) -> None:
    """Two data folders, one node: the first says so and goes on beside the second, and each has partitions; one is killed."""

    def partitions(child: Child) -> float:
        return bench.metric(child, "clickledger_sink_partitions")

    first = bench.start(**QUICK)
    await bench.write_new(200)
    await bench.wait_stored(first)
    second = bench.start(**QUICK, CLICKLEDGER_DATA=str(tmp_path / "other"))
    await bench.until(lambda: says(bench, first, "name_taken: another process joined"), "the alarm", first)
    await bench.write_new(200)
    await bench.wait_stored(first)
    await bench.until(lambda: 0 < partitions(first) < bench.partitions, "a share for each", first)
    assert await asyncio.to_thread(bench.metric, first, 'clickledger_alarms{reason="name_taken",service="sink"}') == 1
    settled = len(assignments(first)), len(assignments(second))
    await asyncio.sleep(8)  # some heartbeats
    assert (len(assignments(first)), len(assignments(second))) == settled
    second.kill()
    await bench.write_new(200)
    await bench.wait_stored(first)


class Guest:
    """A member of the sinks' group that holds its partitions for a moment."""

    def __init__(self, bench: SinkBench, name: str) -> None:
        self._bench = bench
        self._owned = asyncio.Event()
        self._consumer = Consumer(
            bench.kafka,
            bench.kafka.topic_enriched,
            group_id(bench.stream, f"{bench.clickhouse.database}.clicks"),
            service="guest",
            instance_id=name,
            start_offset=lambda _partition: 0,
            on_assigned=self._assigned,
            on_revoked=self._revoked,
            on_name_taken=pytest.fail,
        )

    def _assigned(self, assigned: Sequence[Assignment]) -> None:
        if assigned:
            self._owned.set()

    async def _revoked(self, _revoked: Sequence[Assignment]) -> None:
        """Nothing to end."""

    async def stay(self, member: Child) -> None:
        """Join, own partitions, leave; return when the member has all partitions again."""
        before = len(assignments(member))
        await self._consumer.start()
        await asyncio.wait_for(self._owned.wait(), WAIT_S)
        await self._consumer.close(leave=True)

        def is_alone() -> bool:
            found = assignments(member)
            return len(found) > before and len(found[-1]) == self._bench.partitions

        await self._bench.until(is_alone, "all partitions again", member)
