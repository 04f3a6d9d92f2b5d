"""What webhooks count."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from prometheus_client import Counter, Gauge

from reporting.webhooks.schedule import Outcome, Stop
from shared.metrics import begin

SERVICE: Final = "deliverer"

attempts = Counter("clickledger_webhook_attempts", "Requests to webhooks, by how they ended", ["outcome"])
events = Counter("clickledger_webhook_events", "Events of webhooks, by what became of them", ["outcome"])
"""`outcome`: delivered; skipped, after the last attempt."""
lost = Counter(
    "clickledger_webhook_lost_offsets", "Kafka offsets that were gone before a webhook that was behind had read them"
)
disabled = Counter("clickledger_webhook_disabled", "Webhooks that we disabled, by reason", ["reason"])
turns = Counter("clickledger_webhook_turns", "Reads of webhooks that are further behind than what is kept in memory")
saved = Counter("clickledger_webhook_saves", "Writes of where webhooks stand, by how they ended", ["outcome"])
lines = Gauge("clickledger_webhook_lines", "Webhooks and replays that this process works on, by state", ["state"])
"""`state`: idle, sending, waiting (for the next attempt)."""
lag = Gauge("clickledger_webhook_lag_records", "Kafka records that the webhook furthest behind has not looked at")


class Alarm(StrEnum):
    """Why the deliverer, or a webhook, stands still and needs a human; docs/runbook.md has an entry for each."""

    START = "start"
    """It cannot begin: no stream, no group."""
    SEALED = "sealed"
    """Secrets of a webhook do not open: another CLICKLEDGER_SECRET_KEY."""
    STALLED = "stalled"
    """Kafka cannot be read or written: nothing is sent that could not be noted."""
    NAME_TAKEN = "name_taken"
    """Another process is in the group under this one's name; both work on."""


begin(SERVICE, Alarm)
for _outcome in Outcome:
    attempts.labels(_outcome)
for _became in ("delivered", "skipped"):
    events.labels(_became)
for _stop in Stop:
    disabled.labels(_stop)
for _end in ("written", "failed"):
    saved.labels(_end)
