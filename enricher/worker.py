"""One partition, as long as it is ours: read, enrich, append, commit.

`PartitionWorker._pass_on` is the delivery guarantee: the order of its lines *is* the guarantee.

* A worker begins at the committed offset (or the stream's start): everything below it was acknowledged, so it stands
  in `clicks.enriched`. It goes up without holes, a batch is appended whole or not at all, and the next one is sent only
  after the acknowledgement of the one before. So before any enriched record of offset o stand all lower offsets.
* A crash between acknowledgement and commit makes the next owner write the same records again: copies, no hole.
* Any failure leads back to the committed offset. A batch whose outcome is unknown may still arrive later; it begins
  at an offset below which everything was acknowledged, so it keeps the rule.
* A worker that lost its partition is cancelled; whatever it still had in the air keeps the rule for the same reason.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar

from enricher import metrics
from enricher.enrich import CatalogBehind, Moment
from enricher.feed import Feed
from enricher.metrics import SERVICE, Alarm
from enricher.refill import Position, Request, position_of, rewound
from enricher.row import ACCEPTED, Tools
from shared.alarms import Alarms
from shared.errors import DataError, NotOwned, OffsetLost, OperatorError, OutcomeUnknown, TransientError
from shared.events import Reason
from shared.kafka import Batch, Committed, Record
from shared.metrics import errors

log = logging.getLogger(__name__)

SLICE_S: Final = 0.02
"""How long enriching may keep the event loop: heartbeats of a 6 s session need far less attention."""
SLICE_LOOK: Final = 32
"""Records between two looks at the clocks: a few milliseconds, when all have new agents and the machine is slow."""
RETRY_S: Final = (0.2, 5.0)
"""First and longest pause after a failure of the environment; doubles in between, jittered."""
OPERATOR_RETRY_S: Final = 5.0
"""Pause after an error that a human must mend: when it is mended, the partition goes on within this time."""
STALLED_S: Final = 30.0
"""How long a partition may fail for passing reasons before that is an alarm: a broker's restart is shorter."""
REVOKE_WAIT_S: Final = 30.0
"""How long a member that was told it owns nothing waits for the rebalance before it looks again."""


class Group(Protocol):
    """The group's committed position of this partition, under one assignment."""

    @property
    def is_active(self) -> bool:
        """Whether the assignment still stands."""

    async def committed(self) -> Committed | None:
        """The committed position, None where there is none. Raises TransientError when it is unknown."""

    async def commit(self, committed: Committed) -> None:
        """Commit under this assignment. Raises NotOwned after its end, TransientError."""

    async def wait_revoked(self, seconds_max: float) -> None:
        """Wait for the end of the assignment."""


class Appender(Protocol):
    """The part of `shared.kafka.Producer` that is used."""

    def new_batch(self) -> Batch:
        """An empty batch."""

    async def send_batch(self, topic: str, partition: int, batch: Batch) -> int:
        """Append a batch; returns once it is acknowledged. Raises OutcomeUnknown, TransientError, DataError."""


A = TypeVar("A", bound=Appender)


class Producers(Protocol[A]):
    """Hands out producers (`producing.Producing`)."""

    async def get(self) -> A:
        """A connected producer. Raises TransientError, OperatorError."""

    async def give_up(self, producer: A, why: str) -> None:
        """Never use this producer again: the outcome of a batch is unknown."""


class Gate(Protocol):
    """Waits for the catalog (`catalog_gate.CatalogGate`)."""

    async def reach(self, version: int) -> int | None:
        """Wait for a version, or for the proof that the topic ends before it."""

    async def until_ready(self) -> None:
        """Wait until the copy is complete."""


