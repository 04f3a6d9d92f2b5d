"""The Kafka clients against a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka.protocol.group import LeaveGroupRequest
from prometheus_client import REGISTRY

from shared.errors import ClientBroken, DataError, NotOwned, OffsetLost, OutcomeUnknown, TransientError
from shared.kafka import Admin, Assignment, Committed, Consumer, Producer, Reader, TopicSpec, next_offset
from shared.kafka.client import FETCH_WAIT_MS
from shared.metrics import Revoked
from shared.settings import KafkaSettings
from tests.support.brokers import LocalBrokers
from tests.support.enrichers import eventually
from tests.support.processes import WAIT_S


@pytest.fixture
def kafka(kafka_bootstrap: str) -> KafkaSettings:
    """Settings for the test broker."""
    return KafkaSettings(kafka_bootstrap=kafka_bootstrap)


@pytest.fixture
async def producer(kafka: KafkaSettings) -> AsyncIterator[Producer]:
    """A connected producer."""
    producer = Producer(kafka, "test")
    await producer.start()
    yield producer
    await producer.close()


@pytest.fixture
async def topic(kafka: KafkaSettings, names: Any) -> str:
    """A topic of two partitions."""
    async with Admin(kafka) as admin:
        assert await admin.create(TopicSpec(names.raw, 2, 1, {"cleanup.policy": "delete"}))
    return str(names.raw)


async def fill(producer: Producer, topic: str, partition: int, count: int) -> int:
    """Append `count` records; the first offset."""
    batch = producer.new_batch()
    for number in range(count):
        batch.append(timestamp=1_700_000_000_000 + number, key=b"k", value=b"%d" % number, headers=[("h", b"1")])
    return await producer.send_batch(topic, partition, batch)


async def test_growth_is_noticed_by_a_member_that_came_back(
    kafka: KafkaSettings, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restarted static member gets its old assignment without an election; it still notices new partitions."""
    monkeypatch.setattr("shared.kafka.client.METADATA_AGE_MS", 300)
    first = Member(kafka, topic, "g-" + topic, "member")
    await first.join()
    await first.consumer.close()
    again = Member(kafka, topic, "g-" + topic, "member")
    await again.join()
    async with Admin(kafka) as admin:
        await admin.grow(topic, 3)
    try:
        async with asyncio.timeout(WAIT_S):
            while 2 not in again.assigned:
                await again.consumer.getmany(100)
    finally:
        await again.consumer.close()


async def test_grown_topic_is_known_at_once(kafka: KafkaSettings, producer: Producer, topic: str) -> None:
    """A partition that was added after the client learnt the topic takes records at once; one that is not there never."""
    await fill(producer, topic, 0, 1)
    async with Admin(kafka) as admin:
        await admin.grow(topic, 3)
    assert await fill(producer, topic, 2, 1) == 0
    with pytest.raises(TransientError, match="none with number 3"):
        await fill(producer, topic, 3, 1)


async def test_a_retired_producer_ends_its_waits(
    kafka: KafkaSettings, producer: Producer, topic: str, brokers: LocalBrokers
) -> None:
    """With a broker that stands still: what waits for an acknowledgement is unknown, what was not sent is certain."""
    await fill(producer, topic, 0, 1)
    os.kill(brokers.pid(), signal.SIGSTOP)
    try:
        await all_stopped(brokers.pid())
        sent, queued = (
            asyncio.create_task(fill(producer, topic, 0, 1)),
            asyncio.create_task(fill(producer, topic, 0, 1)),
        )
        await asyncio.sleep(0.1)
        producer.retire("given up")
        with pytest.raises(OutcomeUnknown, match="given up"):
            await sent
        with pytest.raises(TransientError, match="given up") as certain:
            await queued
        assert not isinstance(certain.value, OutcomeUnknown)
        with pytest.raises(TransientError, match="given up"):
            await fill(producer, topic, 1, 1)
        assert not await producer.close(0.1)
    finally:
        os.kill(brokers.pid(), signal.SIGCONT)


async def all_stopped(pid: int) -> None:
    """Wait until SIGSTOP has reached every thread: until then a process goes on."""
    async with asyncio.timeout(10):
        for stat in list(Path(f"/proc/{pid}/task").glob("*/stat")):  # noqa: ASYNC240  # no disk
            with contextlib.suppress(FileNotFoundError):  # a thread that has ended
                while stat.read_text(encoding="ascii").rpartition(")")[2].split()[0] != "T":
                    await asyncio.sleep(0.01)


