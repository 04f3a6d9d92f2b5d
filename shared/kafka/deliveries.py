"""What has been handed over for producing, until its outcome is known: order, sequence numbers, retries, deadlines.

Theory of operation. A partition has a queue; only its first batch is under way. It gets the partition's sequence number
when it is first written and keeps its bytes, so the broker drops what it has already: an attempt that was lost is simply
made again, on whichever connection leads there by then. An acknowledgement moves the sequence on and lets the next batch
go. So does a refusal, but without moving it, and only if no attempt can have been appended.

A batch has a deadline from the moment it is handed over. If that passes with the batch under way, this producer is
broken: where the batch may be in Kafka its sequence is unknown, and where it never was, nothing gets there. What is
under way elsewhere may still be acknowledged; what waits behind is certainly not sent.

A caller that is cancelled changes nothing: its batch goes on, because written bytes cannot be called back.

Batches without a link to their leader, and those to be tried again, are *held*: one task asks for metadata, connects and
places them, with a pause between attempts.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Collection, Iterable
from typing import Final, Protocol

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors

from shared.errors import ClickledgerError, DataError, OperatorError, OutcomeUnknown, TransientError
from shared.kafka.batch import RecordBatch
from shared.kafka.client import map_error
from shared.kafka.link import Parcel
from shared.kafka.produce_wire import DUPLICATE_SEQUENCE_NUMBER, NO_ERROR, Verdict, verdict

log = logging.getLogger(__name__)

RETRY_S: Final = 0.1
GROWN_ASKS_MAX: Final = 10
"""How often the brokers are asked about a partition that they do not know yet: a topic that has just grown."""
DRAIN_LOOK_S: Final = 0.01
CLOCK_S: Final = 0.001
"""By so little the loop's timers may be early: their resolution."""
_SEQUENCE_MASK: Final = 0x7FFFFFFF
"""A sequence number follows 2^31 - 1 with 0."""


class Way(Protocol):
    """Takes parcels to one broker (`link.Link`)."""

    def submit(self, parcel: Parcel) -> None:
        """Write it as soon as may be; the answer or the loss is told to the deliveries."""


class Places(Protocol):
    """Knows the leaders (`leaders.Leaders`)."""

    def link(self, place: TopicPartition) -> Way | None:
        """An open way to the leader."""

    def partitions(self, topic: str) -> Collection[int] | None:
        """The partitions that a topic is known to have. Raises OperatorError."""

    async def look(self, places: Iterable[TopicPartition]) -> None:
        """Look for the leaders anew, bounded."""

    @property
    def are_busy(self) -> bool:
        """Whether answers are awaited."""


class _Track:
    """A partition: the number of its next record, and the batches that go there."""

    __slots__ = ("place", "queue", "sequence", "topic")

    def __init__(self, topic: str, partition: int) -> None:
        self.place = TopicPartition(topic, partition)
        self.topic = topic.encode()
        self.sequence = 0
        self.queue: deque[Delivery] = deque()


class Delivery:
    """One batch until its outcome is told."""

    __slots__ = (
        "_owner",
        "asks",
        "batch",
        "deadline",
        "future",
        "holds",
        "is_out",
        "is_over",
        "may_be_in",
        "partition",
        "records",
        "timeout_s",
        "topic",
        "track",
        "trouble",
    )

    def __init__(
        self,
        owner: Deliveries,
        track: _Track,
        batch: RecordBatch,
        *,
        timeout_s: float,
        deadline: float,
        future: asyncio.Future[int],
    ) -> None:
        self._owner = owner
        self.track = track
        self.topic = track.topic
        self.partition = track.place.partition
        self.batch = batch
        self.future = future
        self.timeout_s = timeout_s
        self.deadline = deadline
        self.records = b""
        self.is_out = False
        """Written, and neither answered nor lost."""
        self.may_be_in = False
        """An earlier attempt has perhaps been appended."""
        self.is_over = False
        """The outcome was told."""
        self.holds = 0
        self.asks = 0
        self.trouble = ""

    def __str__(self) -> str:
        place = self.track.place
        return f"producing {self.batch.record_count()} records to {place.topic}/{place.partition}"

    def leave(self) -> bytes:
        """The bytes, built once with the partition's present sequence number; written from here on."""
        if not self.records:
            self.records = self.batch.build(*self._owner.identity, self.track.sequence)
        self.is_out = True
        return self.records


