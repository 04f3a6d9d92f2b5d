"""The API's counters. Requests only add to plain dictionaries; `flush` carries the sums over once per tick."""

from __future__ import annotations

from collections import Counter as Tally
from typing import Final

from prometheus_client import Counter, Gauge

from ingest_api.answers import Answer, Refusal, published
from ingest_api.destination import KafkaDestination
from ingest_api.lane import Cut, Lane
from ingest_api.publish import GroupCommit

answers_total = Counter(
    "clickledger_api_answers", "Clicks answered and other requests refused, by code and reason", ["code", "reason"]
)
requests_total = Counter("clickledger_api_requests", "Requests answered with an HTTP status", ["status"])
published_total = Counter("clickledger_api_published_clicks", "Clicks acknowledged by Kafka")
batches_total = Counter("clickledger_api_batches", "Batches sent to Kafka, acknowledged or not")
producers_total = Counter("clickledger_api_producers_replaced", "Producers that could no longer deliver")
pending = Gauge("clickledger_api_pending_clicks", "Clicks waiting for Kafka", multiprocess_mode="livesum")
cut_total = Counter("clickledger_api_connections_cut", "Connections ended without an answer, by reason", ["reason"])
held = Gauge("clickledger_api_held_bytes", "Bytes of unfinished requests", multiprocess_mode="livesum")
unread = Gauge("clickledger_api_unread_bytes", "Bytes of answers that clients do not take", multiprocess_mode="livesum")
connections = Gauge("clickledger_api_connections", "Open connections", multiprocess_mode="livesum")

ACCEPTED: Final = "accepted"


class Tallies:
    """What has been answered since the last flush."""

    def __init__(self) -> None:
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

    def flush(self, commit: GroupCommit, destination: KafkaDestination, open_connections: int, lane: Lane) -> None:
        """Move all sums to the counters."""
        reasons, self._reasons = self._reasons, Tally()
        statuses, self._statuses = self._statuses, Tally()
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
        published_total.inc(self._grown("clicks", commit.clicks))
        batches_total.inc(self._grown("batches", commit.batches))
        producers_total.inc(self._grown("producers", destination.rebuilt))
        pending.set(commit.pending_clicks)
        connections.set(open_connections)
        held.set(lane.held_bytes)
        unread.set(lane.unread_bytes)

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
