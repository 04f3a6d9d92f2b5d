"""Which lines of work this process has: it starts, changes and ends them as webhooks, places and owners change.

Owners. Every deliverer is a member of one group over `clicks.enriched`; a webhook belongs to the partition that its key
hashes to, and is worked on by that partition's member. A new owner begins when its copy of the places holds all that was
written before it became one; the former one has noted its last places before it gives up a partition. One that was frozen
meanwhile may send, and note, once more when it wakes: its events are sent twice with the same ids, none is left out.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import orjson

from reporting.webhooks import messages, metrics
from reporting.webhooks.feed import Feed
from reporting.webhooks.journal import Journal
from reporting.webhooks.line import Line, Notes, clock_ms
from reporting.webhooks.log import AttemptLog, last_number
from reporting.webhooks.metrics import SERVICE, Alarm
from reporting.webhooks.model import Confidential, StopRecord, Webhook, decode_webhook, encode_stop, stop_of
from reporting.webhooks.places import Progress, decode_progress, encode_progress
from reporting.webhooks.sender import Sender
from shared.alarms import Alarms
from shared.catalog import Catalog, Kind
from shared.errors import ClickledgerError
from shared.kafka import Assignment
from shared.secret_box import NotOurs, SecretBox
from shared.settings import WebhookSettings

log = logging.getLogger(__name__)

ENDING_S: Final = 2.0
"""Seconds that attempts under way may take when their webhook goes to another owner; then they are cut off, and repeated."""
FLUSH_S: Final = 1.5
"""Seconds for the last notes of a former owner."""
SWEEP_S: Final = 60.0
"""Seconds between two looks for records of webhooks that are gone."""
TEST_AGE_MS_MAX: Final = 60_000
"""A test that nobody sent within this time is not sent any more: nobody waits for it."""

LineId = tuple[str, str]
"""Key of the webhook, and `live` or `replay`."""


class Parts(NamedTuple):
    """What the deliverer works with."""

    catalog: Catalog
    places: Catalog
    """The copy of the topic of webhooks."""
    box: SecretBox
    feed: Feed
    sender: Sender
    journal: Journal
    settings: WebhookSettings


class _Running(NamedTuple):
    line: Line
    task: asyncio.Task[None]


class Deliverer:
    """The lines of one process. `look` is called several times a second."""

    def __init__(self, parts: Parts, stream: str, partitions: int) -> None:
        self._parts, self._stream, self._partitions = parts, stream, partitions
        self._owned: frozenset[int] = frozenset()
        self._owned_since_ms = 0
        self._webhooks: dict[str, tuple[bytes, Webhook]] = {}
        self._running: dict[LineId, _Running] = {}
        self._forget()
        self._suspects: set[tuple[Kind, str]] = set()
        self._unopened: set[str] = set()
        self._swept_s = time.monotonic()
        self.alarms = Alarms[Alarm](SERVICE, "webhooks", log)

    def _forget(self) -> None:
        """What is remembered of webhooks while they are ours, since the copy of the places is a little behind."""
        self._progress: dict[LineId, Progress | None] = {}
        self._stops: dict[str, StopRecord] = {}
        self._logs: dict[str, AttemptLog] = {}
        self._tests: dict[str, str] = {}
        self._testing: set[asyncio.Task[None]] = set()
        self._finished: set[str] = set()

    # Owners

    def assigned(self, assignments: Sequence[Assignment]) -> None:
        """These partitions are ours from now on."""
        self._owned = frozenset(each.partition for each in assignments)
        self._owned_since_ms = clock_ms()
        log.info("assigned partitions %s", sorted(self._owned))

    async def revoked(self, _assignments: Sequence[Assignment]) -> None:
        """No partition is ours any more: end every line, note where each stands."""
        self._owned = frozenset()
        for running in self._running.values():
            running.line.stop()
        tasks = [running.task for running in self._running.values()] + list(self._testing)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=ENDING_S)
            for task in late:
                task.cancel()
            await asyncio.wait(tasks)
        self._running.clear()
        try:
            await asyncio.wait_for(self._parts.journal.flush(), FLUSH_S)
        except (ClickledgerError, TimeoutError) as exc:
            log.warning("the last places were not noted, some events are sent twice: %s", exc)
        self._forget()

    def is_owner(self, key: str) -> bool:
        """Whether the webhook is ours."""
        return zlib.crc32(key.encode()) % self._partitions in self._owned

    @property
    def _is_settled(self) -> bool:
        """Whether the copies hold all that was written before we became owners."""
        parts = self._parts
        return all(clock_ms() - copy.age_ms > self._owned_since_ms for copy in (parts.catalog, parts.places))

    # Lines

    def look(self) -> None:
        """Bring the lines in line with webhooks, places and owners."""
        self._unopened.clear()
        if self._owned and self._parts.feed.partitions and self._is_settled:
            self._read_webhooks()
            wanted = dict(self._wanted())
            for line_id, running in list(self._running.items()):
                self._follow(line_id, running, wanted)
            for line_id, webhook in wanted.items():
                if line_id not in self._running:
                    self._start(line_id, webhook)
            self._run_tests()
            self._sweep()
        self._measure()

    def _read_webhooks(self) -> None:
        found = {}
        for key, value in self._parts.catalog.scan(Kind.WEBHOOK):
            known = self._webhooks.get(key)
            found[key] = known if known and known[0] == value else (value, decode_webhook(orjson.loads(value)))
        self._webhooks = found

    def _wanted(self) -> Iterator[tuple[LineId, Webhook]]:
        for key, (_, webhook) in self._webhooks.items():
            if self.is_owner(key) and self._stop(webhook) is None:
                yield (key, "live"), webhook
                if self._replay(key) is not None:
                    yield (key, "replay"), webhook

    def _stop(self, webhook: Webhook) -> StopRecord | None:
        ours = self._stops.get(webhook.key)
        record = encode_stop(ours) if ours else self._parts.places.record(Kind.STOP, webhook.key)
        return stop_of(webhook, record)

    def _replay(self, key: str) -> Progress | None:
        remembered = self._progress.get((key, "replay"))
        record = self._parts.places.record(Kind.REPLAY, key)
        found = remembered or (record and decode_progress(record))
        is_due = found and found.window and found.window.replay_id not in self._finished
        return found if found and is_due else None

    def _follow(self, line_id: LineId, running: _Running, wanted: dict[LineId, Webhook]) -> None:
        line, task = running
        webhook = wanted.get(line_id)
        if task.done():
            del self._running[line_id]
            task.result()  # a bug ends the process: places are noted
        elif webhook is None:
            line.stop()
        elif webhook is not line.webhook and (confidential := self._open(webhook)) is not None:
            line.change(webhook, confidential)

    def _start(self, line_id: LineId, webhook: Webhook) -> None:
        confidential = self._open(webhook)
        progress = self._replay(webhook.key) if line_id[1] == "replay" else self._live(webhook)
        if confidential is None or progress is None:
            return
        parts = self._parts
        notes = Notes(
            save=lambda found: self._save(line_id, found),
            flush=parts.journal.flush,
            is_behind=lambda: parts.journal.is_behind,
            stop=lambda stop: self._disable(webhook.key, stop),
            log=self._log_of(webhook.key),
        )
        line = Line(
            webhook,
            confidential,
            progress,
            source=parts.feed,
            sender=parts.sender,
            notes=notes,
            settings=parts.settings,
        )
        self._running[line_id] = _Running(line, asyncio.create_task(line.run(), name=" ".join(line_id)))

    def _live(self, webhook: Webhook) -> Progress:
        """Where the live line goes on; where the webhook begins, when it never worked or was given a new start."""
        record = self._parts.places.record(Kind.PROGRESS, webhook.key)
        found = self._progress.get((webhook.key, "live")) or (record and decode_progress(record))
        if found and found.stream == self._stream and found.reset >= webhook.reset:
            return found
        start = webhook.start if webhook.stream == self._stream else {}
        return Progress(self._stream, start, reset=webhook.reset)

    def _save(self, line_id: LineId, progress: Progress | None) -> None:
        key, kind = line_id
        if kind == "live":
            assert progress is not None
            self._progress[line_id] = progress
            self._parts.journal.note(Kind.PROGRESS, key, encode_progress(progress))
            return
        before = self._replay(key)
        if progress is None and before is not None and before.window is not None:
            log.info("webhook %s: replay %s is over, %d events", key, before.window.replay_id, before.window.delivered)
            self._finished.add(before.window.replay_id)
        self._progress[line_id] = progress
        self._parts.journal.note(Kind.REPLAY, key, None if progress is None else encode_progress(progress))

    def _disable(self, key: str, stop: StopRecord) -> None:
        self._stops[key] = stop
        self._parts.journal.note(Kind.STOP, key, encode_stop(stop))

    def _open(self, webhook: Webhook) -> Confidential | None:
        try:
            opened = webhook.opened(self._parts.box)
        except NotOurs:
            self._unopened.add(webhook.key)
            return None
        return opened

    def _log_of(self, key: str) -> AttemptLog:
        if key not in self._logs:
            slots = self._parts.settings.webhooks_log_max
            last = last_number(self._parts.places.scan(Kind.DELIVERY, f"{key}/"))
            self._logs[key] = AttemptLog(self._parts.journal, key, slots, last)
        return self._logs[key]

    # Tests

    def _run_tests(self) -> None:
        for key, value in self._parts.places.scan(Kind.TEST):
            asked = orjson.loads(value)
            if not self.is_owner(key) or self._tests.get(key) == asked["id"]:
                continue
            self._tests[key] = asked["id"]
            found = self._webhooks.get(key)
            confidential = found and self._open(found[1])
            if found and confidential and clock_ms() - asked["at"] <= TEST_AGE_MS_MAX:
                task = asyncio.create_task(self._test(found[1], confidential, asked["id"]))
                self._testing.add(task)
                task.add_done_callback(self._testing.discard)
            else:
                self._parts.journal.note(Kind.TEST, key, None)

    async def _test(self, webhook: Webhook, confidential: Confidential, test_id: str) -> None:
        """One attempt with an event that is no click, whether or not the webhook is enabled; never repeated."""
        now_ms = clock_ms()
        message = messages.single(messages.make_test_event(webhook.tenant, test_id, now_ms))
        fields = messages.header_fields(message, confidential, now_ms)
        attempt = await self._parts.sender.send(confidential.url, message, fields)
        metrics.attempts.labels(attempt.outcome).inc()
        self._log_of(webhook.key).add(attempt, message_id=test_id, events=1, number=1, kind="test", at_ms=now_ms)
        self._parts.journal.note(Kind.TEST, webhook.key, None)

    # Tidiness

    def _sweep(self) -> None:
        """Delete what is left of webhooks that were deleted; seen twice, since our copy of the catalog may be behind."""
        if time.monotonic() - self._swept_s < SWEEP_S or not self._parts.catalog.is_current:
            return
        self._swept_s = time.monotonic()
        orphans = set()
        for kind in (Kind.PROGRESS, Kind.REPLAY, Kind.STOP, Kind.TEST, Kind.DELIVERY):
            for record_id, _ in self._parts.places.scan(kind):
                key = record_id.rpartition("/")[0] if kind is Kind.DELIVERY else record_id
                if self.is_owner(key) and key not in self._webhooks:
                    orphans.add((kind, record_id))
        for kind, record_id in orphans & self._suspects:
            self._parts.journal.note(kind, record_id, None)
        self._suspects = orphans

    def _measure(self) -> None:
        if self._unopened:
            names = ", ".join(sorted(self._unopened)[:5])
            text = f"{len(self._unopened)} webhooks were made with another CLICKLEDGER_SECRET_KEY: {names}"
            self.alarms.raise_alarm(Alarm.SEALED, text)
        else:
            self.alarms.clear_alarm(Alarm.SEALED)
        lines = [running.line for running in self._running.values()]
        for state in ("idle", "sending", "waiting"):
            metrics.lines.labels(state).set(sum(line.state == state for line in lines))
        metrics.lag.set(max((line.lag for line in lines if line.kind == "live"), default=0))
        if self._parts.journal.is_behind:
            self.alarms.raise_alarm(Alarm.STALLED, f"places cannot be noted: {self._parts.journal.trouble}")
        else:
            self.alarms.clear_alarm(Alarm.STALLED)