class Deliveries:
    """All batches of one producer id."""

    def __init__(self) -> None:
        self.identity = (-1, -1)
        """Producer id and epoch."""
        self.broken = ""
        """Why nothing is taken any more."""
        self.has_missed_deadline = False
        """Whether that is a batch that was not acknowledged in time."""
        self._places: Places | None = None
        self._tracks: dict[tuple[str, int], _Track] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        """The deadline that it is set for, of a batch that may be over by then: one timer for all."""
        self._held: list[Delivery] = []
        self._placing: asyncio.Task[None] | None = None
        self._has_left_some = False

    def begin(self, places: Places, identity: tuple[int, int]) -> None:
        """Deliver there, as this producer."""
        self._places, self.identity = places, identity

    def send(self, topic: str, partition: int, batch: RecordBatch, timeout_s: float) -> asyncio.Future[int]:
        """Take a batch; its future has the offset of the first record, or OutcomeUnknown, TransientError, ….

        The offset is -1 in the one case that the broker has forgotten it (DUPLICATE_SEQUENCE_NUMBER).
        """
        track = self._tracks.get((topic, partition))
        if track is None:
            track = self._tracks[topic, partition] = _Track(topic, partition)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        future: asyncio.Future[int] = loop.create_future()
        delivery = Delivery(self, track, batch, timeout_s=timeout_s, deadline=deadline, future=future)
        if self.broken:
            raise TransientError(f"{delivery}: {self.broken}")
        if not batch.is_sendable:
            raise DataError(f"{delivery}: a batch has records, and is sent once")
        if deadline < self._timer_at:
            self._set_timer(deadline)
        track.queue.append(delivery)
        if track.queue[0] is delivery:
            self._go(delivery)
        return future

    def retire(self, why: str) -> None:
        """Take nothing any more and tell all outcomes now; answers that still come are only waited for by `drain`."""
        self._break(why)
        for track in self._tracks.values():
            while track.queue:
                self._give_up(track.queue[0], why)
        self._set_timer(math.inf)

    async def drain(self, deadline_s: float) -> bool:
        """Wait for the last answers; False when some outcome stays unknown. Nothing is told or tried after it."""
        deadline = asyncio.get_running_loop().time() + deadline_s
        while self._is_busy and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  # once in a producer's life
            await asyncio.sleep(DRAIN_LOOK_S)
        is_complete = not self._is_busy
        self.retire("closed")
        if self._placing is not None:
            self._placing.cancel()
        return is_complete and not self._has_left_some

    def answered(self, delivery: Delivery, code: int, offset: int) -> None:
        """A broker's answer to the present attempt."""
        delivery.is_out = False
        if delivery.is_over:
            return
        if code in (NO_ERROR, DUPLICATE_SEQUENCE_NUMBER):
            track = delivery.track
            track.sequence = (track.sequence + delivery.batch.record_count()) & _SEQUENCE_MASK
            self._end(delivery, offset)
            return
        what = verdict(code)
        error = kafka_errors.for_code(code)
        delivery.trouble = error.__name__
        if what is Verdict.NOT_APPENDED or what is Verdict.UNCLEAR:
            delivery.may_be_in = delivery.may_be_in or what is Verdict.UNCLEAR
            log.info("%s: %s, again", delivery, error.__name__)
            self._hold(delivery)
        elif what is Verdict.REFUSED and not delivery.may_be_in:
            self._end(delivery, map_error(error(), str(delivery)))
        else:
            delivery.may_be_in = True
            self._break(f"sequence of {delivery.track.place.topic}/{delivery.partition} broken: {error.__name__}")
            self._give_up(delivery, self.broken)

    def lost(self, delivery: Delivery, *, was_written: bool) -> None:
        """The present attempt has ended without an answer."""
        delivery.is_out = False
        if delivery.is_over:
            self._has_left_some = self._has_left_some or was_written
            return
        delivery.may_be_in = delivery.may_be_in or was_written
        delivery.trouble = "the connection was lost"
        self._hold(delivery)

    @property
    def _is_busy(self) -> bool:
        return any(track.queue for track in self._tracks.values()) or (
            self._places is not None and self._places.are_busy
        )

    def _go(self, delivery: Delivery) -> None:
        link = self._places.link(delivery.track.place) if self._places is not None else None
        if link is None:
            self._hold(delivery)
        else:
            link.submit(delivery)

    def _hold(self, delivery: Delivery) -> None:
        delivery.holds += 1
        self._held.append(delivery)
        if self._placing is None:
            self._placing = asyncio.get_running_loop().create_task(self._place_held())
            self._placing.add_done_callback(self._placed)

    async def _place_held(self) -> None:
        """Until nothing is held: look for leaders, hand over what has one; pause unless something is new."""
        assert self._places is not None
        while self._held:
            if all(delivery.holds > 1 or delivery.may_be_in or delivery.trouble for delivery in self._held):
                await asyncio.sleep(RETRY_S)
            held, self._held = self._held, []
            await self._places.look({delivery.track.place for delivery in held})
            for delivery in held:
                if not delivery.is_over:
                    self._place(delivery)

    def _place(self, delivery: Delivery) -> None:
        """To its leader, back to the held, or to its end because there is no such partition."""
        assert self._places is not None
        topic, number = delivery.track.place
        try:
            known = self._places.partitions(topic)
        except OperatorError as exc:
            self._end_without(delivery, exc)
            return
        if known and number not in known:
            delivery.asks += 1
            if delivery.asks >= GROWN_ASKS_MAX:
                text = f"{topic} has {len(known)} partitions, none with number {number}"
                self._end_without(delivery, TransientError(text))
                return
        elif known is None:
            delivery.trouble = delivery.trouble or "the topic is unknown"
        self._go(delivery)

    def _end_without(self, delivery: Delivery, error: ClickledgerError) -> None:
        """An end before the present attempt was written."""
        if delivery.may_be_in:
            self._break(str(error))
            self._give_up(delivery, str(error))
        else:
            self._end(delivery, error)

    def _placed(self, task: asyncio.Task[None]) -> None:
        self._placing = None
        if task.cancelled():
            return
        if (bug := task.exception()) is not None:
            log.error("looking for leaders ended", exc_info=bug)
            self.retire(f"looking for leaders ended: {bug!r}")
        elif self._held:
            self._hold(self._held.pop())

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = None if deadline == math.inf else asyncio.get_running_loop().call_at(deadline, self._expire_late)

    def _expire_late(self) -> None:
        """Set the timer for the next deadline, and end what is over its own."""
        now = asyncio.get_running_loop().time() + CLOCK_S
        deliveries = [delivery for track in self._tracks.values() for delivery in track.queue]
        self._set_timer(min((each.deadline for each in deliveries if each.deadline > now), default=math.inf))
        for delivery in sorted(deliveries, key=lambda delivery: delivery.deadline):
            if delivery.deadline <= now and not delivery.is_over:  # it ends with one before it
                self._expire(delivery)

    def _expire(self, delivery: Delivery) -> None:
        seconds = f"{delivery.timeout_s:.1f} s"
        if delivery.track.queue[0] is not delivery:
            self._end(delivery, TransientError(f"{delivery}: earlier batches filled the queue for {seconds}"))
            return
        reason = f" ({delivery.trouble})" if delivery.trouble else ""
        why = f"no acknowledgement within {seconds}{reason}"
        self.has_missed_deadline = self.has_missed_deadline or not self.broken
        self._break(why)
        self._give_up(delivery, why)

    def _break(self, why: str) -> None:
        self.broken = self.broken or why

    def _give_up(self, delivery: Delivery, why: str) -> None:
        """End without an answer: unknown where an attempt may have been appended, else certainly not sent."""
        is_unknown = delivery.may_be_in or delivery.is_out
        self._end(delivery, (OutcomeUnknown if is_unknown else TransientError)(f"{delivery}: {why}"))

    def _end(self, delivery: Delivery, outcome: int | ClickledgerError) -> None:
        """Tell the outcome; the partition's next batch goes, or none does any more."""
        queue = delivery.track.queue
        was_first = queue[0] is delivery
        queue.remove(delivery)
        self._tell(delivery, outcome)
        if was_first and queue:
            if not self.broken:
                self._go(queue[0])
                return
            unsent = list(queue)
            queue.clear()
            for waiting in unsent:
                self._tell(waiting, TransientError(f"{waiting}: {self.broken}"))

    @staticmethod
    def _tell(delivery: Delivery, outcome: int | ClickledgerError) -> None:
        delivery.is_over = True
        if delivery.future.done():  # its caller was cancelled
            return
        if isinstance(outcome, int):
            delivery.future.set_result(outcome)
        else:
            delivery.future.set_exception(outcome)