class Member:
    """A group member that keeps what its callbacks were told."""

    def __init__(self, kafka: KafkaSettings, topic: str, group: str, instance: str, *, gather_ms: int = 0) -> None:
        self.assigned: dict[int, Assignment] = {}
        self.has_assignment = asyncio.Event()
        self.revocations = 0
        self.names_taken: list[str] = []
        self._service = f"{instance} of {group}"
        self.consumer = Consumer(
            kafka,
            topic,
            group,
            service=self._service,
            instance_id=instance,
            start_offset=lambda _partition: 0,
            on_assigned=self._assigned,
            on_revoked=self._revoked,
            on_name_taken=self.names_taken.append,
            gather_ms=gather_ms,
        )

    def _assigned(self, assignments: Sequence[Assignment]) -> None:
        self.assigned = {a.partition: a for a in assignments}
        self.has_assignment.set()

    async def _revoked(self, assignments: Sequence[Assignment]) -> None:
        self.revocations += 1

    def counted(self, name: str, **labels: str) -> float:
        """How often something was counted for members of this name."""
        return REGISTRY.get_sample_value(f"clickledger_group_{name}_total", {"service": self._service, **labels}) or 0

    def revoked(self) -> dict[str, float]:
        """The same of its revocations by reason, without what never was."""
        counts = {why: self.counted("revocations", reason=why) for why in Revoked}
        return {why: count for why, count in counts.items() if count}

    async def join(self) -> None:
        """Start and wait for the first assignment."""
        await self.consumer.start()
        await asyncio.wait_for(self.has_assignment.wait(), WAIT_S)

    async def read(self, count: int) -> list[Any]:
        """The next `count` records or more."""
        records: list[Any] = []
        deadline = time.monotonic() + WAIT_S
        while len(records) < count and time.monotonic() < deadline:
            for fetched in (await self.consumer.getmany(200)).values():
                records += fetched
        return records


async def test_a_batch_is_appended_in_order_and_its_first_offset_returned(
    kafka: KafkaSettings, producer: Producer, topic: str
) -> None:
    """send_batch answers with the offset of the batch's first record, and a reader sees key, value, time and headers."""
    assert await fill(producer, topic, 1, 3) == 0
    assert await fill(producer, topic, 1, 2) == 3
    reader = Reader(kafka, topic, client_id="t")
    await reader.start()
    reader.assign({1: 2})
    records = (await reader.getmany(5_000))[1]
    assert [r.offset for r in records] == [2, 3, 4]
    assert (records[0].value, records[0].timestamp, list(records[0].headers)) == (
        b"2",
        1_700_000_000_002,
        [("h", b"1")],
    )
    assert await reader.partitions() == [0, 1]
    assert await reader.end_offsets([0, 1]) == {0: 0, 1: 5}
    assert await reader.begin_offsets([0, 1]) == {0: 0, 1: 0}
    await reader.close()


async def test_concurrent_batches_of_one_partition_keep_their_order(producer: Producer, topic: str) -> None:
    """Sixty-four batches sent at once to one partition are all acknowledged, in the order of the calls."""
    offsets = await asyncio.gather(*(fill(producer, topic, 0, 2) for _ in range(64)))
    assert offsets == [2 * n for n in range(64)]


async def test_a_record_over_the_brokers_limit_is_the_datas_fault(producer: Producer, topic: str) -> None:
    """A record larger than the broker takes is a DataError, and the producer goes on."""
    with pytest.raises(DataError):
        await producer.send(topic, 0, key=b"k", value=b"x" * 9_500_000, timestamp_ms=1)
    assert await fill(producer, topic, 0, 1) == 0


async def test_commit_carries_metadata_and_none_is_told_from_unknown(
    kafka: KafkaSettings, producer: Producer, topic: str, names: Any
) -> None:
    """A group without commits reads as None, later as the position with its metadata; the next member starts there."""
    await fill(producer, topic, 0, 10)
    first = Member(kafka, topic, names.group, "a")
    await first.join()
    assert await first.consumer.fetch_committed([0, 1]) == {0: None, 1: None}
    assert len(await first.read(10)) == 10
    await first.consumer.commit(first.assigned[0], Committed(7, "v1:plan"))
    assert await first.consumer.fetch_committed([0]) == {0: Committed(7, "v1:plan")}
    await first.consumer.close()
    second = Member(kafka, topic, names.group, "a")
    await second.join()
    records = await second.read(3)
    assert [r.offset for r in records] == [7, 8, 9]
    assert next_offset(records) == 10
    async with Admin(kafka) as admin:
        assert await admin.committed(names.group, topic, [0, 1]) == {0: Committed(7, "v1:plan"), 1: None}
    await second.consumer.close()


