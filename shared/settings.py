"""Settings: `CLICKLEDGER_*` environment variables, read once by the composition root, frozen, passed in.

Every limit states its unit and its reason in the description. Values that contradict each other are refused at start
with a message that names both. `clickledger settings` prints all of them.
"""

from __future__ import annotations

import difflib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import OperatorError
from shared.ids import PARTITIONS_MAX


class _Group(BaseSettings):
    """A frozen group of settings; `load` refuses names that no group knows."""

    model_config = SettingsConfigDict(env_prefix="CLICKLEDGER_", frozen=True, extra="ignore", env_ignore_empty=True)


class KafkaSettings(_Group):
    """How to reach Kafka, and the topics."""

    kafka_bootstrap: str = Field("127.0.0.1:9092", description="host:port[,host:port…] of the brokers")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how to talk to the brokers"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="SASL mechanism, with a SASL protocol"
    )
    kafka_sasl_username: str = Field("", description="SASL user name")
    kafka_sasl_password: SecretStr = Field(SecretStr(""), description="SASL password")
    kafka_ssl_cafile: Path | None = Field(None, description="PEM file of authorities to trust; the system's when unset")
    kafka_ssl_certfile: Path | None = Field(None, description="PEM file with the client's certificate")
    kafka_ssl_keyfile: Path | None = Field(None, description="PEM file with the client's key")
    topic_raw: str = Field("clicks.raw", description="topic of raw clicks")
    topic_enriched: str = Field("clicks.enriched", description="topic of enriched clicks")
    topic_catalog: str = Field("catalog", description="compacted topic of links, promotions, tenants and keys")
    partitions: int = Field(
        6, ge=1, le=PARTITIONS_MAX, description="partitions made by `setup`; an id has 12 bits for them"
    )
    replication_factor: int = Field(1, ge=1, le=7, description="replicas made by `setup`; production: 3")
    retention_hours: int = Field(168, ge=1, description="hours that Kafka keeps raw and enriched records (7 days)")
    kafka_request_timeout_ms: int = Field(
        10_000, ge=500, le=120_000, description="ms for one request to a broker before it counts as failed"
    )
    kafka_session_timeout_ms: int = Field(
        6_000, ge=1_000, le=60_000, description="ms of silence after which a group member is dead (moves in 10 s)"
    )
    kafka_heartbeat_ms: int = Field(1_500, ge=100, description="ms between heartbeats; a quarter of the session")
    kafka_rebalance_timeout_ms: int = Field(
        15_000, ge=1_000, description="ms a member may take to give up its partitions"
    )
    kafka_batch_bytes_max: int = Field(
        1_048_576, ge=65_536, le=8_388_608, description="bytes of one produced batch; brokers' default limit is 1 MiB"
    )
    kafka_compression: Literal["none", "gzip", "lz4", "zstd"] = Field("none", description="compression of batches")

    @model_validator(mode="after")
    def _times_agree(self) -> Self:
        if self.kafka_heartbeat_ms * 3 > self.kafka_session_timeout_ms:
            raise ValueError(
                f"CLICKLEDGER_KAFKA_HEARTBEAT_MS ({self.kafka_heartbeat_ms}) must be at most a third of "
                f"CLICKLEDGER_KAFKA_SESSION_TIMEOUT_MS ({self.kafka_session_timeout_ms}), else one lost packet evicts a member"
            )
        if self.kafka_security_protocol.startswith("SASL") and not self.kafka_sasl_username:
            raise ValueError(
                "CLICKLEDGER_KAFKA_SECURITY_PROTOCOL is SASL but CLICKLEDGER_KAFKA_SASL_USERNAME is not set"
            )
        return self


class ClickHouseSettings(_Group):
    """How to reach ClickHouse."""

    clickhouse_url: SecretStr = Field(
        SecretStr("http://default@127.0.0.1:8123/clickledger"),
        description="http(s)://user:password@host:port/database of the owner of the table",
    )
    clickhouse_connect_timeout_ms: int = Field(3_000, ge=100, le=60_000, description="ms to connect")
    clickhouse_query_timeout_ms: int = Field(30_000, ge=1_000, le=600_000, description="ms for one query or insert")


