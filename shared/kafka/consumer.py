"""A member of a group that commits by hand.

Its rules:

* A committed offset that cannot be read is *unknown*, never "none": the library drops OffsetFetch's error codes, so the
  request is sent and judged here. "None" (offset -1) means the caller's start offset.
* A commit belongs to one `Assignment`: it carries the generation and member id of that assignment, is cancelled when
  the partitions are revoked and never repeated under a newer generation.
* The position is always explicit: there is no reset to earliest or latest.
* A member that was put out by another one under its name (two machines with one CLICKLEDGER_NODE, a copied data folder) joins
  again under a name of its own. Else the two would put each other out at every heartbeat, for ever.
* A held partition keeps its fetched records, returns none and fetches none, while heartbeats go on. One that went on
  fetching would slow the others: the library asks a broker for nothing while records of it wait (100 ms at most).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.structs import OffsetAndMetadata

from shared.errors import ClickledgerError, NotOwned
from shared.kafka.client import (
    FETCH_WAIT_MS,
    Record,
    bounded,
    connection,
    fetched_records,
    gather,
    mapped,
    refuse_broken,
    start_consumer,
)
from shared.kafka.names import host_of_name
from shared.metrics import Revoked, group_assignments, group_commits_refused, group_revocations
from shared.settings import KafkaSettings

log = logging.getLogger(__name__)

POLL_INTERVAL_MS = 24 * 3600 * 1000
"""The library's own limit between polls is not used: a member with held partitions is alive, its metrics tell."""


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
        return self._owner._before_joining()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._owner._on_assigned(sorted(tp.partition for tp in assigned))


