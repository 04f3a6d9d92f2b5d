"""What the reports count: refusals of the service itself, by reason."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

refused_total = Counter(
    "clickledger_reporting_refused", "Requests refused before they reached a report, by reason", ["reason"]
)
cut_total = Counter(
    "clickledger_reporting_connections_cut", "Connections ended without an answer, by reason", ["reason"]
)
exports_total = Counter(
    "clickledger_reporting_exports", "Exports of event detail records that began, by how they ended", ["outcome"]
)
"""`whole`; `gone`: its client; `slow`: its client did not take it; `key`: no longer valid; `broken`: ClickHouse failed."""
export_bytes_total = Counter("clickledger_reporting_export_bytes", "Bytes of exports that were sent")

rte_clients = Gauge("clickledger_reporting_rte_clients", "Open event streams")
rte_catchups = Gauge("clickledger_reporting_rte_catchups", "Event streams that read from the past")
rte_events_total = Counter("clickledger_reporting_rte_events", "Events sent, all streams together")
rte_closed_total = Counter("clickledger_reporting_rte_closed", "Event streams that ended, by reason", ["reason"])
rte_dropped_total = Counter(
    "clickledger_reporting_rte_dropped", "Records of clicks.enriched that are no event, by reason", ["reason"]
)
"""`copy`: given before. `foreign`: no enricher wrote it, or for another stream."""
rte_lag = Gauge("clickledger_reporting_rte_lag", "Records of clicks.enriched that the streams have not had yet")
rte_gaps = Gauge("clickledger_reporting_rte_gaps", "Partitions whose next click is missing in clicks.enriched")
rte_away = Gauge("clickledger_reporting_rte_away", "1 while the streams get no answer from Kafka")

for _reason in ("queries_full", "queries_tenant_full"):
    refused_total.labels(_reason)