class RuntimeSettings(_Group):
    """What every service has."""

    data: Path = Field(
        Path(".clickledger"),
        description="folder for catalog copies, locks, the API's spool (so: on a lasting disk) and the local stack",
    )
    node: str = Field(
        default_factory=lambda: socket.gethostname()[:64], max_length=64, description="name of this machine in records"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least severe line to log")
    health_host: str = Field("127.0.0.1", description="address of /livez, /readyz and /metrics")
    stop_deadline_ms: int = Field(
        20_000, ge=1_000, le=29_000, description="ms a graceful stop may take; orchestrators kill after 30 s"
    )


class CatalogSettings(_Group):
    """The local copy of the catalog."""

    catalog_map_bytes: int = Field(
        8 << 30,
        ge=1 << 20,
        description="bytes of address space for the LMDB file (sparse); a million links take 0.5 GiB",
    )
    catalog_refresh_ms: int = Field(
        20, ge=1, le=1_000, description="ms between looks at a newer snapshot; a revocation must arrive within 1 s"
    )
    catalog_age_ms_max: int = Field(
        86_400_000, ge=1_000, description="ms a catalog may serve without news from Kafka (24 h)"
    )
    catalog_spool_silence_ms_max: int = Field(
        60_000,
        ge=1_000,
        description="ms without a sign of life after which the audit misses a spool; 20 of them",
    )


class ApiSettings(_Group):
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
        2, ge=1, le=64, description="batches under way per process before clicks wait for company"
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


class EnricherSettings(_Group):
    """enricher."""

    enricher_health_port: int = Field(0, ge=0, le=65_535, description="port of health and metrics; 0 picks a free one")
    enricher_place_files: str = Field(
        "",
        description="comma-separated MaxMind-format files (region, city, ASN), asked before the country file of the package",
    )
    enricher_catalog_wait_ms: int = Field(
        30_000,
        ge=5_000,
        le=600_000,
        description="ms to wait for a click's catalog version before the partition is tried again; the catalog lags < 1 s",
    )


class SinkSettings(_Group):
    """sink."""

    sink_health_port: int = Field(0, ge=0, le=65_535, description="port of health and metrics; 0 picks a free one")
    sink_block_rows_max: int = Field(
        10_000, ge=1, le=100_000, description="rows of one block; larger ones were slower and took more memory"
    )
    sink_block_bytes_max: int = Field(
        16 << 20, ge=1 << 16, le=256 << 20, description="bytes of one block in memory; bounds a request to ClickHouse"
    )
    sink_block_age_ms: int = Field(
        500, ge=10, le=60_000, description="ms after which a block is due however small; grows with the insert budget"
    )
    sink_inserts_per_second: float = Field(
        20.0,
        gt=0,
        le=1_000,
        description="inserts per second into the table by all members together; an hour of them must fit the dedup window",
    )
    sink_inserts_at_once: int = Field(2, ge=1, le=16, description="partitions inserting at the same time in one member")
    sink_buffer_bytes_max: int = Field(
        256 << 20, ge=4 << 20, description="bytes of rows one member holds in memory; beyond it partitions are paused"
    )
    sink_answer_age_ms_max: int = Field(
        30_000,
        ge=100,
        le=30_000,
        description="ms after the table's answer within which an insert may start (exactly once)",
    )
    sink_insert_timeout_ms: int = Field(
        30_000, ge=500, le=300_000, description="ms one insert may run, at the client and at the server"
    )
    sink_seal_every_ms: int = Field(
        900_000,
        ge=100,
        le=86_400_000,
        description="ms whose inserts one seal covers (15 min); how often is looked for them",
    )
    sink_seal_age_ms: int = Field(
        900_000,
        ge=100,
        le=86_400_000,
        description="ms after its insert before a row is sealed (15 min): by then the disk has it, and nobody still inserts",
    )
    sink_seal_rows_max: int = Field(
        200_000, ge=1, le=10_000_000, description="rows one seal covers; bounds the query that reads and hashes them"
    )


class ReportingSettings(_Group):
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


G = TypeVar("G", bound=_Group)

GROUPS: tuple[type[_Group], ...] = (
    RuntimeSettings,
    KafkaSettings,
    ClickHouseSettings,
    CatalogSettings,
    ApiSettings,
    EnricherSettings,
    SinkSettings,
    ReportingSettings,
)
"""Every group, in the order in which `clickledger settings` prints them."""


OTHER_VARIABLES: Final[Mapping[str, str]] = {
    "CLICKLEDGER_CACHE": "folder of the broker's jars, for the local stack; `~/.cache/clickledger` without",
    "CLICKLEDGER_KEY": "API key of `clickledger send`; the running local stack's without",
    "CLICKLEDGER_ADMIN_KEY": "key with the grant `admin` for `links load` and `promotions load`; the local stack's without",
    "CLICKLEDGER_CLICKHOUSE_PASSWORD": "local ClickHouse server: password of its owner; `up` sets it",
    "CLICKLEDGER_CLICKHOUSE_READER_PASSWORD": "local ClickHouse server: password of the user `reader`; no such user without",
    "CLICKLEDGER_CLICKHOUSE_ANONYMOUS_READER": "local ClickHouse server: `1` lets this machine read without password; `up` sets it",
}
"""Variables that are read elsewhere, with their meaning: by the local stack and by commands, never by a service."""


def refuse_unknown(environ: Mapping[str, str]) -> None:
    """Raise OperatorError for a `CLICKLEDGER_*` variable that nothing reads: a misspelt limit must not pass unnoticed."""
    known = OTHER_VARIABLES.keys() | {f"CLICKLEDGER_{name.upper()}" for group in GROUPS for name in group.model_fields}
    for name in sorted(environ):
        if name.startswith("CLICKLEDGER_") and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else " (see: clickledger settings)"
            raise OperatorError(f"settings: {name} is no setting{hint}")


def load(group: type[G]) -> G:
    """Read a group from the environment. Raises OperatorError, one line for each wrong or unknown value."""
    refuse_unknown(os.environ)
    try:
        return group()
    except ValidationError as exc:
        lines = (
            f"{'CLICKLEDGER_' + str(error['loc'][0]).upper() + ': ' if error['loc'] else ''}"
            f"{error['msg'].removeprefix('Value error, ')}"
            for error in exc.errors()
        )
        raise OperatorError("settings: " + "; ".join(lines)) from None
