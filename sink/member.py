"""One member of the sinks' group: fetches for all its partitions while their owners store, at most some at a time.

The fetch loop never waits for an insert: a partition with enough buffered is held, the others go on, and heartbeats are
the client's own. An owner lives as long as its assignment; at the revoke it is cancelled, and whatever it had sent to
ClickHouse is settled by the next owner, who asks the table.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared import metrics
from shared.alarms import Alarms
from shared.errors import ClientBroken, DataError, NotOwned, OffsetLost, OperatorError, TransientError
from shared.kafka import Assignment, Committed, Consumer, Reader, Record
from shared.positions import accepted_gaps
from shared.settings import KafkaSettings
from sink.blocks import Intake, Limits, Range
from sink.clock import BootClock
from sink.feed import PartitionFeed, who_may_read
from sink.ports import Bounds
from sink.sealing import Sealer, SealLimits
from sink.table import PartitionTable, Store
from sink.watch import SERVICE, Alarm, PartitionWatch, buffered_bytes, forget, lag_records, partitions_owned
from sink.worker import Owner

log = logging.getLogger(__name__)

POLL_MS: Final = 100
"""How long a fetch waits: also how soon a released partition is fetched again."""
GATHER_MS: Final = 50
"""A tenth of a block's age."""
GAPS_EVERY_S: Final = 2.0
"""How often accepted gaps are looked up while a partition waits behind one."""
RETRY_S: Final = 1.0
KAFKA_CLOSE_S: Final = 3.0
"""For leaving the group and closing the connections."""
FETCH_BYTES_MAX: Final = 4 << 20
"""Bytes fetched for one partition in one request, where the buffer is large enough."""
FETCH_BYTES_MIN: Final = 64 << 10
"""As many at least, for however many partitions the buffer is."""


@dataclass(frozen=True, slots=True)
class Stream:
    """The stream that is stored: its id, and the first raw offset of each partition (0 for later ones)."""

    id: str
    start_offsets: Sequence[int]

    def start(self, partition: int) -> int:
        """The first raw offset of a partition."""
        return self.start_offsets[partition] if partition < len(self.start_offsets) else 0


def group_id(stream: str, table: str) -> str:
    """The group of all sinks that bring a stream into a table (`database.table`): derived, so that it cannot be wrong."""
    return f"clickledger-sink-{stream}-{table}"


class PartitionGroup:
    """The committed position of one partition under one assignment."""

    def __init__(self, consumer: Consumer, assignment: Assignment) -> None:
        self._consumer, self._assignment = consumer, assignment

    async def committed(self) -> tuple[int, str] | None:
        """(next offset, metadata); None when there is none. Raises TransientError when it is unknown."""
        if not self._assignment.is_active:
            raise NotOwned(f"partition {self._assignment.partition}")
        partition = self._assignment.partition
        return (await self._consumer.fetch_committed([partition]))[partition]

    async def commit(self, next_offset: int, metadata: str) -> None:
        """Commit under the generation of this assignment only. Raises NotOwned, TransientError."""
        await self._consumer.commit(self._assignment, Committed(next_offset, metadata))


@dataclass(frozen=True, slots=True)
class _Owned:
    assignment: Assignment
    feed: PartitionFeed
    watch: PartitionWatch
    task: asyncio.Task[None]


