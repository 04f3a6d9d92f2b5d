"""A line of work over a topic in memory: what it sends, notes and skips, whatever its endpoint and its source do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from reporting.webhooks import line as lines
from reporting.webhooks.choosing import Entry
from reporting.webhooks.line import Line, Notes
from reporting.webhooks.log import AttemptLog
from reporting.webhooks.messages import Message
from reporting.webhooks.model import BatchBody, Confidential, FilterBody, Secret, StopRecord, Webhook, make_secret
from reporting.webhooks.places import Mark, Progress, Window
from reporting.webhooks.schedule import Attempt, Outcome, Stop
from shared.enriched_fields import ENRICHED_FIELDS
from shared.errors import OffsetLost, TransientError
from shared.events import encode_enriched
from shared.settings import WebhookSettings

STREAM = "s1"
TAKEN, FAILED = Attempt(Outcome.DELIVERED, 204), Attempt(Outcome.STATUS, 500)
CONFIDENTIAL = Confidential("https://hooks.example/", {}, (Secret(make_secret(b"x" * 32)),))
_ZERO = {"string": "", "integer": 0, "boolean": False, "integer?": None}


def webhook_of(**changes: Any) -> Webhook:
    """A webhook of tenant `acme` that wants everything."""
    made = Webhook("acme", "wh_1", "", True, FilterBody(), None, "", STREAM, {0: Mark(0)}, 0, 0, 0, 0)  # noqa: FBT003
    return replace(made, **changes)


class Topic:
    """Partition 0 of a topic; `Feed` without Kafka."""

    def __init__(self) -> None:
        self.listeners: set[asyncio.Event] = set()
        self.entries: list[Entry] = []
        self.begin = 0
        self.errors: list[Exception] = []
        self.refusals: list[Exception] = []
        """To say where it begins."""
        self.slice = 2_000
        self.reads = 0
        self.on_read: Callable[[], None] = lambda: None
        self.first_raw = 0

    @property
    def partitions(self) -> Sequence[int]:
        """One."""
        return [0]

    def end(self, partition: int) -> int:
        """Behind the last record."""
        return len(self.entries)

    def add(
        self, *ids: str, tenant: str = "acme", received_at: int = 1_000, status: str = "accepted", gap: int = 0
    ) -> None:
        """Append clicks with these ids, behind a gap of raw offsets."""
        self.first_raw += gap
        for transaction_id in ids:
            offset = len(self.entries)
            raw = self.first_raw + offset
            record = {field.name: _ZERO[field.json_type] for field in ENRICHED_FIELDS} | {
                "v": 1,
                "stream": STREAM,
                "raw_offset": raw,
                "transaction_id": transaction_id,
                "status": status,
                "tenant": tenant,
                "received_at": received_at,
            }
            self.entries.append(Entry(offset, raw, orjson.dumps(tenant), encode_enriched(record)))
        for listener in self.listeners:
            listener.set()

    async def read(self, partition: int, offset: int) -> Sequence[Entry]:
        """From an offset on."""
        self.reads += 1
        self.on_read()
        if self.errors:
            raise self.errors.pop()
        if not self.begin <= offset <= len(self.entries):
            raise OffsetLost("clicks.enriched", partition, offset, self.begin)
        return self.entries[offset : offset + self.slice]

    async def earliest(self, partition: int) -> int:
        """What is left begins here."""
        if self.refusals:
            raise self.refusals.pop()
        return self.begin


class Endpoint:
    """Takes what it is told to take."""

    def __init__(self, *attempts: Attempt) -> None:
        self.attempts = list(attempts)
        self.sent: list[Message] = []

    async def send(self, url: str, message: Message, fields: dict[str, str]) -> Attempt:
        """The next attempt's end; taken when no more are given."""
        await asyncio.sleep(0)
        self.sent.append(message)
        return self.attempts.pop(0) if self.attempts else TAKEN

    @property
    def ids(self) -> list[str]:
        """Of the events, in order."""
        found = [orjson.loads(message.body) for message in self.sent]
        return [event["id"] for body in found for event in (body if isinstance(body, list) else [body])]


class Memory:
    """What a line noted; `Journal` without Kafka."""

    def __init__(self) -> None:
        self.noted: list[Progress | None] = []
        self.stops: list[StopRecord] = []
        self.log: list[dict[str, Any]] = []
        self.flushes = 0
        self.is_behind = False

    def note(self, _kind: str, _key: str, value: Any) -> None:
        """An entry of the log."""
        self.log.append(value)

    async def flush(self) -> None:
        """Counted."""
        self.flushes += 1

    def notes(self) -> Notes:
        """As a line wants it."""
        attempts = AttemptLog(self, "acme/wh_1", 100, 0)  # type: ignore[arg-type]
        return Notes(self.noted.append, self.flush, lambda: self.is_behind, self.stops.append, attempts)


