"""One line of work: the live events of a webhook, or a replay, one request at a time, in order.

The loop is: choose the next events, note where that leaves the line (`pending`), send, note that it is done. What is noted
is always at or behind what was sent, so a crash repeats and never skips; a repetition is chosen from the same range and
has the same id. An event that is not taken holds up those behind it until it is, or its time is over: then it is skipped,
counted and written to the log. Nothing is kept in memory while it waits: each attempt reads its events again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, assert_never

import orjson

from reporting.webhooks import messages, metrics
from reporting.webhooks.choosing import Choice, Entry, Event, Wanted, is_over, prefix_of
from reporting.webhooks.log import AttemptLog
from reporting.webhooks.messages import Message
from reporting.webhooks.model import Confidential, StopRecord, Webhook
from reporting.webhooks.places import UNKNOWN, Mark, Marks, Pending, Progress
from reporting.webhooks.schedule import Again, Attempt, Disable, GiveUp, Outcome, after_failure
from shared.errors import OffsetLost, OperatorError, TransientError
from shared.settings import WebhookSettings

log = logging.getLogger(__name__)

BEHIND_S: Final = 0.2
"""Seconds between two looks whether places can be noted again."""
READ_AGAIN_S: Final = 1.0
"""Seconds before Kafka is asked again, after an error or for records that have not come yet."""
NOTE_EVERY_S: Final = 5.0
"""Seconds between two notes of a place that moved over events that are not wanted."""
_UNBOUNDED: Final = 1 << 62


class Source(Protocol):
    """The part of `Feed` that a line needs."""

    listeners: set[asyncio.Event]
    """Set at each arrival."""

    @property
    def partitions(self) -> Sequence[int]:
        """Partitions of the topic."""

    def end(self, partition: int) -> int:
        """The offset behind the last record that is known."""

    async def read(self, partition: int, offset: int) -> Sequence[Entry]:
        """Entries from an offset on."""

    async def earliest(self, partition: int) -> int:
        """The offset of the first record that is left."""


class Sending(Protocol):
    """The part of `Sender` that a line needs."""

    async def send(self, url: str, message: Message, fields: dict[str, str]) -> Attempt:
        """One attempt."""


@dataclass(frozen=True, slots=True)
class Notes:
    """Where a line writes what must outlive it."""

    save: Callable[[Progress | None], None]
    """Where it stands, soon; None: it is over."""
    flush: Callable[[], Awaitable[None]]
    """What was saved is in Kafka afterwards. Raises TransientError, OperatorError."""
    is_behind: Callable[[], bool]
    """Whether nothing may be sent, since nothing can be noted."""
    stop: Callable[[StopRecord], None]
    """We disable the webhook."""
    log: AttemptLog


def clock_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Line:
    """Works through its events until it is told to stop, is over, or the webhook is disabled."""

    def __init__(
        self,
        webhook: Webhook,
        confidential: Confidential,
        progress: Progress,
        *,
        source: Source,
        sender: Sending,
        notes: Notes,
        settings: WebhookSettings,
    ) -> None:
        self.webhook, self.confidential = webhook, confidential
        self.progress = progress
        self.state = "idle"
        """idle, sending or waiting."""
        self.kind = "live" if progress.window is None else "replay"
        self._source, self._sender, self._notes, self._settings = source, sender, notes, settings
        self._wake = asyncio.Event()
        self._change: tuple[Webhook, Confidential] | None = None
        self._is_ending = False
        self._noted_s = time.monotonic()
        self._next_partition = 0
        self._met: set[int] = set()
        """Partitions whose record at our place was seen."""
        self._fresh: Choice | None = None
        """Just chosen: the first attempt need not read its events again."""

    def stop(self) -> None:
        """End after the attempt that is under way."""
        self._is_ending = True
        self._wake.set()

    def change(self, webhook: Webhook, confidential: Confidential) -> None:
        """Its owner changed it: from the next attempt on."""
        self._change = webhook, confidential
        self._wake.set()

    @property
    def lag(self) -> int:
        """Kafka records that were not looked at."""
        return sum(max(0, self._end(p) - self.progress.mark(p).offset) for p in self._source.partitions)

    async def run(self) -> None:
        """Work. What passes by itself is waited out."""
        while not self._is_ending:
            self._apply_change()
            try:
                if self.progress.pending is not None:
                    await self._attempt(self.progress.pending)
                elif is_over(self.progress):
                    self._notes.save(None)
                    return
                else:
                    await self._plan()
            except OffsetLost as lost:
                self._pass_over(lost)
            except (TransientError, OperatorError) as exc:
                log.warning("%s %s: %s", self.kind, self.webhook.key, exc)
                await self._sleep(READ_AGAIN_S)

    def _apply_change(self) -> None:
        if self._change is None:
            return
        (self.webhook, self.confidential), self._change = self._change, None
        webhook = self.webhook
        if self.kind == "live" and webhook.reset > self.progress.reset:
            self._save(replace(self.progress, marks=webhook.start, reset=webhook.reset, pending=None))

    # Choosing

    async def _plan(self) -> None:
        """Choose the next events; when there are none, wait for more."""
        self.state = "idle"
        self._wake.clear()
        self._source.listeners.add(self._wake)
        try:
            choice = await self._choose()
            if not choice.count:
                if not is_over(self.progress):
                    await self._woken(NOTE_EVERY_S)
                return
        finally:
            self._source.listeners.discard(self._wake)
        batch = self.webhook.batch
        if batch is not None and not choice.is_full and self.kind == "live":
            await self._sleep(batch.linger_ms / 1_000)
            choice = await self._choose()
        if not choice.count:
            return
        until = {p: mark for p, mark in choice.marks.items() if mark != self.progress.mark(p)}
        message_id = self._message(choice.events, until).message_id
        self._save(replace(self.progress, pending=Pending(message_id, until, choice.count, self.webhook.asked)))
        self._fresh = choice
        if batch is not None:  # whoever repeats it must know its range
            await self._notes.flush()

    async def _choose(self) -> Choice:
        batch = self.webhook.batch
        choice = Choice(
            self._wanted(1, _UNBOUNDED) if batch is None else self._wanted(batch.events_max, batch.bytes_max)
        )
        partitions = self._source.partitions
        first = self._next_partition % max(1, len(partitions))  # one that is always full must not keep the others out
        self._next_partition += 1
        for partition in (*partitions[first:], *partitions[:first]):
            if not choice.is_full:
                await self._choose_from(choice, partition, self._end(partition))
        return choice

    async def _choose_from(self, choice: Choice, partition: int, end: int) -> None:
        """Look at a partition from where the line stands, until the choice is full or there is no more."""
        mark = self.progress.mark(partition)
        if self.progress.pending is None and self.kind == "live" and mark.offset > end:
            await self._source.read(partition, mark.offset)  # raises when the topic was made anew
        while not choice.is_full and mark.offset < end and not self._is_ending:
            entries = await self._source.read(partition, mark.offset)
            if not entries:
                return
            await self._meet(partition, mark, entries)
            choice.take(partition, mark, entries, end)
            mark = choice.marks[partition]
            if not choice.count:
                self._move({partition: mark})
            await asyncio.sleep(0)

    async def _meet(self, partition: int, mark: Mark, entries: Sequence[Entry]) -> None:
        """At the first look: a topic that was made anew meanwhile has what we want before our offset too."""
        if partition in self._met or self.kind != "live":
            return
        prefix = prefix_of(self.progress.stream)
        raw = next((each.raw for each in entries if each.raw is not None and each.value.startswith(prefix)), None)
        if raw is None:
            return
        if raw > mark.raw != UNKNOWN:  # or a gap; what was given is passed over by raw offset
            earliest = await self._source.earliest(partition)
            self._met.add(partition)
            raise OffsetLost("clicks.enriched", partition, mark.offset, earliest)
        self._met.add(partition)

    def _end(self, partition: int) -> int:
        window = self.progress.window
        return self._source.end(partition) if window is None else window.ends.get(partition, 0)

    def _wanted(self, events_max: int, bytes_max: int) -> Wanted:
        window = self.progress.window
        return Wanted(
            prefix_of(self.progress.stream),
            orjson.dumps(self.webhook.tenant),
            self.webhook.filter.compiled(self.webhook.tenant),
            events_max,
            bytes_max,
            None if window is None else window.from_ms,
            None if window is None else window.to_ms,
        )

    # Sending

    async def _attempt(self, pending: Pending) -> None:
        """One attempt, once it is due and its end can be noted."""
        self.state = "waiting"
        if pending.asked != self.webhook.asked:
            self._save(replace(self.progress, pending=None))  # chosen anew
            return
        if (left_ms := pending.next_at_ms - clock_ms()) > 0:
            await self._sleep(left_ms / 1_000)
            return
        if self._notes.is_behind():
            await self._sleep(BEHIND_S)
            return
        choice, self._fresh = self._fresh or await self._read_again(pending), None
        if not self._is_whole(choice, pending.until):  # told to stop, or the feed does not have all yet
            await self._sleep(READ_AGAIN_S)
            return
        message = self._message(choice.events, pending.until) if choice.count == pending.events else None
        if message is None or message.message_id != pending.message_id:
            log.warning(
                "webhook %s: message %s is not what was chosen, chosen anew", self.webhook.key, pending.message_id
            )
            self._save(replace(self.progress, pending=None))
            return
        began_ms = clock_ms()
        fields = messages.header_fields(message, self.confidential, began_ms)
        self.state = "sending"
        attempt = await self._sender.send(self.confidential.url, message, fields)
        metrics.attempts.labels(attempt.outcome).inc()
        if attempt.outcome is Outcome.DELIVERED:
            self._delivered(pending, attempt, choice.count, began_ms)
        else:
            self._failed(pending, attempt, choice.count, began_ms)

    def _is_whole(self, choice: Choice, until: Marks) -> bool:
        """Whether all records of the range were read."""
        return all(choice.marks.get(p, self.progress.mark(p)).offset >= mark.offset for p, mark in until.items())

    def _message(self, events: Sequence[Event], until: Marks) -> Message:
        if self.webhook.batch is None:
            return Message(events[0].event_id, events[0].body, messages.SINGLE_TYPE, 1)
        return messages.batch(self.webhook.key, self.progress.stream, until, [event.body for event in events])

    async def _read_again(self, pending: Pending) -> Choice:
        choice = Choice(self._wanted(_UNBOUNDED, _UNBOUNDED))
        for partition, mark in pending.until.items():
            await self._choose_from(choice, partition, mark.offset)
        return choice

    def _delivered(self, pending: Pending, attempt: Attempt, events: int, began_ms: int) -> None:
        metrics.events.labels("delivered").inc(events)
        window = self.progress.window
        if window is not None:
            window = replace(window, delivered=window.delivered + events)
        self._save(self.progress.moved(pending.until, pending=None, failures=0, window=window))
        self._log(pending, attempt, began_ms)

    def _failed(self, pending: Pending, attempt: Attempt, events: int, began_ms: int) -> None:
        now_ms = clock_ms()
        failures, number = self.progress.failures + 1, pending.attempts + 1
        first_at_ms = pending.first_at_ms or began_ms
        follows = after_failure(
            attempt,
            number=number,
            failures=failures,
            first_at_ms=first_at_ms,
            now_ms=now_ms,
            settings=self._settings,
            die=random.random(),  # noqa: S311  # jitter
        )
        match follows:
            case Again(at_ms):
                again = replace(pending, attempts=number, first_at_ms=first_at_ms, next_at_ms=at_ms)
                self._save(replace(self.progress, pending=again, failures=failures))
                self._log(pending, attempt, began_ms, next_at_ms=at_ms)
            case GiveUp():
                metrics.events.labels("skipped").inc(events)
                log.error(
                    "webhook %s: %d events (message %s) were not taken in %d attempts and are skipped",
                    *(self.webhook.key, events, pending.message_id, number),
                )
                skipped = self.progress.skipped + events
                self._save(self.progress.moved(pending.until, pending=None, failures=failures, skipped=skipped))
                self._log(pending, attempt, began_ms, skipped=True)
            case Disable(reason):
                metrics.disabled.labels(reason).inc()
                log.error("webhook %s is disabled (%s) after %d failures in a row", self.webhook.key, reason, failures)
                anew = replace(pending, attempts=0, first_at_ms=0, next_at_ms=0)
                self._save(replace(self.progress, pending=anew, failures=0))
                self._notes.stop(StopRecord(self.webhook.enablings, reason, now_ms))
                self._log(pending, attempt, began_ms, disabled=reason)
                self._is_ending = True
            case _:
                assert_never(follows)

    def _log(self, pending: Pending, attempt: Attempt, began_ms: int, **follows: object) -> None:
        self._notes.log.add(
            attempt,
            message_id=pending.message_id,
            events=pending.events,
            number=pending.attempts + 1,
            kind=self.kind,
            at_ms=began_ms,
            **follows,  # type: ignore[arg-type]
        )

    # Places

    def _move(self, marks: dict[int, Mark]) -> None:
        """Over events that are not wanted; noted now and then, so that a restart need not read them all again."""
        self.progress = self.progress.moved(marks)
        if time.monotonic() - self._noted_s > NOTE_EVERY_S:
            self._save(self.progress)

    def _save(self, progress: Progress) -> None:
        self.progress, self._fresh = progress, None
        self._noted_s = time.monotonic()
        self._notes.save(progress)

    def _pass_over(self, lost: OffsetLost) -> None:
        """Go on at what is left. What is gone is counted and named; a topic that was made anew has lost nothing of ours."""
        mark = self.progress.mark(lost.partition)
        if lost.earliest <= lost.wanted:
            self._save(self.progress.moved({lost.partition: mark._replace(offset=lost.earliest)}, pending=None))
            return
        gone = lost.earliest - lost.wanted
        metrics.lost.inc(gone)
        log.error("webhook %s (%s) missed events: %s", self.webhook.key, self.kind, lost)
        here = Mark(lost.earliest)
        self._save(self.progress.moved({lost.partition: here}, pending=None, lost=self.progress.lost + gone))

    # Waiting

    async def _sleep(self, seconds: float) -> None:
        """Until then, or until it is told something."""
        self._wake.clear()
        if not self._is_ending and self._change is None:
            await self._woken(seconds)

    async def _woken(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
