"""Settings of the enricher and the sink."""

from __future__ import annotations

from pydantic import Field

from shared.settings.group import Group


class EnricherSettings(Group):
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


class SinkSettings(Group):
    """sink."""

    sink_health_port: int = Field(0, ge=0, le=65_535, description="port of health and metrics; 0 picks a free one")
    sink_block_rows_max: int = Field(
        10_000, ge=1, le=100_000, description="rows of one block; larger ones were slower and took more memory"
    )
    sink_block_bytes_max: int = Field(
        20 << 20, ge=1 << 16, le=256 << 20, description="bytes of one block in memory; bounds a request to ClickHouse"
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
    sink_inserts_at_once: int = Field(3, ge=1, le=16, description="partitions inserting at the same time in one member")
    sink_buffer_bytes_max: int = Field(
        160 << 20, ge=4 << 20, description="bytes of rows one member holds in memory; beyond it partitions are paused"
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