async def test_a_commit_of_an_old_assignment_is_refused(kafka: KafkaSettings, topic: str, names: Any) -> None:
    """After a rebalance the former assignment cannot commit, not even under the member's new generation."""
    first = Member(kafka, topic, names.group, "a")
    await first.join()
    old = dict(first.assigned)
    second = Member(kafka, topic, names.group, "b")
    await second.join()
    async with asyncio.timeout(WAIT_S):
        while first.revocations == 0 or len(first.assigned) != 1:
            await first.consumer.getmany(50)
    with pytest.raises(NotOwned):
        await first.consumer.commit(old[0], Committed(1))
    old[0].is_active = True  # even a member that did not notice its revoke is turned away by the broker
    old[0].revoked.clear()
    assert first.counted("commits_refused") == 0  # it was not even sent
    with pytest.raises(NotOwned):
        await first.consumer.commit(old[0], Committed(1))
    assert first.counted("commits_refused") == 1
    assert (first.counted("assignments"), first.revoked()) == (2, {Revoked.REBALANCE: 1})
    await first.consumer.close()
    assert first.revoked() == {Revoked.REBALANCE: 1, Revoked.CLOSED: 1}
    await second.consumer.close()


async def test_a_member_that_leaves_gives_its_partitions_up(kafka: KafkaSettings, topic: str) -> None:
    """Although it is static and its session is longer than this test waits."""
    patient = kafka.model_copy(update={"kafka_session_timeout_ms": 60_000})
    leaving, staying = (Member(patient, topic, "g-" + topic, name) for name in ("leaving", "staying"))
    await leaving.join()
    await staying.join()
    try:
        await leaving.consumer.close(leave=True)
        async with asyncio.timeout(WAIT_S):
            while set(staying.assigned) != {0, 1}:
                await staying.consumer.getmany(100)
    finally:
        await staying.consumer.close()


async def thrown_out(member: Member) -> None:
    """Have the broker give a member up, as when its session is over, and wait until it has joined again."""
    coordinator = member.consumer._consumer._coordinator
    member.has_assignment.clear()
    await coordinator._send_req(LeaveGroupRequest(member.consumer.group_id, coordinator.member_id))
    coordinator._heartbeat_interval_ms = 100
    await coordinator._stop_heartbeat_task()
    coordinator._start_heartbeat_task()
    async with asyncio.timeout(WAIT_S):
        while not member.has_assignment.is_set():
            await member.consumer.getmany(50)


async def test_two_of_one_name_share_the_partitions(kafka: KafkaSettings, topic: str) -> None:
    """The one that came first takes another name and says so; afterwards neither puts the other out."""
    first, second = (Member(kafka, topic, "g-" + topic, "same") for _ in range(2))
    await first.join()
    try:
        await second.join()
        async with asyncio.timeout(WAIT_S):
            while sorted([*first.assigned, *second.assigned]) != [0, 1]:
                await asyncio.gather(first.consumer.getmany(50), second.consumer.getmany(50))
        [told], before = first.names_taken, (first.revocations, second.revocations)
        assert re.search(r"as same, from 127\.0\.0\.1; this one goes on as same-[0-9a-f]{8}: .*CLICKLEDGER_NODE", told)
        assert not second.names_taken
        assert first.revoked()[Revoked.THROWN_OUT] == 1  # of both, who have one name here
        await asyncio.sleep(2.5 * kafka.kafka_heartbeat_ms / 1000)
        assert (first.revocations, second.revocations) == before
        await thrown_out(
            second
        )  # its session is over: the first, which has kept the client id only, is not taken for a stranger
        assert (second.names_taken, len(first.names_taken)) == ([], 1)
    finally:
        await asyncio.gather(first.consumer.close(leave=True), second.consumer.close(leave=True))


