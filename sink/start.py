"""What a sink refuses to start with, because it could lose or double rows later without anybody noticing.

A schema that is not this release's, a deduplication window that forgets tokens within an hour, a server that reads our
times wrongly, topics from which acknowledged records can vanish, fewer enriched than raw partitions.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any, Final

import orjson

from shared.clickhouse import ClickHouse
from shared.enriched_fields import ENRICHED_FIELDS
from shared.errors import OperatorError
from shared.kafka import Admin
from shared.settings import KafkaSettings, SinkSettings
from shared.topic_rules import refuse_config
from sink.blocks import Body
from sink.cluster import LOCAL, SHARDED, WINDOW_S
from sink.ddl import applied_versions, migrations, missing
from sink.rows import Row, Rows
from sink.table import RAW_TIMES, insert_settings

HOUR_S: Final = 3_600
_WINDOW: Final = re.compile(r"\b(?:non_)?replicated_deduplication_window\s*=\s*(\d+)")
_WINDOW_S: Final = re.compile(r"\breplicated_deduplication_window_seconds\s*=\s*(\d+)")
_PROBE_MS: Final = 1_700_000_000_123
_READBACK: Final = """
SELECT {columns}
FROM clicks_readback
WHERE transaction_id = {{id:UUID}}
"""


async def check_server(clickhouse: ClickHouse, settings: SinkSettings) -> bool:
    """Check schema, window and times; whether the server knows the setting `RAW_TIMES`.

    Raises OperatorError with what to do, and as ClickHouse does.
    """
    await _check_schema(clickhouse)
    await _check_window(clickhouse, settings)
    (known,) = await clickhouse.query(
        "SELECT count() FROM system.settings WHERE name = {name:String}", {"name": RAW_TIMES}
    )
    raw_times = bool(known[0])
    await _check_times(
        clickhouse, insert_settings(raw_times=raw_times, timeout_s=settings.sink_insert_timeout_ms / 1000)
    )
    return raw_times


async def _check_schema(clickhouse: ClickHouse) -> None:
    behind = missing(migrations(), await applied_versions(clickhouse))
    if behind:
        names = ", ".join(migration.name for migration in behind)
        raise OperatorError(f"the schema lacks {names}: run `clickledger setup`")


async def _check_window(clickhouse: ClickHouse, settings: SinkSettings) -> None:
    found = await clickhouse.query(
        "SELECT name, engine, create_table_query FROM system.tables "
        "WHERE database = currentDatabase() AND name IN ('clicks', 'clicks_local')"
    )
    tables = {str(name): (str(engine), str(definition)) for name, engine, definition in found}
    refuse_engines({name: engine for name, (engine, _) in tables.items()}, clickhouse.cluster)
    _, definition = tables[LOCAL if clickhouse.cluster else SHARDED]
    refuse_window(definition, settings.sink_inserts_per_second)


def refuse_engines(engines: Mapping[str, str], cluster: str) -> None:
    """Raise OperatorError unless the tables (name: engine) are those that the setting says."""
    if cluster:
        wanted = {SHARDED: "Distributed", LOCAL: "ReplicatedMergeTree"}
        if engines != wanted:
            raise OperatorError(
                f"CLICKLEDGER_CLICKHOUSE_CLUSTER is {cluster!r}, so the tables must be {wanted}, but they are {dict(engines)}: "
                "run `clickledger setup` with this setting on a new database, or leave it empty"
            )
    elif engines.get(SHARDED) != "MergeTree":
        raise OperatorError(
            f"table clicks has engine {engines.get(SHARDED)}: without CLICKLEDGER_CLICKHOUSE_CLUSTER rows are stored exactly "
            "once into MergeTree only; replicated tables need the position of all replicas before each insert"
        )


def refuse_window(definition: str, inserts_per_second: float) -> None:
    """Raise OperatorError unless tokens are remembered for at least an hour of the insert budget."""
    seconds = _WINDOW_S.search(definition)
    if seconds and int(seconds[1]) < HOUR_S:
        raise OperatorError(
            f"table clicks_local remembers tokens for {seconds[1]} s: ALTER TABLE clicks_local MODIFY SETTING "
            f"replicated_deduplication_window_seconds = {WINDOW_S}"
        )
    match = _WINDOW.search(definition)
    window = int(match[1]) if match else 0
    needed = round(inserts_per_second * HOUR_S)
    if window < needed:
        raise OperatorError(
            f"table clicks remembers the tokens of {window} inserts, but CLICKLEDGER_SINK_INSERTS_PER_SECOND "
            f"({inserts_per_second:g}) makes {needed} in an hour: ALTER TABLE {LOCAL if seconds else SHARDED} MODIFY SETTING "
            f"{'' if seconds else 'non_'}replicated_deduplication_window = {max(needed, 100_000)}, or lower the budget"
        )


async def _check_times(clickhouse: ClickHouse, settings: Mapping[str, Any]) -> None:
    """Insert a row as the sink does and read its times back."""
    times = [field.name for field in ENRICHED_FIELDS if "DateTime64" in field.clickhouse_type]
    probe_id = str(uuid.uuid4())
    record = {"transaction_id": probe_id, "tenant": "sink start"} | dict.fromkeys(times, _PROBE_MS)
    row = Row(0, 0, _PROBE_MS, b"", orjson.dumps(record), is_suspect=False, is_broken=False)
    body = Body(Rows.of([row]), _PROBE_MS, {})
    await clickhouse.insert_bytes("clicks_readback", body, {**settings, "insert_deduplicate": 0})
    names = [*times, "block_at"]
    columns = ", ".join(f"toUnixTimestamp64Milli(assumeNotNull({name}))" for name in names)
    found = await clickhouse.query(_READBACK.format(columns=columns), {"id": probe_id})
    refuse_times(names, found)


def refuse_times(names: list[str], found: list[tuple[Any, ...]]) -> None:
    """Raise OperatorError unless every time came back as it went in."""
    if len(found) != 1:
        raise OperatorError(
            f"a row inserted into clicks_readback was found {len(found)} times: the server loses inserts"
        )
    for name, value in zip(names, found[0], strict=True):
        if value != _PROBE_MS:
            raise OperatorError(
                f"this ClickHouse server reads our times wrongly: {_PROBE_MS} ms in column {name} came back as {value}; "
                "use a server version that this release was tried with"
            )


async def check_topics(kafka: KafkaSettings, raw_partitions: int) -> int:
    """Check both topics' configurations; the number of partitions of the enriched topic. Raises as Kafka does."""
    async with Admin(kafka) as admin:
        topics = await admin.topics()
        for topic in (kafka.topic_raw, kafka.topic_enriched):
            if topic not in topics:
                raise OperatorError(
                    f"topic {topic} does not exist, or this user may not see it: run `clickledger setup`"
                )
            refuse_config(
                topic, await admin.config(topic), compacted=False, replication_factor=kafka.replication_factor
            )
    partitions = topics[kafka.topic_enriched]
    if partitions < raw_partitions:
        raise OperatorError(
            f"topic {kafka.topic_enriched} has {partitions} partitions, the stream has {raw_partitions}: "
            "run `clickledger setup`"
        )
    return partitions
