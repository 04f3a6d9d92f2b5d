"""What the enricher counts. Added to once per batch, never once per click."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from prometheus_client import Counter, Gauge

from shared.metrics import begin

SERVICE: Final = "enricher"

records = Counter(
    "clickledger_enricher_records", "Enriched records acknowledged, by what became of them", ["status", "reason"]
)
bots = Counter("clickledger_enricher_bots", "Accepted records whose agent is a bot")
cache = Gauge("clickledger_enricher_cache", "Look-ups answered from memory and worked out", ["cache", "outcome"])
lag = Gauge("clickledger_enricher_lag_records", "Raw records not yet enriched, as of the last fetch", ["partition"])
restarts = Counter(
    "clickledger_enricher_restarts", "Times a partition went back to its committed offset, by cause", ["cause"]
)
"""`cause`: transient, operator, unknown_outcome, lost, refill."""
lost = Counter("clickledger_enricher_records_lost", "Raw records that Kafka deleted before they were read")
producers = Counter("clickledger_enricher_producers_replaced", "Producers closed and built anew, by reason", ["reason"])


class ProducerEnd(StrEnum):
    """Why a producer was replaced."""

    NO_ACKNOWLEDGEMENT = "no_acknowledgement"
    """A batch was not acknowledged within the request time-out."""
    BROKEN = "broken"
    """Its sequence broke."""


class Alarm(StrEnum):
    """Why the enricher or a partition of it stands still; docs/runbook.md has an entry for each."""

    START = "start"
    """There is no stream to enrich yet, or the group cannot be joined."""
    PARTITION_STOPPED = "partition_stopped"
    """A partition cannot go on without a human: raw records are gone, or something is refused."""
    STALLED = "stalled"
    """A passing error does not pass."""
    NAME_TAKEN = "name_taken"
    """Another process is in the group under this one's name; both work on."""


begin(SERVICE, Alarm)
for _cause in ("transient", "operator", "unknown_outcome", "lost", "refill"):
    restarts.labels(_cause)
for _end in ProducerEnd:
    producers.labels(_end)
