"""The enricher on a real broker: one record in is one record out, whatever happens to its processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from clickledger.stack.guard import Guard
from enricher import refill
from shared.catalog import Kind
from shared.enriched_fields import ENRICHED_NAMES
from shared.errors import TransientError
from shared.kafka import Admin, TopicSpec
from tests.support.brokers import LocalBrokers
from tests.support.enrichers import CALM, EnricherStack, eventually, first_copies, offset_of, pause, resume
from tests.support.enriching import LINK, raw_value
from tests.support.processes import WAIT_S, Child

PARTITIONS = 4


@pytest.fixture
async def stack(kafka_bootstrap: str, names: Any, tmp_path: Path, guard: Guard) -> AsyncIterator[EnricherStack]:
    """Topics and a catalog of this test's own."""
    stack = EnricherStack(kafka_bootstrap, names, tmp_path, guard, PARTITIONS)
    await stack.open()
    yield stack
    await stack.close()


async def assert_complete(stack: EnricherStack) -> dict[int, list[Any]]:
    """Every raw record has an enriched one, in order, on the same partition, with the same key; the first copies."""
    enriched, raw = await stack.wait_enriched(), await stack.raw()
    taken = {}
    for partition, records in raw.items():
        taken[partition] = first_copies(enriched[partition])
        assert [r.key for r in taken[partition]] == [r.key for r in records]
    return taken


async def load(stack: EnricherStack, rounds: int, count: int = 200) -> None:
    """Send clicks to every partition, again and again."""
    for _ in range(rounds):
        for partition in range(PARTITIONS):
            await stack.send(partition, stack.clicks(partition, count))
        await asyncio.sleep(0.02)


async def test_one_record_in_is_one_record_out(stack: EnricherStack) -> None:
    """Same partition, same order, same key, all fields; malformed bytes among good ones become rows."""
    garbage: list[bytes | None] = [None, b"", b"\xff\xfe", b"{", b"[]", b'{"v":1}', b"\x00" * 1000]
    for partition in range(PARTITIONS):
        good = stack.clicks(partition, 20)
        await stack.send(partition, [*good[:10], *garbage, *good[10:]])
    child = stack.start()
    taken = await _complete_but_for_keys(stack)
    for records in taken.values():
        rows = [orjson.loads(record.value) for record in records]
        assert all(tuple(row) == ENRICHED_NAMES for row in rows)
        assert [row["status"] for row in rows] == ["accepted"] * 10 + ["malformed"] * len(garbage) + ["accepted"] * 10
        assert {row["campaign_id"] for row in rows if row["status"] == "accepted"} == {"c1"}
        assert {row["stream"] for row in rows} == {stack.stream}
        assert all(record.key.decode() == row["transaction_id"] for record, row in zip(records, rows, strict=True))
    assert child.stop() == 0, child.tail()


async def _complete_but_for_keys(stack: EnricherStack) -> dict[int, list[Any]]:
    enriched = await stack.wait_enriched()
    return {partition: first_copies(records) for partition, records in enriched.items()}


async def test_a_stopped_enricher_goes_on_where_it_was(stack: EnricherStack) -> None:
    """A graceful stop commits what was acknowledged: the next start writes nothing twice."""
    await load(stack, 3)
    first = stack.start()
    await assert_complete(stack)
    assert first.stop() == 0, first.tail()
    await load(stack, 3)
    stack.start()
    taken = await assert_complete(stack)
    enriched = await stack.enriched()
    assert {p: len(r) for p, r in taken.items()} == {p: len(r) for p, r in enriched.items()}


@contextlib.asynccontextmanager
async def under_load(stack: EnricherStack) -> AsyncIterator[None]:
    """Clicks arrive on every partition for as long as the body takes."""
    over = asyncio.Event()

    async def send() -> None:
        while not over.is_set():
            await load(stack, 1)

    sending = asyncio.ensure_future(send())
    yield
    over.set()
    await sending


async def assigned(child: Child, partitions: str = "[") -> None:
    """Wait until a process was given partitions; `partitions` is how its log line goes on."""

    async def is_assigned() -> bool:
        return f"assigned partitions {partitions}" in child.log.read_text().replace("assigned partitions []", "")

    await eventually(is_assigned, [child])


async def test_kill_9_under_load_leaves_no_hole(stack: EnricherStack) -> None:
    """Killed twice in mid-load, restarted each time: every offset is there, in order."""
    child = stack.start()
    async with under_load(stack):
        for _ in range(2):
            await assigned(child)
            before = sum(map(len, (await stack.enriched()).values()))

            async def has_moved(before: int = before) -> bool:
                return sum(map(len, (await stack.enriched()).values())) > before

            await eventually(has_moved, [child])
            child.kill()
            child = stack.start()
    await assert_complete(stack)


async def test_two_enrichers_join_and_leave_under_load(stack: EnricherStack) -> None:
    """Partitions move between processes, one of which is stopped and one killed, without a hole."""
    first = stack.start(1)
    async with under_load(stack):
        await assigned(first, "[0, 1, 2, 3]")
        second = stack.start(2)
        await assigned(second)
        assert first.stop() == 0, first.tail()
        third = stack.start(3)
        await assigned(third)
        third.kill()
    await assert_complete(stack)
    assert second.alive, second.tail()


async def test_a_paused_owner_that_wakes_up_makes_no_hole(stack: EnricherStack) -> None:
    """A process that slept past its session may write copies of what others wrote, never a record before a lower one."""
    sleeper = stack.start(1)
    async with under_load(stack):
        await assigned(sleeper, "[0, 1, 2, 3]")
        pause(sleeper)
        other = stack.start(2)
        await assigned(other, "[0, 1, 2, 3]")
        resume(sleeper)
        await load(stack, 5)
    await assert_complete(stack)
    assert sleeper.alive, sleeper.tail()
    assert other.alive, other.tail()


