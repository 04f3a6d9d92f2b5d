"""What the reports count: refusals of the service itself, by reason."""

from __future__ import annotations

from prometheus_client import Counter

refused_total = Counter(
    "clickledger_reporting_refused", "Requests refused before they reached a report, by reason", ["reason"]
)
cut_total = Counter(
    "clickledger_reporting_connections_cut", "Connections ended without an answer, by reason", ["reason"]
)
exports_total = Counter(
    "clickledger_reporting_exports", "Exports of event detail records that began, by how they ended", ["outcome"]
)
export_bytes_total = Counter("clickledger_reporting_export_bytes", "Bytes of exports that were sent")