class Member:
    """Consumes its share of the enriched topic until it is told to stop."""

    def __init__(
        self,
        kafka: KafkaSettings,
        store: Store,
        stream: Stream,
        *,
        instance_id: str,
        limits: Limits,
        bounds: Bounds,
        buffer_bytes_max: int,
        seal_limits: SealLimits,
        partitions: int,
    ) -> None:
        """`partitions`: of the topic; all of them may be ours."""
        self._store, self._stream = store, stream
        self._limits, self._bounds, self._buffer_bytes_max = limits, bounds, buffer_bytes_max
        fetch_bytes = max(FETCH_BYTES_MIN, min(FETCH_BYTES_MAX, buffer_bytes_max // (4 * partitions)))
        # A fetch brings a whole batch at least, and small records take up to twice their bytes in memory.
        self._fetch_room = min(buffer_bytes_max, 2 * max(fetch_bytes, kafka.kafka_batch_bytes_max))
        self._topic = kafka.topic_enriched
        self._owned: dict[int, _Owned] = {}
        self._is_finishing = False
        self._reading = Alarms[Alarm](SERVICE, f"reading {self._topic}", log)
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sealer = Sealer(
            store.clickhouse,
            stream.id,
            start=stream.start,
            owned=lambda: [partition for partition, owned in self._owned.items() if owned.assignment.is_active],
            partitions=partitions,
            limits=seal_limits,
            clock=BootClock(),
            who=instance_id,
        )
        self._reader = Reader(kafka, self._topic, client_id=f"{instance_id}-offsets")
        self._consumer = Consumer(
            kafka,
            self._topic,
            group_id(stream.id, f"{store.clickhouse.database}.clicks"),
            service=SERVICE,
            instance_id=instance_id,
            start_offset=lambda _partition: 0,  # never used: partitions are held until their owner seeks
            on_assigned=self._on_assigned,
            on_revoked=self._on_revoked,
            on_name_taken=lambda detail: self._reading.raise_alarm(Alarm.NAME_TAKEN, detail),
            partition_fetch_bytes_max=fetch_bytes,
            gather_ms=GATHER_MS,
        )

    @property
    def alarms(self) -> list[str]:
        """Why this member or partitions of ours stand still."""
        return [f"{self._reading.name}: {alarm}: {detail}" for alarm, detail in self._reading.standing.items()] + [
            f"partition {partition}: {alarm}: {detail}"
            for partition, owned in sorted(self._owned.items())
            for alarm, detail in owned.watch.standing.items()
        ]

    async def start(self) -> None:
        """Join the group. Raises TransientError, OperatorError, and then everything is closed."""
        try:
            await self._reader.start()
            await self._consumer.start()
        except BaseException:  # a cancellation, too, must not leave connections open
            await self._reader.close()
            raise

    async def run(self, stopping: asyncio.Event, finish_s: float) -> None:
        """Work until `stopping`; then finish the blocks at hand, at most `finish_s`, and leave the group.

        Raises ClientBroken when another member must be built; a bug in an owner ends it with that error.
        """
        try:
            await self._work_until(stopping)
            await self._finish(finish_s)
        finally:
            self._reading.drop()
            await asyncio.gather(
                self._consumer.close(KAFKA_CLOSE_S, leave=stopping.is_set()), self._reader.close(KAFKA_CLOSE_S)
            )

    async def _work_until(self, stopping: asyncio.Event) -> None:
        working: list[asyncio.Future[None]] = [
            self._failed,
            asyncio.ensure_future(self._fetch()),
            asyncio.ensure_future(self._look_for_accepted_gaps()),
            asyncio.ensure_future(self._sealer.run()),
        ]
        told = asyncio.ensure_future(stopping.wait())
        waiting: list[asyncio.Future[Any]] = [*working, told]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for ended in working:
                if ended.done():
                    ended.result()
        finally:
            for each in waiting:
                each.cancel()

    async def _finish(self, seconds_max: float) -> None:
        """Let each owner store and commit the block it has; one that cannot is cut off like in a crash, with its plan."""
        self._is_finishing = True
        for owned in self._owned.values():
            owned.feed.finish()
        finishing = [asyncio.ensure_future(owned.feed.finished.wait()) for owned in self._owned.values()]
        if not finishing:
            return
        _, late = await asyncio.wait(finishing, timeout=seconds_max)
        for each in late:
            each.cancel()
        if late:
            log.warning("%d blocks were not stored within %.0f s: the next owner does it", len(late), seconds_max)

    async def _fetch(self) -> None:
        while True:
            try:
                self._reader.raise_if_broken()
                self._hand_out(await self._consumer.getmany(POLL_MS))
            except OffsetLost as lost:
                self._skip_lost(lost)
            except ClientBroken:
                raise  # `run` ends with it; another member is built
            except TransientError as exc:
                metrics.errors.labels(SERVICE, "transient").inc()
                log.warning("reading %s: %s", self._topic, exc)
                await asyncio.sleep(RETRY_S * random.uniform(0.5, 1.5))  # noqa: S311  # jitter
            except OperatorError as exc:
                metrics.errors.labels(SERVICE, "operator").inc()
                self._reading.raise_alarm(Alarm.OPERATOR, str(exc))
                await asyncio.sleep(RETRY_S)
            else:
                self._reading.clear_alarm(Alarm.OPERATOR)
            self._hold_and_release()

    def _hand_out(self, fetched: dict[int, list[Record]]) -> None:
        for partition, records in fetched.items():
            if records and partition in self._owned:
                self._owned[partition].feed.put(records)

    def _hold_and_release(self) -> None:
        """Back-pressure: read the partitions that the buffer has room for."""
        feeds = {partition: owned.feed for partition, owned in self._owned.items()}
        lags = {partition: self._consumer.lag(partition) or 0 for partition in feeds}
        used = sum(feed.bytes for feed in feeds.values())
        buffered_bytes.set(used)
        reading = who_may_read(feeds, lags, self._buffer_bytes_max - used, self._fetch_room)
        for partition, lag in lags.items():
            lag_records.labels(partition).set(lag)
            if partition in reading:
                self._consumer.release(partition)
            else:
                self._consumer.hold(partition)

    def _skip_lost(self, lost: OffsetLost) -> None:
        """Go on at the earliest record: whether rows are missing, the raw offsets tell (a gap then stops the partition)."""
        owned = self._owned.get(lost.partition)
        if owned is None:
            return
        owned.feed.jump(lost)

    async def _look_for_accepted_gaps(self) -> None:
        while True:
            await asyncio.sleep(GAPS_EVERY_S)
            waiting = [owned for owned in self._owned.values() if Alarm.GAP in owned.watch.standing]
            if not waiting:
                continue
            try:
                gaps = await accepted_gaps(self._store.clickhouse, self._stream.id)
            except (TransientError, OperatorError, DataError) as exc:
                metrics.errors.labels(SERVICE, "transient" if isinstance(exc, TransientError) else "operator").inc()
                log.warning("looking for accepted gaps: %s", exc)
                continue
            for owned in waiting:
                if owned.assignment.is_active:
                    partition = owned.assignment.partition
                    owned.feed.accept([Range(gap.first, gap.last) for gap in gaps if gap.partition == partition])

    def _on_assigned(self, assignments: Sequence[Assignment]) -> None:
        log.info("assigned partitions %s", [assignment.partition for assignment in assignments])
        for assignment in assignments:
            self._consumer.hold(assignment.partition)
            if self._is_finishing:
                continue
            self._owned[assignment.partition] = self._own(assignment)
        partitions_owned.set(len(self._owned))

    def _own(self, assignment: Assignment) -> _Owned:
        partition = assignment.partition
        watch = PartitionWatch(self._topic, partition)

        async def begin_offset() -> int:
            return (await self._reader.begin_offsets([partition]))[partition]

        def seek(offset: int) -> None:
            self._consumer.seek(assignment, offset)

        intake = Intake(self._stream.id, partition)
        feed = PartitionFeed(intake, self._limits, watch, begin_offset=begin_offset, seek=seek)
        owner = Owner(
            self._stream.id,
            partition,
            table=PartitionTable(self._store, self._stream.id, partition, self._stream.start(partition)),
            group=PartitionGroup(self._consumer, assignment),
            feed=feed,
            clock=BootClock(),
            watch=watch,
            bounds=self._bounds,
        )
        task = asyncio.ensure_future(self._work(owner, feed, watch, partition))
        return _Owned(assignment, feed, watch, task)

    async def _work(self, owner: Owner, feed: PartitionFeed, watch: PartitionWatch, partition: int) -> None:
        """Run an owner to its end. Its loss of the partition is the ordinary end; anything else is a bug."""
        try:
            await self._load_accepted_gaps(feed, watch, partition)
            await owner.run()
        except NotOwned as exc:
            log.info("partition %d is not ours any more: %s", partition, exc)
        except asyncio.CancelledError:
            raise
        except (
            BaseException
        ) as exc:  # a task's edge: whatever ended it must end the member, not one partition in silence
            if not self._failed.done():
                self._failed.set_exception(exc)
            raise

    async def _load_accepted_gaps(self, feed: PartitionFeed, watch: PartitionWatch, partition: int) -> None:
        while True:
            try:
                gaps = await accepted_gaps(self._store.clickhouse, self._stream.id)
            except TransientError as exc:
                watch.retried(exc)
                await asyncio.sleep(RETRY_S)
                continue
            except (OperatorError, DataError) as exc:
                watch.retried(exc)
                watch.raise_alarm(Alarm.OPERATOR, str(exc))
                await asyncio.sleep(RETRY_S)
                continue
            feed.intake.accepted = tuple(Range(gap.first, gap.last) for gap in gaps if gap.partition == partition)
            return

    async def _on_revoked(self, assignments: Sequence[Assignment]) -> None:
        await self._end(self._owned.pop(a.partition) for a in assignments if a.partition in self._owned)
        partitions_owned.set(len(self._owned))
        for assignment in assignments:
            forget(assignment.partition)

    async def _end(self, ending: Iterable[_Owned]) -> None:
        tasks = []
        for owned in ending:
            owned.task.cancel()
            owned.watch.drop()
            tasks.append(owned.task)
        if tasks:
            await asyncio.wait(tasks, timeout=RETRY_S)