async def test_a_session_that_was_over_keeps_its_name(kafka: KafkaSettings, topic: str) -> None:
    """Nobody else has it: the member comes back under it, without a word."""
    brief = kafka.model_copy(update={"kafka_session_timeout_ms": 6_000, "kafka_heartbeat_ms": 60_000})
    member = Member(brief, topic, "g-" + topic, "alone")
    await member.join()
    try:
        await thrown_out(member)
        assert set(member.assigned) == {0, 1}
        assert (member.names_taken, member.consumer._consumer._coordinator._group_instance_id) == ([], "alone")
        assert (member.counted("assignments"), member.revoked()) == (2, {Revoked.THROWN_OUT: 1})
    finally:
        await member.consumer.close(leave=True)


async def test_a_commit_that_is_overtaken_by_a_rebalance_has_no_effect(
    kafka: KafkaSettings, producer: Producer, topic: str, names: Any
) -> None:
    """Begun under one generation, it reaches the broker under the next: refused, whoever owns the partition by then."""
    for partition in (0, 1):  # whoever joins again reads from the committed offset, so that must exist
        await fill(producer, topic, partition, 20)
    first, second = Member(kafka, topic, names.group, "first"), Member(kafka, topic, names.group, "second")
    await first.join()
    mine = dict(first.assigned)
    for partition, assignment in mine.items():
        await first.consumer.commit(assignment, Committed(10 + partition, "before"))
    coordinator = first.consumer._consumer._coordinator
    send, may_go, sent = coordinator._send_req, asyncio.Event(), []

    async def late(request: Any) -> Any:
        await may_go.wait()
        return await send(request)

    def held_back(request: Any) -> Any:
        if type(request).__name__ != "OffsetCommitRequest":
            return send(request)
        sent.append(asyncio.ensure_future(late(request)))
        return asyncio.shield(sent[-1])

    coordinator._send_req = held_back
    commits = [asyncio.ensure_future(first.consumer.commit(a, Committed(99, "late"))) for a in mine.values()]
    try:
        joining = asyncio.ensure_future(second.join())
        while not joining.done():
            await first.consumer.getmany(100)
        await joining
        assert [type(error) for error in await asyncio.gather(*commits, return_exceptions=True)] == [NotOwned] * 2
        may_go.set()
        answers = await asyncio.gather(*sent)
        assert all(code for answer in answers for _, partitions in answer.topics for _, code in partitions)
        committed = await second.consumer.fetch_committed([0, 1])
        assert committed == {0: Committed(10, "before"), 1: Committed(11, "before")}
    finally:
        await first.consumer.close()
        await second.consumer.close()


async def test_a_held_partition_returns_nothing_and_loses_nothing(
    kafka: KafkaSettings, producer: Producer, topic: str, names: Any
) -> None:
    """Records of a held partition come after its release, from where it stood; a seek moves it."""
    member = Member(kafka, topic, names.group, "a")
    await member.join()
    await fill(producer, topic, 0, 4)
    member.consumer.hold(0)
    assert await member.consumer.getmany(500) == {}
    member.consumer.release(0)
    assert [r.offset for r in await member.read(4)] == [0, 1, 2, 3]
    member.consumer.seek(member.assigned[0], 2)
    assert [r.offset for r in await member.read(2)] == [2, 3]
    await member.consumer.close()


async def test_a_held_partition_is_not_fetched(
    kafka: KafkaSettings, producer: Producer, topic: str, names: Any
) -> None:
    """Records that wait in the library keep it from asking that broker for any other partition."""
    member = Member(kafka, topic, names.group, "a")
    await member.join()
    member.consumer.hold(0)
    await fill(producer, topic, 0, 4)
    await fill(producer, topic, 1, 4)
    assert len(await member.read(4)) == 4
    assert not member.consumer._consumer._fetcher._records
    member.consumer.release(0)
    assert [r.offset for r in await member.read(4)] == [0, 1, 2, 3]
    await member.consumer.close()