class Consumer:
    """A static member of a group on one topic; how often it gains and loses partitions is counted for `service`.

    `start_offset(partition)` gives the first offset to read where the group has committed none. `on_assigned` is told
    the assignments of a new generation and must return at once; `on_revoked` is awaited before the partitions go to
    others (bounded by the rebalance time-out) and must leave no work behind. `on_name_taken` is told, in words for an
    operator, that another process has joined under `instance_id`; this one goes on under another name. `gather_ms`: how long the brokers wait for more
    records while some come; the first after a silence is given at once. 0: they never wait.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        group_id: str,
        *,
        service: str,
        instance_id: str,
        start_offset: Callable[[int], int],
        on_assigned: Callable[[Sequence[Assignment]], None],
        on_revoked: Callable[[Sequence[Assignment]], Awaitable[None]],
        on_name_taken: Callable[[str], None],
        partition_fetch_bytes_max: int = 1_048_576,
        fetch_bytes_max: int = 52_428_800,
        gather_ms: int = 0,
    ) -> None:
        self._settings = settings
        self._service = service
        self.topic = topic
        self.group_id = group_id
        self._start_offset = start_offset
        self._assigned_callback = on_assigned
        self._revoked_callback = on_revoked
        self._name_taken_callback = on_name_taken
        self._instance_id = instance_id
        self._member_id = ""
        """As of the last assignment; the library forgets its own when the broker does not know it any more."""
        self._assignments: dict[int, Assignment] = {}
        self._held: set[int] = set()
        self._gather_ms = gather_ms
        self._has_joined = False
        self._is_leaving = False
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
            fetch_max_bytes=fetch_bytes_max,
            isolation_level="read_uncommitted",
            check_crcs=False,  # `fetched` does
        )

    async def start(self) -> None:
        """Connect and join the group; assignments arrive by the callback. Raises TransientError, OperatorError."""
        await start_consumer(self._consumer, f"joining group {self.group_id}", self._settings)
        # Before subscribing, so that the library's own idea of a committed offset is never used.
        self._consumer._coordinator._do_fetch_commit_offsets = self._positions
        self._consumer._coordinator._maybe_leave_group = self._leave_group
        self._consumer.subscribe([self.topic], listener=_Listener(self))

    async def close(self, deadline_s: float = 5, *, leave: bool = False) -> None:
        """Stop within `deadline_s`.

        A static member's partitions stay its own until it comes back or its session times out; with `leave` they go to
        others at once (docs/adr/0016).
        """
        self._is_leaving = leave
        await self._give_up(Revoked.CLOSED)
        await bounded(self._consumer.stop(), deadline_s)

    async def _leave_group(self) -> None:
        """Stands in for the library's own last step of `stop()`, which never leaves as a static member.

        The old form of the request names the member id only; the broker removes a static member by it as well.
        """
        coordinator = self._consumer._coordinator
        if self._is_leaving and coordinator.generation > 0:
            try:
                with mapped(f"leaving group {self.group_id}"):
                    response = await coordinator._send_req(LeaveGroupRequest(self.group_id, coordinator.member_id))
                    if response.error_code:
                        raise kafka_errors.for_code(response.error_code)(f"error {response.error_code}")
            except ClickledgerError as exc:  # the session times out instead
                log.info("%s", exc)
        coordinator.reset_generation()

    @property
    def assignments(self) -> Mapping[int, Assignment]:
        """The active assignments by partition."""
        return self._assignments

    async def getmany(self, timeout_ms: int) -> dict[int, list[Record]]:
        """The fetched records by partition, in order; empty after `timeout_ms` without any.

        Raises OffsetLost for a partition whose position is no longer in Kafka (hold it, alarm), ClientBroken when this
        member must be built anew, TransientError, OperatorError.
        """
        what = f"reading {self.topic} as {self.group_id}"
        refuse_broken(self._consumer, what)
        wanted = [TopicPartition(self.topic, p) for p in self._assignments if p not in self._held]
        if not wanted:
            await asyncio.sleep(timeout_ms / 1000)
            return {}
        fetched = await fetched_records(self._consumer, wanted, timeout_ms, what)
        if self._gather_ms:
            gather(self._consumer, sum(map(len, fetched.values())), self._gather_ms)
        return {partition: records for partition, records in fetched.items() if partition in self._assignments}

    def hold(self, partition: int) -> None:
        """Return no records of this partition until `release`, and fetch none."""
        self._held.add(partition)
        if partition in self._assignments:
            self._consumer.pause(TopicPartition(self.topic, partition))

    def release(self, partition: int) -> None:
        """Return records of this partition again."""
        self._held.discard(partition)
        if partition in self._assignments:
            self._consumer.resume(TopicPartition(self.topic, partition))

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
        sending.add_done_callback(self._on_commit_end)
        revoked = asyncio.ensure_future(first.revoked.wait())
        try:
            await asyncio.wait([sending, revoked], return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise NotOwned(f"{self.topic}/{first.partition}: revoked while committing")
            sending.result()
        finally:
            sending.cancel()
            revoked.cancel()

    def _on_commit_end(self, sending: asyncio.Future[None]) -> None:
        """Take the outcome, whoever still waits for it.

        When a member wakes that the group has put out, the refusal of its commit and the revoke come in one turn of the loop. Who waits for
        the commit is cancelled then, and so is this, but before Python 3.12 `asyncio.wait_for` loses that when it has the answer: nobody would
        hear of the refusal, and the loop would log a traceback for what is in order.
        """
        if not sending.cancelled() and isinstance(sending.exception(), NotOwned):
            group_commits_refused.labels(self._service).inc()

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
            with mapped(f"committed offsets of {self.group_id}"):
                found = await self._fetch_committed(wanted)
        except ClickledgerError as exc:
            log.warning("committed offsets of %s unknown, asking again: %r", self.group_id, exc)
            raise kafka_errors.GroupLoadInProgressError(str(exc)) from exc
        return {
            tp: OffsetAndMetadata(c.next_offset if c else self._start_offset(tp.partition), "")
            for tp, c in found.items()
        }

    def _on_assigned(self, partitions: Sequence[int]) -> None:
        coordinator = self._consumer._coordinator
        self._member_id = coordinator.member_id
        self._held.clear()
        self._assignments = {p: Assignment(p, coordinator.generation, coordinator.member_id) for p in partitions}
        self._watch_growth(coordinator)
        group_assignments.labels(self._service).inc()
        self._assigned_callback(list(self._assignments.values()))

    def _watch_growth(self, coordinator: Any) -> None:
        """Have this member look for new partitions too.

        The library leaves that to the member that was elected. A static member that comes back gets its old assignment
        without an election, so that afterwards nobody looks and new partitions are never read. At its first assignment
        a member that was not elected asks for another one, with the next metadata: the topic may have grown while it
        was away. The broker makes that a rebalance only for the group's leader.
        """
        if coordinator._group_subscription is None:
            coordinator._group_subscription = {self.topic}
            if self._has_joined:
                coordinator._metadata_snapshot = coordinator._get_metadata_snapshot()
        self._has_joined = True

    async def _before_joining(self) -> None:
        """At every rebalance, and when the broker does not know this member any more: then it has no member id."""
        is_known = bool(self._consumer._coordinator.member_id)
        await self._give_up(Revoked.REBALANCE if is_known else Revoked.THROWN_OUT)
        if self._member_id and not self._consumer._coordinator.member_id:
            await self._leave_name_to_other()

    async def _leave_name_to_other(self) -> None:
        """Take another name when somebody came later under ours, who keeps it; not when only our session was over."""
        asking = host_of_name(self._consumer._coordinator, self.group_id, self._instance_id, self._member_id)
        try:
            with mapped(f"asking who is in group {self.group_id}"):
                other = await asyncio.wait_for(asking, self._settings.kafka_request_timeout_ms / 1000)
        except ClickledgerError as exc:  # put out again, it asks again
            log.info("%s", exc)
            return
        if other is None:
            return
        taken, self._instance_id = self._instance_id, f"{self._instance_id}-{secrets.token_hex(4)}"
        self._consumer._coordinator._group_instance_id = self._instance_id
        self._name_taken_callback(
            f"another process joined group {self.group_id} as {taken}, from {other}; this one goes on as {self._instance_id}: "
            "give every machine a CLICKLEDGER_NODE of its own, and start this process again"
        )

    async def _give_up(self, why: Revoked) -> None:
        revoked, self._assignments = list(self._assignments.values()), {}
        for assignment in revoked:
            assignment.is_active = False
            assignment.revoked.set()
        if revoked:
            group_revocations.labels(self._service, why).inc()
            await self._revoked_callback(revoked)