class Rig:
    """A line with all that it needs."""

    def __init__(self, endpoint: Endpoint, webhook: Webhook | None = None, progress: Progress | None = None) -> None:
        self.topic, self.endpoint, self.memory = Topic(), endpoint, Memory()
        self.line = Line(
            webhook or webhook_of(),
            CONFIDENTIAL,
            progress or Progress(STREAM, {0: Mark(0)}),
            source=self.topic,
            sender=endpoint,
            notes=self.memory.notes(),
            settings=WebhookSettings(webhooks_backoff_ms=10, webhooks_retry_ms=1_000, webhooks_failures_max=5),
        )

    async def run(self, until: Callable[[], bool]) -> None:
        """Until the condition holds."""
        task = asyncio.create_task(self.line.run())
        await self.wait(until)
        self.line.stop()
        await task

    async def wait(self, until: Callable[[], bool]) -> None:
        """Ask again until it is true."""
        async with asyncio.timeout(20):
            while not until():
                await asyncio.sleep(0.002)

    @property
    def last(self) -> Progress:
        """Where it stands as far as anybody else knows."""
        found = self.memory.noted[-1]
        assert found is not None
        return found


async def test_in_order_one_at_a_time() -> None:
    """Wanted events go out in order, others are passed over, and the place that is noted is behind all of them."""
    rig = Rig(Endpoint())
    rig.topic.add("a", "b")
    rig.topic.add("x", tenant="rival")
    rig.topic.add("c")
    await rig.run(lambda: rig.endpoint.ids == ["a", "b", "c"])
    assert rig.last.mark(0) == Mark(4, 4)
    assert rig.last.pending is None
    assert [entry["seq"] for entry in rig.memory.log] == [1, 2, 3]


async def test_what_is_noted_is_never_ahead_of_what_was_taken() -> None:
    """At every note the place is at or behind the first event that is not taken yet: a crash at any moment loses none."""
    rig = Rig(Endpoint(FAILED, TAKEN, FAILED, FAILED, TAKEN), webhook_of(batch=BatchBody(events_max=2, linger_ms=0)))
    taken = 0
    saved: list[tuple[Progress | None, int]] = []

    async def send(url: str, message: Message, fields: dict[str, str]) -> Attempt:
        nonlocal taken
        attempt = await Endpoint.send(rig.endpoint, url, message, fields)
        taken += message.events if attempt is TAKEN else 0
        return attempt

    rig.endpoint.send = send  # type: ignore[method-assign]
    rig.line._notes = replace(rig.line._notes, save=lambda progress: saved.append((progress, taken)))
    rig.topic.add(*"abcdef")
    await rig.run(lambda: taken == 6)
    assert all(progress is not None and progress.mark(0).offset <= at for progress, at in saved)
    assert [len(orjson.loads(message.body)) for message in rig.endpoint.sent] == [2] * 6
    assert rig.memory.flushes == 3


async def test_a_repetition_is_the_same_message() -> None:
    """Every attempt for the same events has the same id and body, also by the next owner, who knows only what was noted."""
    rig = Rig(Endpoint(*[FAILED] * 3), webhook_of(batch=BatchBody(events_max=3, linger_ms=0)))
    rig.topic.add(*"abcd")
    await rig.run(lambda: len(rig.endpoint.sent) == 2)
    heir = Rig(Endpoint(), webhook_of(batch=BatchBody(events_max=3, linger_ms=0)), rig.last)
    heir.topic.entries = rig.topic.entries
    await heir.run(lambda: len(heir.endpoint.sent) == 2)
    assert len({message[:2] for message in (*rig.endpoint.sent[:2], heir.endpoint.sent[0])}) == 1
    assert heir.endpoint.ids == ["a", "b", "c", "d"]