async def test_records_that_come_one_after_the_other_are_gathered(
    kafka: KafkaSettings, producer: Producer, topic: str, names: Any
) -> None:
    """What comes within the time is one fetch; the first record and one as large as a fetch do not wait for it."""
    gather_s = 4.0
    member = Member(kafka, topic, names.group, "a", gather_ms=round(gather_s * 1000))
    await member.join()
    began_s = time.monotonic()
    await fill(producer, topic, 0, 1)
    assert len(await member.read(1)) == 1
    is_prompt = time.monotonic() - began_s < gather_s / 2
    fetching = asyncio.create_task(member.consumer.getmany(10_000))
    await fill(producer, topic, 0, 1)
    await asyncio.sleep(gather_s / 8)
    await fill(producer, topic, 1, 5)
    assert {partition: len(records) for partition, records in (await fetching).items()} == {0: 1, 1: 5}
    began_s = time.monotonic()
    large = producer.new_batch()
    large.append(timestamp=1_700_000_000_000, key=b"k", value=bytes(500_000), headers=[])
    await producer.send_batch(topic, 0, large)
    assert len(await member.read(1)) == 1
    assert is_prompt
    assert time.monotonic() - began_s < gather_s / 2
    await member.consumer.close()


async def test_a_reader_that_rests_answers_at_once(kafka: KafkaSettings, producer: Producer, topic: str) -> None:
    """Behind the last record a fetch would wait at the broker, and the next question with it."""
    await fill(producer, topic, 0, 10)
    reader = Reader(kafka, topic, client_id="t")
    await reader.start()
    try:
        waited_s: list[float] = []
        for number in range(10):
            reader.assign({0: number})
            assert [record.offset for record in (await reader.getmany(5_000))[0]] == list(range(number, 10))
            reader.rest()
            await asyncio.sleep(0.01)  # in which the next fetch would leave
            began_s = time.monotonic()
            assert await reader.end_offsets([0]) == {0: 10}
            waited_s.append(time.monotonic() - began_s)
    finally:
        await reader.close()
    assert sorted(waited_s)[5] < FETCH_WAIT_MS / 2_000


async def test_a_position_that_kafka_no_longer_holds_names_the_lost_range(
    kafka: KafkaSettings, producer: Producer, topic: str, names: Any
) -> None:
    """Reading below the earliest kept offset raises OffsetLost with both ends instead of jumping."""
    await fill(producer, topic, 0, 5)
    member = Member(kafka, topic, names.group, "a")
    await member.join()
    member.consumer.seek(member.assigned[0], 50)
    with pytest.raises(OffsetLost) as lost:
        await member.read(1)
    assert (lost.value.partition, lost.value.wanted, lost.value.earliest) == (0, 50, 0)
    await member.consumer.close()


async def test_a_member_whose_background_task_died_says_so(kafka: KafkaSettings, topic: str, names: Any) -> None:
    """The library never restarts a dead coordination task: reading raises ClientBroken instead of standing still."""
    member = Member(kafka, topic, names.group, "a")
    await member.join()

    async def write_to_closed_transport(*_: object) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    coordinator = member.consumer._consumer._coordinator
    coordinator._client.coordinator_lookup = write_to_closed_transport
    coordinator.coordinator_dead()
    with pytest.raises(ClientBroken, match="coordination task ended"):
        await member.read(1)
    member.consumer.hold(0)
    member.consumer.hold(1)
    with pytest.raises(ClientBroken):
        await member.consumer.getmany(10)
    await member.consumer.close(1)


async def test_no_broker_is_a_transient_error() -> None:
    """Connecting to a port where nobody listens raises TransientError within the request time-out."""
    nobody = KafkaSettings(kafka_bootstrap="127.0.0.1:1", kafka_request_timeout_ms=1_000)
    with pytest.raises(TransientError):
        await Producer(nobody, "t").start()
    with pytest.raises(TransientError):
        await Reader(nobody, "t", client_id="t").start()


async def test_topics_are_made_once_described_and_grown(kafka: KafkaSettings, names: Any) -> None:
    """Admin.create is idempotent, config tells the effective settings, grow adds partitions."""
    async with Admin(kafka) as admin:
        spec = TopicSpec(names.catalog, 1, 1, {"cleanup.policy": "compact"})
        assert await admin.create(spec)
        assert not await admin.create(spec)

        async def is_described() -> bool:
            try:
                return (await admin.config(names.catalog)).effective["cleanup.policy"] == "compact"
            except TransientError:  # the broker that was asked has not heard of the topic yet
                return False

        await eventually(is_described)
        await admin.grow(names.catalog, 3)

        async def is_grown() -> bool:
            return (await admin.topics())[names.catalog] == 3

        await eventually(is_grown)  # a broker answers from its own copy of what the controller decided
        await admin.alter_config(names.catalog, {"cleanup.policy": "compact", "retention.ms": "1000"})
        assert (await admin.config(names.catalog)).effective["retention.ms"] == "1000"
        await admin.delete(names.catalog)