class PartitionWorker(Generic[A]):
    """Enriches one partition until it is cancelled or told to stop."""

    def __init__(
        self,
        *,
        stream: str,
        partition: int,
        start_offset: int,
        topic_enriched: str,
        feed: Feed,
        group: Group,
        producing: Producers[A],
        tools: Tools,
        gate: Gate,
        requests: Callable[[int], Sequence[Request]],
        now_ms: Callable[[], int],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._stream = stream
        self._partition = partition
        self._start_offset = start_offset
        self._topic = topic_enriched
        self._feed = feed
        self._group = group
        self._producing = producing
        self._tools = tools
        self._gate = gate
        self._requests = requests
        self._now_ms = now_ms
        self._pause = pause
        self._position = Position(start_offset)
        self._stopping = False
        self._failing_since_s: float | None = None
        self.is_busy = False
        """Records are on their way through: a graceful stop lets their batch be committed."""
        self.alarms = Alarms[Alarm](SERVICE, f"partition {partition}", log)

    def stop(self) -> None:
        """End after the present batch."""
        self._stopping = True
        self._feed.nudge()

    async def run(self) -> None:
        """Work until stopped or until the partition is someone else's. Errors of the environment are retried."""
        try:
            await self._work()
        finally:
            self.alarms.drop()

    async def _work(self) -> None:
        pause_s = RETRY_S[0]
        while self._goes_on():
            was_busy, self.is_busy = self.is_busy, False
            try:
                await self._start_over()
                if not was_busy:
                    self._note_progress()
                while self._goes_on() and not self._has_new_requests():
                    if records := await self._feed.next():
                        self.is_busy = True
                        await self._pass_on(records)
                        self.is_busy, pause_s = False, RETRY_S[0]
                        self._note_progress()
            except NotOwned as exc:
                log.info("partition %d is not ours any more: %s", self._partition, exc)
                await self._group.wait_revoked(REVOKE_WAIT_S)
            except OffsetLost as exc:
                await self._stand_still(exc)
            except (OperatorError, DataError) as exc:
                self._note("operator", exc)
                self.alarms.raise_alarm(Alarm.PARTITION_STOPPED, str(exc))
                await self._pause(OPERATOR_RETRY_S)
            except TransientError as exc:
                self._note("unknown_outcome" if isinstance(exc, OutcomeUnknown) else "transient", exc)
                await self._pause(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
                pause_s = min(2 * pause_s, RETRY_S[1])

    def _goes_on(self) -> bool:
        return self._group.is_active and not self._stopping

    async def _start_over(self) -> None:
        """Go to the committed position, after doing the refill requests that it does not include yet."""
        await self._gate.until_ready()
        position = position_of(await self._group.committed(), self._start_offset)
        after = rewound(position, self._requests(self._partition), self._start_offset)
        if after.done - position.done:
            await self._group.commit(after.committed)
            metrics.restarts.labels("refill").inc()
            log.warning(
                "partition %d: refill, from raw offset %d instead of %d",
                self._partition,
                after.next_offset,
                position.next_offset,
            )
        self._position = after
        self._feed.restart(after.next_offset)

    def _has_new_requests(self) -> bool:
        return any(request.id not in self._position.done for request in self._requests(self._partition))

    async def _pass_on(self, records: Sequence[Record]) -> None:
        """Enrich a fetch, append it in batches, commit each after its acknowledgement."""
        done = 0
        while done < len(records) and not (self._stopping and done):
            producer = await self._producing.get()
            batch, counts, taken = await self._fill(producer, records, done)
            try:
                await producer.send_batch(self._topic, self._partition, batch)
            except OutcomeUnknown as exc:
                await self._producing.give_up(producer, str(exc))
                raise
            done += taken
            self._position = Position(records[done - 1].offset + 1, self._position.done)
            await self._commit()
            _count(counts)

    async def _commit(self) -> None:
        """Commit the acknowledged position, again and again: standing still is better than an endless lead."""
        pause_s = RETRY_S[0]
        while True:
            try:
                await self._group.commit(self._position.committed)
            except TransientError as exc:
                self._note("transient", exc)
                await self._pause(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
                pause_s = min(2 * pause_s, RETRY_S[1])
            else:
                return

    async def _fill(
        self, producer: Appender, records: Sequence[Record], start: int
    ) -> tuple[Batch, Counter[tuple[str, str]], int]:
        """A batch of `records[start:]`, as many as fit; the count by outcome, and how many were taken."""
        batch, counts, taken = producer.new_batch(), Counter[tuple[str, str]](), 0
        catalog_end: int | None = None
        slice_ends, moment = time.monotonic() + SLICE_S, self._moment(catalog_end)
        for record in records[start:] if start else records:
            try:
                enriched = moment.enrich(record.offset, record.key, record.value, record.timestamp)
            except CatalogBehind as behind:
                if taken:
                    break  # what is ready goes out before the wait
                catalog_end = await self._gate.reach(behind.wanted)
                moment = self._moment(catalog_end)
                enriched = moment.enrich(record.offset, record.key, record.value, record.timestamp)
            key, value, headers, timestamp_ms, status, reason = enriched
            if batch.append(timestamp=timestamp_ms, key=key, value=value, headers=headers) is None:
                break
            if status is not ACCEPTED:
                counts[status, reason] += 1
            taken += 1
            if taken % SLICE_LOOK == 0:
                if time.monotonic() >= slice_ends:
                    await asyncio.sleep(0)
                    slice_ends = time.monotonic() + SLICE_S
                moment = self._moment(catalog_end)
        if not taken:
            raise OperatorError(f"raw offset {records[start].offset}: its enriched record does not fit an empty batch")
        counts[ACCEPTED, Reason.NONE] = taken - counts.total()
        return batch, counts, taken

    def _moment(self, catalog_end: int | None) -> Moment:
        return Moment(self._stream, self._partition, self._tools, self._now_ms(), catalog_end)

    async def _stand_still(self, lost: OffsetLost) -> None:
        """Stop at records that Kafka no longer has, until a refill request says where to go on."""
        metrics.restarts.labels("lost").inc()
        metrics.lost.inc(max(0, lost.earliest - lost.wanted))
        self.alarms.raise_alarm(
            Alarm.PARTITION_STOPPED,
            f"{lost}; to go on without them: clickledger refill --accept-lost --at {self._partition}:{lost.earliest}",
        )
        while self._goes_on() and not self._has_new_requests():
            await self._feed.wait_for_nudge()

    def _note(self, kind: str, exc: Exception) -> None:
        errors.labels(SERVICE, kind).inc()
        metrics.restarts.labels(kind).inc()
        if kind == "operator":
            return  # the alarm is the log line
        log.warning("partition %d at raw offset %d: %s", self._partition, self._position.next_offset, exc)
        if self._failing_since_s is None:
            self._failing_since_s = time.monotonic()
        elif time.monotonic() - self._failing_since_s >= STALLED_S:
            self.alarms.raise_alarm(Alarm.STALLED, str(exc))

    def _note_progress(self) -> None:
        self._failing_since_s = None
        for alarm in list(self.alarms.standing):
            self.alarms.clear_alarm(alarm)


def _count(counts: Mapping[tuple[str, str], int]) -> None:
    for (status, reason), count in counts.items():
        metrics.records.labels(status, reason).inc(count)