async def test_an_event_whose_time_is_over_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last attempt it is counted and marked in the log, and the next one is sent."""
    now = [1_760_000_000_000]
    monkeypatch.setattr(lines, "clock_ms", lambda: now.__setitem__(0, now[0] + 400) or now[0])
    rig = Rig(Endpoint(FAILED, FAILED))
    rig.topic.add("a", "b")
    await rig.run(lambda: "b" in rig.endpoint.ids)
    assert rig.last.skipped == 1
    assert [entry["skipped"] for entry in rig.memory.log][-2:] == [True, False]
    assert [entry["id"] for entry in rig.memory.log][-2:] == ["a", "b"]


@pytest.mark.parametrize(
    ("attempts", "reason"), [((Attempt(Outcome.GONE, 410),), Stop.GONE), ((FAILED,) * 5, Stop.FAILING)]
)
async def test_a_line_that_is_disabled_ends(attempts: Sequence[Attempt], reason: Stop) -> None:
    """The stop says why; the place stays before the event, with a day of its own for the next try."""
    rig = Rig(Endpoint(*attempts), webhook_of(enablings=3))
    rig.topic.add("a", "b")
    await asyncio.wait_for(rig.line.run(), 20)
    assert [(stop.reason, stop.enablings) for stop in rig.memory.stops] == [(reason, 3)]
    assert rig.last.failures == 0
    assert rig.last.mark(0).offset == 0
    assert rig.last.pending is not None
    assert rig.last.pending.attempts == 0
    assert len(rig.endpoint.sent) == len(attempts)


async def test_what_is_gone_from_kafka_is_counted() -> None:
    """The rest is delivered."""
    rig = Rig(Endpoint())
    rig.topic.add(*"abcd")
    rig.topic.begin = 3
    await rig.run(lambda: rig.endpoint.ids == ["d"])
    assert rig.last.lost == 3


async def test_a_topic_that_was_made_anew() -> None:
    """Its offsets begin again; what was given before, by raw offset, is not given twice."""
    rig = Rig(Endpoint(), progress=Progress(STREAM, {0: Mark(50, 2)}))
    rig.topic.add(*"abcd")
    await rig.run(lambda: rig.endpoint.ids == ["c", "d"])
    assert rig.last.lost == 0


async def test_an_error_of_kafka_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is skipped for it."""
    monkeypatch.setattr(lines, "READ_AGAIN_S", 0.01)
    rig = Rig(Endpoint())
    rig.topic.errors = [TransientError("away"), TransientError("away")]
    rig.topic.add("a")
    await rig.run(lambda: rig.endpoint.ids == ["a"])


async def test_nothing_is_sent_that_could_not_be_noted() -> None:
    """While notes cannot be written the line waits, and goes on after."""
    rig = Rig(Endpoint())
    rig.memory.is_behind = True
    rig.topic.add("a")
    task = asyncio.create_task(rig.line.run())
    await rig.wait(lambda: rig.line.state == "waiting")
    assert rig.endpoint.sent == []
    rig.memory.is_behind = False
    await rig.wait(lambda: rig.endpoint.ids == ["a"])
    rig.line.stop()
    await task


async def test_changes_take_effect_at_the_next_attempt() -> None:
    """A new filter chooses anew, a new start leaves out what waits."""
    rig = Rig(Endpoint(*[FAILED] * 2))
    rig.topic.add("a", "b")
    task = asyncio.create_task(rig.line.run())
    await rig.wait(lambda: len(rig.endpoint.sent) >= 1)
    rig.line.change(webhook_of(filter=FilterBody(promotion_id=["none"])), CONFIDENTIAL)
    await rig.wait(lambda: rig.line.progress.mark(0).offset == 2)
    rig.topic.add("c")
    rig.line.change(webhook_of(reset=1, start={0: Mark(3)}), CONFIDENTIAL)
    await rig.wait(lambda: rig.line.progress.reset == 1)
    rig.topic.add("d")
    await rig.wait(lambda: "d" in rig.endpoint.ids)
    rig.line.stop()
    await task
    assert set(rig.endpoint.ids) == {"a", "d"}


THREE = BatchBody(events_max=3, linger_ms=0)


async def noted(webhook: Webhook, topic: Topic) -> tuple[Progress, Message]:
    """What a line leaves behind after one attempt that failed, and what it sent."""
    rig = Rig(Endpoint(FAILED), webhook)
    rig.topic.entries = topic.entries
    rig.line._settings = WebhookSettings(webhooks_backoff_ms=1_000, webhooks_retry_ms=100_000)
    await rig.run(lambda: bool(rig.memory.log))
    assert rig.last.pending is not None
    return replace(rig.last, pending=replace(rig.last.pending, next_at_ms=0)), rig.endpoint.sent[0]


@pytest.mark.parametrize("first", ["acme", "rival"], ids=["a part was read", "nothing was read"])
async def test_a_stop_while_events_are_read_again(first: str) -> None:
    """Nothing is sent, and what was noted stays: the next owner sends the same message."""
    topic = Topic()
    topic.add("x", tenant=first)
    topic.add("b", "c", "d")
    progress, message = await noted(webhook_of(batch=THREE), topic)
    rig = Rig(Endpoint(), webhook_of(batch=THREE), progress)
    rig.topic.entries, rig.topic.slice, rig.topic.on_read = topic.entries, 1, rig.line.stop
    await asyncio.wait_for(rig.line.run(), 20)
    assert (rig.topic.reads, rig.endpoint.sent) == (1, [])
    assert rig.line.progress.pending == progress.pending
    heir = Rig(Endpoint(), webhook_of(batch=THREE), rig.line.progress)
    heir.topic.entries = topic.entries
    await heir.run(lambda: bool(heir.endpoint.sent))
    assert heir.endpoint.sent[0] == message


