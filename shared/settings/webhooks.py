"""Settings of webhooks: what may be asked for, and how the deliverer sends."""

from __future__ import annotations

from pydantic import Field

from shared.settings.group import Group


class WebhookSettings(Group):
    """webhooks."""

    deliverer_health_port: int = Field(
        0, ge=0, le=65_535, description="port of the deliverer's health and metrics; 0 picks a free one"
    )
    webhooks_per_tenant_max: int = Field(
        100,
        ge=0,
        le=10_000,
        description="webhooks of one tenant; each may keep a connection and a batch in memory; 0 is any number",
    )
    webhooks_allow_networks: str = Field(
        "",
        description="comma-separated networks that webhooks may reach although they are not public, by http and on any port",
    )
    webhooks_ports: str = Field(
        "443,8443", description="comma-separated ports of public addresses that webhooks may reach, by https only"
    )
    webhooks_ca_file: str = Field(
        "", description="PEM file of further authorities whose certificates webhooks may show"
    )
    webhooks_timeout_ms: int = Field(
        15_000, ge=100, le=120_000, description="ms for one attempt from the look-up of the name to the answer's end"
    )
    webhooks_backoff_ms: int = Field(
        5_000, ge=10, le=3_600_000, description="ms before the second attempt; doubled with each further one"
    )
    webhooks_backoff_ms_max: int = Field(
        3_600_000,
        ge=10,
        le=86_400_000,
        description="ms between two attempts at most (1 h), unless Retry-After asks for more",
    )
    webhooks_retry_ms: int = Field(
        86_400_000,
        ge=1_000,
        le=604_800_000,
        description="ms after the first attempt until events that are not taken are skipped (24 h); less than Kafka keeps",
    )
    webhooks_failures_max: int = Field(
        100,
        ge=1,
        le=100_000,
        description="failed attempts in a row after which a webhook is disabled (3 days and more)",
    )
    webhooks_log_max: int = Field(200, ge=10, le=10_000, description="attempts kept in the log of each webhook")
    webhooks_memory_bytes: int = Field(
        32 << 20,
        ge=1 << 20,
        le=1 << 30,
        description="bytes of events that a deliverer keeps for all webhooks: the newest, and at most a quarter for those behind (32 MiB)",
    )
    webhooks_readers: int = Field(
        4, ge=1, le=64, description="webhooks further behind that read from Kafka at once, a turn of 1 MiB each"
    )
