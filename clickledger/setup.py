"""Makes or checks what the services need: topics, the stream record, the table. Idempotent.

The order matters: `clicks.enriched` grows before `clicks.raw`, and the stream record, from which the API learns its
partitions, is written last. A run that was cut off is completed by the next one.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clickledger import topics
from clickledger.directory import read_catalog
from shared import positions
from shared.catalog import CatalogWriter, Kind
from shared.clickhouse import ClickHouse
from shared.errors import OperatorError, TransientError
from shared.kafka import Admin, Producer, Reader, TopicSpec
from shared.settings import CatalogSettings, ClickHouseSettings, KafkaSettings

_OTHER_SETUP_SECONDS = 5.0  # from making a topic to the acknowledged record: two requests; from a file to the next
_LOOK_AGAIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class SetupSettings:
    """Everything that `setup` is told."""

    kafka: KafkaSettings
    clickhouse: ClickHouseSettings
    catalog: CatalogSettings
    catalog_copy: Path | None = None
    """folder of a copy that is kept; without it all of the catalog is read"""


async def set_up(settings: SetupSettings, say: Callable[[str], None]) -> bool:
    """Bring Kafka, the catalog and ClickHouse into the state that the services start from; tell what changed.

    False when tables or views are not as they were left: it told which, and how they are mended, and did nothing else.

    Raises OperatorError where a human must decide, TransientError where something does not answer: run it again.
    """
    kafka = settings.kafka
    async with ClickHouse(settings.clickhouse) as clickhouse, Admin(kafka) as admin:
        await _apply_table(clickhouse, say)
        if not await _tables_are_whole(clickhouse, say):
            return False
        for compacted in (kafka.topic_catalog, kafka.topic_webhooks):
            await _make_compacted_topic(admin, kafka, compacted, say)
        record = await _stream_record(settings)
        plan = topics.plan_stream(
            kafka,
            await _topic_state(admin, kafka, kafka.topic_raw),
            await _topic_state(admin, kafka, kafka.topic_enriched),
            record,
            rows_stored=record is not None and await _has_rows(clickhouse, record["stream"]),
            new_id=uuid.uuid4().hex,
            now_ms=time.time_ns() // 1_000_000,
        )
        config = topics.record_topic_config(kafka)
        if await _make_or_grow(admin, kafka, kafka.topic_enriched, plan.enriched_partitions, config, say) and record:
            await _enrich_again(kafka, clickhouse, record, say)
        made = await _make_or_grow(admin, kafka, kafka.topic_raw, plan.raw_partitions, config, say)
        say("4 topics: partitions and configuration looked at")
        if plan.record is None or (not made and await _is_named_by_another(settings, record, plan.record)):
            return True
        async with _catalog_writer(kafka) as writer:
            await writer.put(Kind.STREAM, kafka.topic_raw, plan.record)
        say(f"stream {plan.record['stream']}: {plan.record['partitions']} partitions of {kafka.topic_raw}")
        return True


async def _apply_table(clickhouse: ClickHouse, say: Callable[[str], None]) -> None:
    from sink.ddl import apply_ddl

    for applied in await apply_ddl(clickhouse, clickhouse.database):
        say(f"table: applied {applied}")


async def _tables_are_whole(clickhouse: ClickHouse, say: Callable[[str], None]) -> bool:
    """Whether tables and views are as the files left them; tell what was looked at, or what differs and its cure.

    A set-up that runs at the same time makes views in the order of their files, so an old one may stand for a moment.
    """
    from sink import schema

    deadline = time.monotonic() + _OTHER_SETUP_SECONDS
    while True:
        checked = await schema.check(clickhouse)
        wrong = [each for each in checked.differences if schema.is_certain(each)]
        if not wrong or time.monotonic() > deadline:
            break
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)
    for difference in checked.differences:
        say(schema.told(difference, clickhouse.cluster, clickhouse.database))
    if checked.unread:
        say(f"indices and projections were not looked at: {checked.unread}")
    if not wrong:
        rest = ", but for what is told above" if checked.differences else ""
        say(
            f"{checked.tables} tables and {checked.views} views: as set-up's {checked.migrations} files leave them{rest}"
        )
    if any(map(schema.needs_repetition, checked.differences)):
        where = f" ON CLUSTER '{clickhouse.cluster}'" if clickhouse.cluster else ""
        say(
            "what is missing as a whole, and a view that somebody changed: as the owner DROP TABLE schema_versions"
            f"{where} SYNC, then `clickledger setup` makes them again, tables empty (docs/runbook.md, sink: operator)"
        )
    return not wrong


async def _has_rows(clickhouse: ClickHouse, stream: str) -> bool:
    """Whether the stream has rows, or had: seals tell of those that expired."""
    rows = await clickhouse.query(
        "SELECT 1 FROM clicks WHERE stream = {stream:String} LIMIT 1 "
        "UNION ALL SELECT 1 FROM seals WHERE stream = {stream:String} LIMIT 1",
        {"stream": stream},
    )
    return bool(rows)


async def _make_compacted_topic(admin: Admin, kafka: KafkaSettings, name: str, say: Callable[[str], None]) -> None:
    config = topics.catalog_topic_config(kafka)
    if name == kafka.topic_webhooks:
        config |= topics.WEBHOOKS_TOPIC_CONFIG
    if await admin.create(TopicSpec(name, 1, kafka.replication_factor, config)):
        say(f"topic {name}: made")
        return
    found = await admin.config(name)
    topics.refuse_config(name, found, compacted=True, replication_factor=kafka.replication_factor)
    partitions = (await admin.topics())[name]
    if partitions != 1:
        raise OperatorError(f"topic {name} has {partitions} partitions: it must have one")
    for difference in topics.differences(name, found, config):
        say(difference)


async def _make_or_grow(
    admin: Admin,
    kafka: KafkaSettings,
    name: str,
    partitions: int,
    config: dict[str, str],
    say: Callable[[str], None],
) -> bool:
    """Make the topic (True), or see that an existing one is sound and large enough."""
    if await admin.create(TopicSpec(name, partitions, kafka.replication_factor, config)):
        say(f"topic {name}: made with {partitions} partitions")
        return True
    found = await admin.config(name)
    topics.refuse_config(name, found, compacted=False, replication_factor=kafka.replication_factor)
    before = (await admin.topics()).get(name)
    if before is None:
        raise TransientError(f"topic {name} exists and is not known yet: run setup again")
    if before < partitions:
        await admin.grow(name, partitions)
        say(f"topic {name}: grown from {before} to {partitions} partitions")
    elif before > kafka.partitions:
        say(
            f"topic {name} has {before} partitions, CLICKLEDGER_PARTITIONS is {kafka.partitions}: they are never taken away"
        )
    for difference in topics.differences(name, found, config):
        say(difference)
    return False


async def _enrich_again(
    kafka: KafkaSettings, clickhouse: ClickHouse, record: Mapping[str, Any], say: Callable[[str], None]
) -> None:
    """Have the enricher go back to where the table ends: what stood in the former topic and is no row yet is gone."""
    from enricher.refill import ask

    stream, starts = record["stream"], record["start_offsets"]
    raw_offsets = {}
    for partition, start in enumerate(starts):
        highest = await positions.highest(clickhouse, stream, partition)
        raw_offsets[partition] = start if highest is None else highest + 1
    async with _catalog_writer(kafka) as writer:
        await ask(writer, stream, raw_offsets)
    say(f"topic {kafka.topic_enriched} was made anew: the enricher goes back to the first raw offsets that are no rows")


async def _is_named_by_another(
    settings: SetupSettings, before: Mapping[str, Any] | None, planned: Mapping[str, Any]
) -> bool:
    """Whether a set-up that runs at the same time names the new stream; one stream with two ids would count twice.

    Only one of them made the topic, and it writes the record at once. So the others wait a moment for that; where none
    comes, the maker was cut off, and the record is ours to write.
    """
    if before is not None and before["stream"] == planned["stream"]:
        return False  # grown: whoever writes it, it is the same
    deadline = time.monotonic() + _OTHER_SETUP_SECONDS
    while time.monotonic() < deadline:
        if await _stream_record(settings) != before:
            return True
    return False


async def _topic_state(admin: Admin, kafka: KafkaSettings, name: str) -> topics.TopicState:
    partitions = (await admin.topics()).get(name, 0)
    if not partitions:
        return topics.TopicState(name, 0, has_records=False)
    reader = Reader(kafka, name, client_id="clickledger-setup")
    try:
        await reader.start()
        ends = await reader.end_offsets(range(partitions))
    finally:
        await reader.close()
    return topics.TopicState(name, partitions, has_records=any(ends.values()))


async def _stream_record(settings: SetupSettings) -> dict[str, Any] | None:
    """Read the raw topic's stream record from a copy that is level with the catalog topic now: an older one could lack it."""
    async with read_catalog(settings.kafka, settings.catalog, (Kind.STREAM,), settings.catalog_copy) as catalog:
        return catalog.stream(settings.kafka.topic_raw)


@asynccontextmanager
async def _catalog_writer(kafka: KafkaSettings) -> AsyncIterator[CatalogWriter]:
    producer = Producer(kafka, "clickledger-setup")
    await producer.start()
    try:
        yield CatalogWriter(kafka, producer)
    finally:
        await producer.close()