async def test_a_killed_broker_leaves_no_hole(stack: EnricherStack, brokers: LocalBrokers) -> None:
    """The broker dies under load and comes back: batches of unknown outcome are written again, in order."""
    child = stack.start()
    await assigned(child)
    for _ in range(6):
        for partition in range(PARTITIONS):
            await stack.send(partition, stack.clicks(partition, 500))
    await asyncio.to_thread(brokers.kill, 1)
    await asyncio.to_thread(brokers.start, 1)
    await assert_complete(stack)
    assert child.alive, child.tail()


async def test_refill_rewinds_a_running_enricher(stack: EnricherStack) -> None:
    """Every record from the wanted offset on is written again, upwards without holes; the rest goes on."""
    await load(stack, 2, count=50)
    stack.start(**CALM)
    await assert_complete(stack)
    outcomes = await refill.request(stack.kafka, stack.stream, {1: 30, 2: 0}, timeout_s=WAIT_S)
    assert [outcome.partition for outcome in outcomes] == [1, 2]

    async def is_written_again() -> bool:
        enriched = await stack.enriched()
        return [len(enriched[p]) for p in range(PARTITIONS)] == [100, 170, 200, 100]

    await eventually(is_written_again)
    enriched = await stack.enriched()
    assert [offset_of(record) for record in enriched[1][100:]] == list(range(30, 100))
    assert [offset_of(record) for record in enriched[2][100:]] == list(range(100))
    await load(stack, 1, count=50)
    await assert_complete(stack)


async def test_refill_heals_a_lost_enriched_topic_also_after_a_kill(stack: EnricherStack) -> None:
    """A request made while no enricher runs is done by the next one, once."""
    await load(stack, 2, count=50)
    child = stack.start(**CALM)
    await assert_complete(stack)
    child.kill()
    async with Admin(stack.kafka) as admin:
        await admin.delete(stack.kafka.topic_enriched)
        while stack.kafka.topic_enriched in await admin.topics():
            await asyncio.sleep(0.1)
        await admin.create(TopicSpec(stack.kafka.topic_enriched, PARTITIONS, 1))
    with pytest.raises(TransientError, match="the request stands"):
        await refill.request(stack.kafka, stack.stream, dict.fromkeys(range(PARTITIONS), 0), timeout_s=0.5)
    for _ in range(2):
        child = stack.start(**CALM)
        await assert_complete(stack)
        child.stop()
    enriched = await stack.enriched()
    assert [len(enriched[p]) for p in range(PARTITIONS)] == [100] * PARTITIONS


async def test_a_click_waits_for_its_catalog_version(stack: EnricherStack) -> None:
    """A click that is stamped with a version still to come is enriched with that version, not before."""
    stack.start()
    await load(stack, 1, count=5)
    await assert_complete(stack)
    promotion = {"v": 1, "tenant": "acme", "promotion_id": "late", "campaign_id": "c2", "deployment_id": "d2"}
    click = raw_value(link={**LINK, "promotion_id": "late"}, catalog_version=stack.version + 1)
    await stack.send(0, [click])
    await asyncio.sleep(0.5)
    assert await stack.writer.put(Kind.PROMOTION, "acme/late", promotion) == stack.version + 1
    taken = await assert_complete(stack)
    assert orjson.loads(taken[0][-1].value)["campaign_id"] == "c2"


async def test_a_replaced_stream_ends_the_process(stack: EnricherStack) -> None:
    """Records of a raw topic that was made anew are never passed on under the old stream's id."""
    child = stack.start()
    await assigned(child)
    await stack.writer.put(Kind.STREAM, stack.kafka.topic_raw, {**stack.stream_record, "stream": "another"})

    async def is_over() -> bool:
        return not child.alive

    await eventually(is_over, [child])
    assert child.process.returncode == 1
    assert "is now stream another" in child.tail()


async def test_a_version_beyond_the_catalogs_end_is_malformed(stack: EnricherStack) -> None:
    """A stamp that no catalog record has cannot stop the partition: proved to be beyond the end, it is a row."""
    stack.start()
    await stack.send(0, [raw_value(catalog_version=1_000_000), *stack.clicks(0, 3)])
    taken = await assert_complete(stack)
    rows = [orjson.loads(record.value) for record in taken[0]]
    assert [row["reason"] for row in rows] == ["catalog_version_ahead", "", "", ""]


async def test_lost_raw_records_stop_their_partition_and_name_the_range(
    stack: EnricherStack,
) -> None:
    """Records deleted before they were read: that partition waits for the operator, the others go on."""
    await load(stack, 1, count=50)
    child = stack.start(**CALM)
    await assert_complete(stack)
    child.stop()
    await load(stack, 1, count=50)
    async with Admin(stack.kafka) as admin:
        await admin._client.delete_records({_topic_partition(stack, 3): _up_to(80)})
    child = stack.start(**CALM)
    await stack.wait_enriched({0: 100, 1: 100, 2: 100})

    async def is_named() -> bool:
        return "offsets 50 to 79 are no longer in Kafka" in child.tail(50)

    await eventually(is_named, [child])
    await refill.request(stack.kafka, stack.stream, {3: 80}, accept_lost=True, timeout_s=WAIT_S)
    enriched = await stack.wait_enriched()
    assert [offset_of(record) for record in enriched[3]] == [*range(50), *range(80, 100)]


def _topic_partition(stack: EnricherStack, partition: int) -> Any:
    from aiokafka import TopicPartition

    return TopicPartition(stack.kafka.topic_raw, partition)


def _up_to(offset: int) -> Any:
    from aiokafka.admin import RecordsToDelete

    return RecordsToDelete(before_offset=offset)
