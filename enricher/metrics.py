"""What the enricher counts. Added to once per batch, never once per click."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

records = Counter(
    "clickledger_enricher_records", "Enriched records acknowledged, by what became of them", ["status", "reason"]
)
bots = Counter("clickledger_enricher_bots", "Accepted records whose agent is a bot")
cache = Gauge("clickledger_enricher_cache", "Look-ups answered from memory and worked out", ["cache", "outcome"])
lag = Gauge("clickledger_enricher_lag_records", "Raw records not yet enriched, as of the last fetch", ["partition"])
restarts = Counter(
    "clickledger_enricher_restarts", "Times a partition went back to its committed offset, by cause", ["cause"]
)
"""`cause`: transient, operator, lost, not_contiguous, refill, not_owned."""
producers = Counter("clickledger_enricher_producers_replaced", "Producers closed because an outcome was unknown")
