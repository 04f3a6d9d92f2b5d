"""The API's counters. Requests only add to plain dictionaries; `flush` carries the sums over once per tick."""

from __future__ import annotations

from collections import Counter as Tally
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from ingest_api.answers import Refusal, published
from ingest_api.destination import KafkaDestination
from ingest_api.publish import GroupCommit
from ingest_api.replay import Replayer
from ingest_api.spool import Spool, SpoolReason
from ingest_api.spools import Spools
from ingest_api.waits import BOUNDS_S, Waits
from shared.http.answer import Answer
from shared.http.lane import Cut, Lane

answers_total = Counter(
    "clickledger_api_answers", "Clicks answered and other requests refused, by code and reason", ["code", "reason"]
)
requests_total = Counter("clickledger_api_requests", "Requests answered with an HTTP status", ["status"])
published_total = Counter("clickledger_api_published_clicks", "Clicks acknowledged by Kafka")
batches_total = Counter("clickledger_api_batches", "Batches sent to Kafka, acknowledged or not")
producers_total = Counter("clickledger_api_producers_replaced", "Producers that could no longer deliver")
cut_total = Counter("clickledger_api_connections_cut", "Connections ended without an answer, by reason", ["reason"])
held = Gauge("clickledger_api_held_bytes", "Bytes of unfinished requests", multiprocess_mode="livesum")
unread = Gauge("clickledger_api_unread_bytes", "Bytes of answers that clients do not take", multiprocess_mode="livesum")
pending = Gauge("clickledger_api_pending_clicks", "Clicks waiting for Kafka or the spool", multiprocess_mode="livesum")
spooled_total = Counter(
    "clickledger_api_spooled_clicks", "Clicks kept on disk, by why Kafka did not take them", ["reason"]
)
spool_refused_total = Counter(
    "clickledger_api_spool_refused_clicks", "Clicks taken, and then kept neither by Kafka nor the spool"
)
replayed_total = Counter("clickledger_api_replayed_clicks", "Clicks of the spool acknowledged by Kafka")
set_aside_total = Counter("clickledger_api_spool_set_aside", "Pieces of the spool that could not be published: damage")
spool_clicks = Gauge("clickledger_api_spool_clicks", "Clicks on disk, not in Kafka yet", multiprocess_mode="livesum")
spool_bytes = Gauge("clickledger_api_spool_bytes", "Bytes of the spool on disk", multiprocess_mode="livesum")
spool_age = Gauge("clickledger_api_spool_age_seconds", "Age of the oldest click on disk", multiprocess_mode="livemax")
spool_set_aside = Gauge(
    "clickledger_api_spool_set_aside_files", "Side files that wait for a human", multiprocess_mode="livesum"
)
spool_blocked = Gauge(
    "clickledger_api_spool_blocked",
    "Processes whose spool takes no clicks: full, or its disk",
    multiprocess_mode="livesum",
)
connections = Gauge("clickledger_api_connections", "Open connections", multiprocess_mode="livesum")


class _Waited(Histogram):
    """The library's own `observe` takes one value at a time."""

    def take(self, waits: Waits) -> None:
        """Add what was counted elsewhere."""
        clicks, seconds = waits.take()
        for bucket, count in zip(self._buckets, clicks, strict=True):
            bucket.inc(count)
        self._sum.inc(seconds)


waited = _Waited(
    "clickledger_api_durable_seconds",
    "From a click's last check until it is known whether it is durable; of clicks in one group the longest",
    buckets=BOUNDS_S,
)

ACCEPTED: Final = "accepted"


class Tallies:
    """What has been answered since the last flush."""

    def __init__(self) -> None:
        self.accepted = 0
        """Requests of one click that were answered 200 with an id: the one kind that is frequent."""
        self._reasons: Tally[str] = Tally()
        self._others: Tally[tuple[int, str]] = Tally()
        self._statuses: Tally[int] = Tally()
        self._cuts: Tally[Cut] = Tally()
        self._seen = Tally[str]()

    def answer(self, answer: Answer) -> Answer:
        """Count one click's answer, and hand it on."""
        self._reasons[answer.reason] += 1
        self._statuses[answer.status] += 1
        return answer

    def lines(self, accepted: int, refusals: Tally[Refusal]) -> None:
        """Count the clicks of a batch."""
        self._reasons[""] += accepted
        self._reasons.update(refusals)

    def status(self, status: int) -> None:
        """Count a request whose clicks are counted apart."""
        self._statuses[status] += 1

    def other(self, answer: Answer) -> Answer:
        """Count the answer of any other endpoint, by reason when it refuses, and hand it on."""
        self._statuses[answer.status] += 1
        if answer.reason:
            self._others[answer.status, answer.reason] += 1
        return answer

    def cut(self, why: Cut) -> None:
        """Count a connection that was ended without an answer."""
        self._cuts[why] += 1

    def flush(self, commit: GroupCommit, kafka: KafkaDestination, open_connections: int, lane: Lane) -> None:
        """Move all sums to the counters."""
        accepted, self.accepted = self.accepted, 0
        reasons, self._reasons = self._reasons + Tally({"": accepted}), Tally()
        statuses, self._statuses = self._statuses + Tally({200: accepted}), Tally()
        for reason, count in reasons.items():
            answers_total.labels(*_labels(reason)).inc(count)
        others, self._others = self._others, Tally()
        for (status, reason), count in others.items():
            answers_total.labels(str(status), reason).inc(count)
        for status, count in statuses.items():
            requests_total.labels(str(status)).inc(count)
        cuts, self._cuts = self._cuts, Tally()
        for why, count in cuts.items():
            cut_total.labels(why).inc(count)
        published_total.inc(self._grown("clicks", kafka.clicks))
        batches_total.inc(self._grown("batches", commit.batches))
        producers_total.inc(self._grown("producers", kafka.rebuilt))
        waited.take(commit.waits)
        pending.set(commit.pending_clicks)
        connections.set(open_connections)
        held.set(lane.held_bytes)
        unread.set(lane.unread_bytes)

    def flush_spools(self, own: Spool | None, spools: Spools, replayer: Replayer, now_ms: int) -> None:
        """The same for the spool."""
        if own is not None:
            for reason, count in own.spooled.items():
                spooled_total.labels(reason).inc(self._grown(f"spooled {reason}", count))
            spool_refused_total.inc(self._grown("spool refused", own.refused))
            spool_blocked.set(bool(own.why_not_ready()))
        replayed_total.inc(self._grown("replayed", replayer.replayed))
        set_aside_total.inc(self._grown("set aside", replayer.set_aside))
        spool_clicks.set(spools.clicks)
        spool_bytes.set(spools.bytes)
        spool_set_aside.set(spools.set_aside)
        oldest_at_ms = spools.oldest_at_ms
        spool_age.set(0 if oldest_at_ms is None else max(0, now_ms - oldest_at_ms) / 1000)

    def _grown(self, name: str, total: int) -> int:
        grown, self._seen[name] = total - self._seen[name], total
        return grown


def _labels(reason: str) -> tuple[str, str]:
    """Code and reason; an answer outside the published table has its HTTP status as both."""
    if not reason:
        return "200", ACCEPTED
    try:
        return str(published(Refusal(reason)).code), reason
    except ValueError:
        return reason.removeprefix("http_"), reason


for _reason in ("", *Refusal):
    answers_total.labels(*_labels(_reason))
for _why in Cut:
    cut_total.labels(_why)
for _kept in SpoolReason:
    spooled_total.labels(_kept)
