"""Consumers: `Consumer`, a member of a group that commits by hand, and `Reader`, which reads without a group.

Rules of the group member:

* A committed offset that cannot be read is *unknown*, never "none": the library drops OffsetFetch's error codes, so the
  request is sent and judged here. "None" (offset -1) means the caller's start offset.
* A commit belongs to one `Assignment`: it carries the generation and member id of that assignment, is cancelled when
  the partitions are revoked and never repeated under a newer generation.
* The position is always explicit: there is no reset to earliest or latest.
* A held partition keeps its fetched records and returns none, while heartbeats go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.structs import OffsetAndMetadata

from shared.errors import NotOwned, OffsetLost, TransientError
from shared.kafka.client import bounded, connection, map_error, mapped
from shared.settings import KafkaSettings

log = logging.getLogger(__name__)

POLL_INTERVAL_MS = 24 * 3600 * 1000
"""The library's own limit between polls is not used: a member with held partitions is alive, its metrics tell."""
FETCH_WAIT_MS = 100
"""How long a fetch may wait for a first byte at the broker; a seek or resume waits for the running fetch."""


class Record(Protocol):
    """One Kafka record. `timestamp` in ms."""

    offset: int
    partition: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Committed(NamedTuple):
    """A committed position of a group: the next offset to read, and the metadata stored with it."""

    next_offset: int
    metadata: str = ""


@dataclass(eq=False)
class Assignment:
    """One partition as given to this member in one generation. `is_active` turns False for ever at the revoke."""

    partition: int
    generation: int
    member_id: str
    is_active: bool = True
    revoked: asyncio.Event = field(default_factory=asyncio.Event)


def next_offset(records: Sequence[Record]) -> int:
    """The offset to commit after these records."""
    return records[-1].offset + 1


def parse_offset_fetch(response: Any, wanted: Iterable[TopicPartition]) -> dict[TopicPartition, Committed | None]:
    """The committed positions in an OffsetFetch answer; None where the group has none (offset -1).

    Raises a retriable KafkaError when the answer carries an error or leaves a partition out: that is unknown.
    """
    top = getattr(response, "error_code", 0)
    if top:
        raise kafka_errors.for_code(top)(f"OffsetFetch: error {top}")
    found: dict[TopicPartition, Committed | None] = {}
    for topic, partitions in response.topics:
        for partition, offset, metadata, code in partitions:
            if code:
                raise kafka_errors.for_code(code)(f"OffsetFetch: {topic}/{partition}: error {code}")
            found[TopicPartition(topic, partition)] = None if offset < 0 else Committed(offset, metadata or "")
    wanted = list(wanted)
    if missing := [tp for tp in wanted if tp not in found]:
        raise kafka_errors.GroupLoadInProgressError(f"OffsetFetch: no answer for {missing}")
    return {tp: found[tp] for tp in wanted}


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # the library is untyped
    def __init__(self, owner: Consumer) -> None:
        self._owner = owner

    def on_partitions_revoked(self, _revoked: Iterable[TopicPartition]) -> Awaitable[None]:
        return self._owner._on_revoked()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._owner._on_assigned(sorted(tp.partition for tp in assigned))


