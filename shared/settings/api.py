"""Settings of the ingest API."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from shared.settings.group import Group


class ApiSettings(Group):
    """ingest_api."""

    api_host: str = Field("127.0.0.1", description="address the API listens on")
    api_port: int = Field(8080, ge=0, le=65_535, description="port of the API; 0 picks a free one")
    api_workers: int = Field(1, ge=1, le=64, description="worker processes that share the port")
    api_health_port: int = Field(0, ge=0, le=65_535, description="port of the API's metrics; 0 picks a free one")
    api_code_type: Literal["string", "integer"] = Field(
        "string", description="JSON type of `code` in refusals; some clients of the published API compare numbers"
    )
    api_invalid_token_status: int = Field(
        401, ge=200, le=599, description="HTTP status of code 498, which the published page leaves open"
    )
    api_invalid_input_status: int = Field(
        499,
        ge=200,
        le=599,
        description="HTTP status of codes 1001, 1002 and 1003, which the published page leaves open",
    )
    api_body_bytes_max: int = Field(
        16_384,
        ge=512,
        le=262_144,
        description="bytes of a click's body; a URL and an agent of 2 KiB each fit in three times",
    )
    api_batch_bytes_max: int = Field(1_048_576, ge=4_096, le=16_777_216, description="bytes of a batch's body")
    api_batch_clicks_max: int = Field(
        1_000, ge=1, le=10_000, description="clicks of a batch; bounds how long one request holds the process (10 ms)"
    )
    api_throttle_window_ms: int = Field(
        1_000, ge=100, le=3_600_000, description="ms of the fixed window in which a key's clicks are counted"
    )
    api_rate_limit: int = Field(
        10_000, ge=1, le=16_777_215, description="clicks a window of a key without a limit of its own or its tenant's"
    )
    api_throttle_keys_max: int = Field(
        4_096, ge=32, le=1_048_576, description="keys counted at once on a machine; 8 bytes each per worker seat"
    )
    api_failed_authentications_max: int = Field(
        100, ge=1, le=16_777_215, description="failed authentications per client address and window; then 429"
    )
    api_failed_authentications_window_ms: int = Field(
        10_000, ge=1_000, le=3_600_000, description="ms of the window in which failed authentications are counted"
    )
    api_key_cache_max: int = Field(
        10_000, ge=1, le=1_000_000, description="keys remembered per process; about 1 KB each"
    )
    api_trusted_proxies: str = Field(
        "", description="comma-separated networks whose X-Forwarded-For is believed, as 10.0.0.0/8,::1"
    )
    api_clicked_at_ahead_ms_max: int = Field(
        300_000,
        ge=0,
        le=86_400_000,
        description="ms that a clicked-at may be ahead of our clock (5 min); phones' clocks are off",
    )
    api_retention_days: int = Field(
        90, ge=1, le=3_650, description="days a click counts after its message was sent, for a tenant without its own"
    )
    api_ack_timeout_ms: int = Field(
        1_000,
        ge=100,
        le=60_000,
        description="ms to wait for a batch's acknowledgement; then its clicks go to the spool (without one: 500)",
    )
    api_spool: bool = Field(
        default=True,
        description="keep clicks on disk while Kafka does not take them, and answer 200; `false`: such clicks get 500",
    )
    api_spool_bytes_max: int = Field(
        1 << 30,
        ge=65_536,
        description="bytes of the spool of each process (1 GiB: a million clicks or more); beyond it 500, try again",
    )
    api_spool_free_bytes_min: int = Field(
        512 << 20,
        ge=0,
        description="bytes that the spool leaves free on its disk (512 MiB), which holds the catalog's copy too",
    )
    api_spool_heard_ms: int = Field(
        3_000,
        ge=100,
        le=60_000,
        description="ms between a spool's signs of life in the catalog; `audit --wait` waits for the next one of each",
    )
    api_group_ms: int = Field(
        3, ge=0, le=1_000, description="ms clicks wait for company while batches are under way; adds to their latency"
    )
    api_batches_in_flight: int = Field(
        1, ge=1, le=64, description="batches under way per process before clicks wait for company"
    )
    api_pending_clicks_max: int = Field(
        50_000,
        ge=1,
        description="accepted clicks per process that wait for Kafka or the spool; beyond it 500, try again",
    )
    api_pending_bytes_max: int = Field(
        67_108_864, ge=1_048_576, description="bytes of those clicks' records per process (64 MiB)"
    )
    api_start_patience_ms: int = Field(
        3_000,
        ge=0,
        le=30_000,
        description="ms a starting process lets connections wait for catalog and Kafka instead of answering 500",
    )
    api_wait_ms_max: int = Field(
        2_000,
        ge=10,
        le=60_000,
        description="ms the oldest click of a partition may wait for its turn to be sent; beyond it new ones get 500",
    )
    api_connections_max: int = Field(
        10_000, ge=1, le=1_000_000, description="connections per process; about 10 KiB and a file each"
    )
    api_displace_ms: int = Field(
        1_000,
        ge=0,
        le=3_600_000,
        description="ms without progress after which a connection gives way to a new one when there are too many",
    )
    api_held_bytes_max: int = Field(
        67_108_864,
        ge=1_048_576,
        description="bytes of unfinished requests per process (64 MiB); beyond it the longest unfinished get 500",
    )
    api_unread_bytes_max: int = Field(
        67_108_864,
        ge=1_048_576,
        description="bytes of answers per process that clients do not take (64 MiB); beyond it the largest are cut off",
    )
    api_head_bytes_max: int = Field(
        32_768, ge=1_024, le=1_048_576, description="bytes of a request's line and header fields"
    )
    api_pipelined_max: int = Field(
        64, ge=1, le=10_000, description="requests of one connection that wait for their answers before reading pauses"
    )
    api_keep_alive_ms: int = Field(
        75_000,
        ge=100,
        le=3_600_000,
        description="ms an idle connection is kept; longer than load balancers keep theirs",
    )
    api_request_timeout_ms: int = Field(
        30_000, ge=100, le=600_000, description="ms from a request's first byte to its last; then 408"
    )
    api_write_stall_ms: int = Field(
        30_000, ge=100, le=600_000, description="ms a client may refuse to take its answers before it is cut off"
    )
    api_linger_ms: int = Field(
        2_000, ge=0, le=60_000, description="ms in which the rest of a refused request is thrown away before closing"
    )
    api_catalog_lines_max: int = Field(
        10_000, ge=1, le=100_000, description="lines of one request that registers links or promotions"
    )
    api_catalog_bytes_max: int = Field(
        8_388_608, ge=4_096, le=67_108_864, description="bytes of such a request (8 MiB)"
    )
    api_catalog_requests_max: int = Field(
        4,
        ge=1,
        le=1_000,
        description="such requests at once per process; each takes about ten times its bytes; then 503",
    )

    @model_validator(mode="after")
    def _largest_request_fits(self) -> Self:
        largest = max(self.api_batch_bytes_max, self.api_body_bytes_max + self.api_head_bytes_max)
        if self.api_held_bytes_max < 2 * largest:
            raise ValueError(
                f"CLICKLEDGER_API_HELD_BYTES_MAX ({self.api_held_bytes_max}) must be at least twice "
                f"CLICKLEDGER_API_BATCH_BYTES_MAX ({self.api_batch_bytes_max}), else no batch gets through beside another"
            )
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.api_port and self.api_port == self.api_health_port:
            raise ValueError(f"CLICKLEDGER_API_PORT and CLICKLEDGER_API_HEALTH_PORT are both {self.api_port}")
        return self
