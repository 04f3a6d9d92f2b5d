"""Settings of every service: Kafka, ClickHouse, the catalog, and how a process runs."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from shared.ids import PARTITIONS_MAX
from shared.settings.group import Group


class KafkaSettings(Group):
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
    topic_webhooks: str = Field("webhooks", description="compacted topic of where webhooks stand, and their deliveries")
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
        if self.kafka_sasl_username and not self.kafka_security_protocol.startswith("SASL"):
            raise ValueError(
                "CLICKLEDGER_KAFKA_SASL_USERNAME is set but CLICKLEDGER_KAFKA_SECURITY_PROTOCOL "
                f"({self.kafka_security_protocol}) sends no user name: set SASL_SSL"
            )
        return self


class ClickHouseSettings(Group):
    """How to reach ClickHouse."""

    clickhouse_url: SecretStr = Field(
        SecretStr("http://default@127.0.0.1:8123/clickledger"),
        description="http(s)://user:password@host:port/database of the owner of the table",
    )
    clickhouse_cluster: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_.-]{0,64}$",
        description="name of the ClickHouse cluster that holds the tables in shards and replicas; empty: one server",
    )
    clickhouse_connect_timeout_ms: int = Field(3_000, ge=100, le=60_000, description="ms to connect")
    clickhouse_query_timeout_ms: int = Field(30_000, ge=1_000, le=600_000, description="ms for one query or insert")

    @field_validator("clickhouse_url")
    @classmethod
    def _is_a_url(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return url


class RuntimeSettings(Group):
    """What every service has."""

    data: Path = Field(
        Path(".clickledger"),
        description="folder for catalog copies, locks, the API's spool (so: on a lasting disk) and the local stack",
    )
    node: str = Field(
        default_factory=lambda: socket.gethostname()[:64],
        max_length=64,
        description="name of this machine in records; each machine needs one of its own",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least severe line to log")
    health_host: str = Field("127.0.0.1", description="address of /livez, /readyz and /metrics")
    stop_deadline_ms: int = Field(
        20_000, ge=1_000, le=29_000, description="ms a graceful stop may take; orchestrators kill after 30 s"
    )

    @field_validator("node")
    @classmethod
    def _is_a_name(cls, node: str) -> str:
        if "/" in node or not node.isprintable() or not node.strip():
            raise ValueError("must be printable, and without /: spools are named NODE/NUMBER-…")
        return node


class CatalogSettings(Group):
    """The local copy of the catalog."""

    catalog_map_bytes: int = Field(
        8 << 30,
        ge=1 << 20,
        description="bytes of address space for the LMDB file (sparse); a million links take up to 0.35 GiB",
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
