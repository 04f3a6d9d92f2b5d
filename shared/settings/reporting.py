"""Settings of the reports."""

from __future__ import annotations

from pydantic import Field

from shared.settings.group import Group


class ReportingSettings(Group):
    """reporting."""

    reporting_host: str = Field("127.0.0.1", description="address the reports listen on")
    reporting_port: int = Field(8081, ge=0, le=65_535, description="port of the reports; 0 picks a free one")
    reporting_health_port: int = Field(
        0, ge=0, le=65_535, description="port of the reports' metrics; 0 picks a free one"
    )
    reporting_connections_max: int = Field(
        1_000, ge=1, le=1_000_000, description="connections; when full, the one without progress longest gives way"
    )
    reporting_queries_max: int = Field(
        4, ge=1, le=1_000, description="queries to ClickHouse at once; the sink inserts beside them"
    )
    reporting_waiting_max: int = Field(
        32, ge=0, le=100_000, description="requests that wait for their query; beyond it 503, try again"
    )
    reporting_session_minutes: int = Field(
        720, ge=1, le=43_200, description="minutes a login to the dashboard lasts (12 h); its key may end it earlier"
    )
    reporting_login_failures_max: int = Field(
        10,
        ge=1,
        le=10_000,
        description="failed logins of one address within 5 min, per process; then a further one is 429",
    )
    reporting_exports_max: int = Field(
        3, ge=1, le=100, description="EDR exports at once; each keeps a query of ClickHouse running (150 MB there)"
    )
    reporting_exports_waiting_max: int = Field(
        8, ge=0, le=10_000, description="EDR exports that wait for their turn; beyond it 503, try again"
    )
    reporting_export_silence_ms_max: int = Field(
        300_000,
        ge=1_000,
        le=3_600_000,
        description="ms in which ClickHouse may find no row of an EDR export; then it is broken off",
    )
    reporting_export_bytes_per_s_min: int = Field(
        4_096,
        ge=1,
        le=1 << 30,
        description="bytes per s that the reader of an EDR export takes at least, but for 60 s; then it is broken off",
    )
    reporting_pull_rows_max: int = Field(
        200_000,
        ge=1,
        le=10_000_000,
        description="raw offsets of one EDR pull by cursor; they are sorted in ClickHouse's memory (1 to 2 kB each)",
    )
    reporting_rte_clients_max: int = Field(
        500,
        ge=1,
        le=100_000,
        description="open event streams; beyond it 503. Each is one of the connections above, so: fewer than those",
    )
    reporting_rte_tenant_clients_max: int = Field(
        250,
        ge=1,
        le=100_000,
        description="open event streams of one tenant; half of all, so that none takes the others' places",
    )
    reporting_rte_ring_bytes_max: int = Field(
        64 << 20,
        ge=1 << 20,
        le=8 << 30,
        description="bytes of the newest events in memory, for all streams together: one that is further behind is closed. "
        "A quarter of it passes in 0.1 s at most (4,000 events)",
    )
    reporting_rte_catchups_max: int = Field(
        8,
        ge=1,
        le=1_000,
        description="streams that read from the past at once, each with its own reader of Kafka; beyond it 503",
    )
    reporting_rte_catchup_bytes_max: int = Field(
        4 << 20, ge=1 << 16, le=1 << 30, description="bytes that one reader of Kafka fetches ahead for a stream"
    )
    reporting_rte_catchup_ms_max: int = Field(
        600_000,
        ge=1_000,
        le=86_400_000,
        description="ms a stream may read from the past before it is closed, to resume: others wait for its place (10 min)",
    )
    reporting_rte_heartbeat_ms: int = Field(
        15_000,
        ge=100,
        le=600_000,
        description="ms without an event after which a stream gets its position; proxies cut silent connections",
    )
    reporting_traces_max: int = Field(
        2, ge=1, le=100, description="single clicks looked for at once, each with a reader of Kafka"
    )
    reporting_trace_records_max: int = Field(
        50_000,
        ge=1,
        le=10_000_000,
        description="records of one partition looked at for a click, from its time on and before the end (0.2 s)",
    )
    reporting_trace_ms_max: int = Field(
        5_000, ge=100, le=600_000, description="ms for one such search of Kafka; beyond it 503"
    )