class Consumer:
    """A static member of a group on one topic.

    `start_offset(partition)` gives the first offset to read where the group has committed none. `on_assigned` is told
    the assignments of a new generation and must return at once; `on_revoked` is awaited before the partitions go to
    others (bounded by the rebalance time-out) and must leave no work behind.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        group_id: str,
        *,
        instance_id: str,
        start_offset: Callable[[int], int],
        on_assigned: Callable[[Sequence[Assignment]], None],
        on_revoked: Callable[[Sequence[Assignment]], Awaitable[None]],
        partition_fetch_bytes_max: int = 1_048_576,
    ) -> None:
        self._settings = settings
        self.topic = topic
        self.group_id = group_id
        self._start_offset = start_offset
        self._assigned_callback = on_assigned
        self._revoked_callback = on_revoked
        self._assignments: dict[int, Assignment] = {}
        self._held: set[int] = set()
        self._consumer = AIOKafkaConsumer(
            **connection(settings),
            client_id=instance_id,
            group_id=group_id,
            group_instance_id=instance_id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            session_timeout_ms=settings.kafka_session_timeout_ms,
            heartbeat_interval_ms=settings.kafka_heartbeat_ms,
            rebalance_timeout_ms=settings.kafka_rebalance_timeout_ms,
            max_poll_interval_ms=POLL_INTERVAL_MS,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            fetch_min_bytes=1,
            max_partition_fetch_bytes=partition_fetch_bytes_max,
            isolation_level="read_uncommitted",
        )

    async def start(self) -> None:
        """Connect and join the group; assignments arrive by the callback. Raises TransientError, OperatorError."""
        await _start(self._consumer, f"joining group {self.group_id}", self._settings)
        # Before subscribing, so that the library's own idea of a committed offset is never used.
        self._consumer._coordinator._do_fetch_commit_offsets = self._positions
        self._consumer.subscribe([self.topic], listener=_Listener(self))

    async def close(self, deadline_s: float = 5) -> None:
        """Leave within `deadline_s`. A static member's partitions stay its own until the session times out."""
        await self._on_revoked()
        await bounded(self._consumer.stop(), deadline_s)

    @property
    def assignments(self) -> Mapping[int, Assignment]:
        """The active assignments by partition."""
        return self._assignments

    async def getmany(self, timeout_ms: int) -> dict[int, list[Record]]:
        """The fetched records by partition, in order; empty after `timeout_ms` without any.

        Raises OffsetLost for a partition whose position is no longer in Kafka (hold it, alarm), TransientError,
        OperatorError.
        """
        wanted = [TopicPartition(self.topic, p) for p in self._assignments if p not in self._held]
        if not wanted:
            await asyncio.sleep(timeout_ms / 1000)
            return {}
        try:
            fetched = await self._consumer.getmany(*wanted, timeout_ms=timeout_ms)
        except kafka_errors.OffsetOutOfRangeError as exc:
            raise await _lost(self._consumer, exc) from exc
        except (kafka_errors.KafkaError, OSError) as exc:
            raise map_error(exc, f"reading {self.topic} as {self.group_id}") from exc
        return {tp.partition: records for tp, records in fetched.items() if tp.partition in self._assignments}

    def hold(self, partition: int) -> None:
        """Return no records of this partition until `release`."""
        self._held.add(partition)

    def release(self, partition: int) -> None:
        """Return records of this partition again."""
        self._held.discard(partition)

    def is_held(self, partition: int) -> bool:
        """Whether a partition is held."""
        return partition in self._held

    def seek(self, assignment: Assignment, offset: int) -> None:
        """Read this partition from `offset` on. Raises NotOwned after the revoke."""
        if not assignment.is_active:
            raise NotOwned(f"{self.topic}/{assignment.partition}")
        self._consumer.seek(TopicPartition(self.topic, assignment.partition), offset)

    def lag(self, partition: int) -> int | None:
        """Records behind the end of a partition as of the last fetch; None before the first."""
        tp = TopicPartition(self.topic, partition)
        end = self._consumer.highwater(tp) if partition in self._assignments else None
        if end is None:
            return None
        position = self._consumer._subscription.subscription.assignment.state_value(tp)._position
        return None if position is None else max(0, end - position)

    async def fetch_committed(self, partitions: Iterable[int]) -> dict[int, Committed | None]:
        """The group's committed positions; None where there are none. Raises TransientError when they are unknown."""
        with mapped(f"committed offsets of {self.group_id}"):
            found = await self._fetch_committed([TopicPartition(self.topic, p) for p in partitions])
        return {tp.partition: committed for tp, committed in found.items()}

    async def commit(self, assignment: Assignment, committed: Committed) -> None:
        """Commit the position of one partition under the generation it was assigned in.

        Raises NotOwned when the group has moved on: drop the work. Raises OutcomeUnknown or TransientError otherwise:
        ask (`fetch_committed`) or commit again.
        """
        await self.commit_many([(assignment, committed)])

    async def commit_many(self, commits: Sequence[tuple[Assignment, Committed]]) -> None:
        """Commit several partitions of one generation in one request. Errors as `commit`."""
        first = commits[0][0]
        if any(not a.is_active or a.generation != first.generation for a, _ in commits):
            raise NotOwned(f"{self.topic}/{[a.partition for a, _ in commits]}: revoked")
        request = OffsetCommitRequest(
            self.group_id,
            first.generation,
            first.member_id,
            OffsetCommitRequest.DEFAULT_RETENTION_TIME,
            [(self.topic, [(a.partition, c.next_offset, c.metadata) for a, c in commits])],
        )
        sending = asyncio.ensure_future(self._send_commit(request))
        revoked = asyncio.ensure_future(first.revoked.wait())
        try:
            await asyncio.wait([sending, revoked], return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise NotOwned(f"{self.topic}/{first.partition}: revoked while committing")
            sending.result()
        finally:
            sending.cancel()
            revoked.cancel()

    async def _send_commit(self, request: OffsetCommitRequest) -> None:
        coordinator = self._consumer._coordinator
        with mapped(f"committing to group {self.group_id}", writing=True):
            await asyncio.wait_for(
                coordinator.ensure_coordinator_known(), self._settings.kafka_request_timeout_ms / 1000
            )
            response = await coordinator._send_req(request)
            for _topic, partitions in response.topics:
                for partition, code in partitions:
                    if code:
                        self._note_coordinator_error(code)
                        raise kafka_errors.for_code(code)(f"{self.topic}/{partition}: error {code}")

    def _note_coordinator_error(self, code: int) -> None:
        moved = (kafka_errors.NotCoordinatorForGroupError, kafka_errors.GroupCoordinatorNotAvailableError)
        if kafka_errors.for_code(code) in moved:
            self._consumer._coordinator.coordinator_dead()

    async def _fetch_committed(self, wanted: Sequence[TopicPartition]) -> dict[TopicPartition, Committed | None]:
        coordinator = self._consumer._coordinator
        topics = [(self.topic, [tp.partition for tp in wanted])]
        await asyncio.wait_for(coordinator.ensure_coordinator_known(), self._settings.kafka_request_timeout_ms / 1000)
        try:
            return parse_offset_fetch(await coordinator._send_req(OffsetFetchRequest(self.group_id, topics)), wanted)
        except (kafka_errors.NotCoordinatorForGroupError, kafka_errors.GroupCoordinatorNotAvailableError):
            coordinator.coordinator_dead()
            raise

    async def _positions(self, wanted: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        """Stands in for the library's own fetch of committed offsets; it repeats retriable errors."""
        try:
            found = await self._fetch_committed(wanted)
        except (kafka_errors.KafkaError, TimeoutError) as exc:
            log.warning("committed offsets of %s unknown, asking again: %r", self.group_id, exc)
            raise kafka_errors.GroupLoadInProgressError(str(exc)) from exc
        return {
            tp: OffsetAndMetadata(c.next_offset if c else self._start_offset(tp.partition), "")
            for tp, c in found.items()
        }

    def _on_assigned(self, partitions: Sequence[int]) -> None:
        coordinator = self._consumer._coordinator
        self._held.clear()
        self._assignments = {p: Assignment(p, coordinator.generation, coordinator.member_id) for p in partitions}
        self._assigned_callback(list(self._assignments.values()))

    async def _on_revoked(self) -> None:
        revoked, self._assignments = list(self._assignments.values()), {}
        for assignment in revoked:
            assignment.is_active = False
            assignment.revoked.set()
        if revoked:
            await self._revoked_callback(revoked)


class Reader:
    """Reads a topic from explicit positions, without a group: catalog, audit, streams."""

    def __init__(self, settings: KafkaSettings, topic: str, *, client_id: str) -> None:
        self._settings = settings
        self.topic = topic
        self._consumer = AIOKafkaConsumer(
            **connection(settings),
            client_id=client_id,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=FETCH_WAIT_MS,
            isolation_level="read_uncommitted",
        )

    async def start(self) -> None:
        """Connect. Raises TransientError, OperatorError."""
        await _start(self._consumer, f"connecting to read {self.topic}", self._settings)

    async def close(self, deadline_s: float = 5) -> None:
        """Disconnect within `deadline_s`."""
        await bounded(self._consumer.stop(), deadline_s)

    async def partitions(self) -> list[int]:
        """The topic's partitions. Raises TransientError while the topic is unknown."""
        with mapped(f"partitions of {self.topic}"):
            client = self._consumer._client
            return sorted(
                await asyncio.wait_for(
                    client._wait_on_metadata(self.topic), self._settings.kafka_request_timeout_ms / 1000
                )
            )

    async def begin_offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """The earliest kept offset of each partition."""
        with mapped(f"begin offsets of {self.topic}"):
            found = await self._consumer.beginning_offsets([TopicPartition(self.topic, p) for p in partitions])
        return {tp.partition: offset for tp, offset in found.items()}

    async def end_offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """The offset after the last record of each partition."""
        with mapped(f"end offsets of {self.topic}"):
            found = await self._consumer.end_offsets([TopicPartition(self.topic, p) for p in partitions])
        return {tp.partition: offset for tp, offset in found.items()}

    async def offsets_at(self, time_ms: int, partitions: Iterable[int]) -> dict[int, int | None]:
        """The first offset whose record timestamp is at least `time_ms`; None where there is none."""
        with mapped(f"offsets of {self.topic} at {time_ms}"):
            found = await self._consumer.offsets_for_times({TopicPartition(self.topic, p): time_ms for p in partitions})
        return {tp.partition: at.offset if at else None for tp, at in found.items()}

    def assign(self, positions: Mapping[int, int]) -> None:
        """Read these partitions from these offsets on."""
        self._consumer.assign([TopicPartition(self.topic, p) for p in positions])
        for partition, offset in positions.items():
            self._consumer.seek(TopicPartition(self.topic, partition), offset)

    async def position(self, partition: int) -> int:
        """The next offset to be returned."""
        position: int = await self._consumer.position(TopicPartition(self.topic, partition))
        return position

    async def getmany(self, timeout_ms: int) -> dict[int, list[Record]]:
        """As `Consumer.getmany`, for the assigned partitions."""
        try:
            fetched = await self._consumer.getmany(timeout_ms=timeout_ms)
        except kafka_errors.OffsetOutOfRangeError as exc:
            raise await _lost(self._consumer, exc) from exc
        except (kafka_errors.KafkaError, OSError) as exc:
            raise map_error(exc, f"reading {self.topic}") from exc
        return {tp.partition: records for tp, records in fetched.items()}


async def _start(consumer: AIOKafkaConsumer, what: str, settings: KafkaSettings) -> None:
    try:
        with mapped(what):
            await asyncio.wait_for(consumer.start(), settings.kafka_request_timeout_ms / 1000)
    except BaseException:
        await bounded(consumer.stop(), 1)
        raise


async def _lost(consumer: AIOKafkaConsumer, exc: kafka_errors.OffsetOutOfRangeError) -> Exception:
    ((tp, wanted),) = exc.args[0].items()
    try:
        earliest = (await consumer.beginning_offsets([tp]))[tp]
    except (kafka_errors.KafkaError, OSError) as error:
        return TransientError(f"{tp.topic}/{tp.partition}: offset {wanted} is out of range, earliest unknown: {error}")
    return OffsetLost(tp.topic, tp.partition, wanted, earliest)