@pytest.mark.parametrize("known", [0, 1])
async def test_a_feed_that_is_behind_is_waited_for(known: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new owner whose feed does not know the events yet sends and moves nothing until it does."""
    monkeypatch.setattr(lines, "READ_AGAIN_S", 0.01)
    topic = Topic()
    topic.add(*"abc")
    progress, message = await noted(webhook_of(batch=THREE), topic)
    rig = Rig(Endpoint(), webhook_of(batch=THREE), progress)
    rig.topic.entries = topic.entries[:known]
    task = asyncio.create_task(rig.line.run())
    await rig.wait(lambda: rig.topic.reads >= 5)
    assert (rig.endpoint.sent, rig.line.progress) == ([], progress)
    rig.topic.entries = topic.entries
    await rig.wait(lambda: rig.endpoint.sent == [message])
    rig.line.stop()
    await task


ALL, REJECTED = FilterBody(), FilterBody(status=["rejected"])


@pytest.mark.parametrize(
    ("before", "after", "ids"),
    [
        ({"batch": THREE}, {"batch": None}, ["1", "2", "3", "4"]),
        ({"batch": None}, {"batch": THREE}, ["1", "2", "3", "4"]),
        ({"batch": THREE}, {"batch": BatchBody(events_max=2, linger_ms=0)}, ["1", "2", "3", "4"]),
        ({"filter": REJECTED}, {"filter": ALL}, ["1", "2", "3", "4"]),
        ({"filter": ALL}, {"filter": REJECTED}, ["3"]),
        ({"batch": THREE}, {"batch": THREE, "filter": REJECTED}, ["3"]),
    ],
)
async def test_a_change_while_no_line_runs(before: dict[str, Any], after: dict[str, Any], ids: list[str]) -> None:
    """What was noted is chosen anew: every event that is wanted now is sent once, and no id has two bodies."""
    topic = Topic()
    topic.add("1", "2")
    topic.add("3", status="rejected")
    topic.add("4")
    progress, message = await noted(webhook_of(**before), topic)
    rig = Rig(Endpoint(), webhook_of(**after), progress)
    rig.topic.entries = topic.entries
    await rig.run(lambda: rig.line.progress.mark(0).offset == 4)
    assert rig.endpoint.ids == ids
    bodies = {(each.message_id, each.body) for each in (message, *rig.endpoint.sent)}
    assert len(bodies) == len({message_id for message_id, _ in bodies})


@pytest.mark.parametrize("batch", [THREE, None])
async def test_a_range_with_other_events_is_chosen_anew(batch: BatchBody | None) -> None:
    """Records of a topic that was made anew never go out under the id of those that lay there before."""
    topic, other = Topic(), Topic()
    topic.add(*"abc")
    progress, message = await noted(webhook_of(batch=batch), topic)
    other.add(*"cab")
    rig = Rig(Endpoint(), webhook_of(batch=batch), progress)
    rig.topic.entries = other.entries
    await rig.run(lambda: rig.endpoint.ids == ["c", "a", "b"])
    assert rig.endpoint.sent[0].message_id != message.message_id


@pytest.mark.parametrize(("place", "ids"), [(Mark(2, 2), ["c", "d", "f"]), (Mark(3, 4), ["f"])])
async def test_a_topic_that_was_made_anew_and_is_longer_already(
    place: Mark, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a place in the middle of it the line goes back to its beginning, once; what was given is passed over."""
    monkeypatch.setattr(lines, "READ_AGAIN_S", 0.01)
    rig = Rig(Endpoint(), progress=Progress(STREAM, {0: place}))
    rig.topic.refusals = [TransientError("away")]
    rig.topic.add("b", *"cd", gap=1)
    rig.topic.add("f", gap=1)
    await rig.run(lambda: rig.line.progress.mark(0).offset == 4)
    assert rig.endpoint.ids == ids
    assert rig.line.progress.mark(0) == Mark(4, 6, ((4, 4),))


async def test_a_replay_ends() -> None:
    """It sends what was received in its range up to its end, and says that it is over."""
    window = Window("r", 10, 20, {0: 3})
    rig = Rig(Endpoint(), progress=Progress(STREAM, {0: Mark(0)}, window=window))
    for name, at in (("a", 9), ("b", 10), ("c", 19), ("d", 15)):
        rig.topic.add(name, received_at=at)
    await asyncio.wait_for(rig.line.run(), 20)
    assert rig.endpoint.ids == ["b", "c"]
    assert rig.memory.noted[-1] is None
    assert {entry["kind"] for entry in rig.memory.log} == {"replay"}


def test_the_fakes_have_the_shape_of_the_real_ones() -> None:
    """A topic in memory is a source, an endpoint a sender."""
    source: lines.Source = Topic()
    sender: lines.Sending = Endpoint()
    flush: Callable[[], Awaitable[None]] = Memory().flush
    assert source
    assert sender
    assert flush
