"""`clickledger setup` on a real broker and a real ClickHouse."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest

from clickledger.setup import SetupSettings, set_up
from clickledger.topics import record_topic_config
from enricher.refill import pending_requests
from shared.catalog import Catalog, CatalogFollower, Kind, followed
from shared.errors import OperatorError, TransientError
from shared.kafka import Admin, Producer, TopicSpec
from shared.settings import CatalogSettings, ClickHouseSettings, KafkaSettings
from sink.ddl import migrations
from tests.support.processes import WAIT_S
from tests.support.stack import Names, execute

LOOKED_AT = [
    f"11 tables and 6 views: as set-up's {len(migrations())} files leave them",
    "4 topics: partitions and configuration looked at",
]
CATALOG = CatalogSettings(catalog_map_bytes=64 << 20)


@pytest.fixture
def kafka(kafka_bootstrap: str, names: Names) -> KafkaSettings:
    """Topics of the test's own, two partitions."""
    return KafkaSettings(
        kafka_bootstrap=kafka_bootstrap,
        topic_raw=names.raw,
        topic_enriched=names.enriched,
        topic_catalog=names.catalog,
        topic_webhooks=names.webhooks,
        partitions=2,
    )


@pytest.fixture
def settings(kafka: KafkaSettings, database_url: str) -> SetupSettings:
    """Everything that setup is told."""
    return SetupSettings(kafka, ClickHouseSettings(clickhouse_url=database_url), CATALOG)


async def run(settings: SetupSettings, *, is_whole: bool = True, **changes: Any) -> list[str]:
    """Run setup, with other Kafka settings where given; what it said. `is_whole`: what it is to say of the tables."""
    said: list[str] = []
    kafka = settings.kafka.model_copy(update=changes)
    assert await set_up(SetupSettings(kafka, settings.clickhouse, settings.catalog), said.append) == is_whole
    return said


async def stream_of(kafka: KafkaSettings) -> dict[str, Any]:
    """The stream record that the catalog topic holds."""
    with tempfile.TemporaryDirectory() as scratch:
        follower = CatalogFollower(CATALOG, kafka, Path(scratch), (Kind.STREAM,))
        async with followed(Catalog(CATALOG, Path(scratch)), follower) as catalog:
            await catalog.wait_until_current(WAIT_S)
            record: dict[str, Any] | None = catalog.stream(kafka.topic_raw)
    assert record is not None
    return record


async def publish(kafka: KafkaSettings, topic: str) -> None:
    """One record in partition 0."""
    producer = Producer(kafka, "test")
    await producer.start()
    await producer.send(topic, 0, key=b"k", value=b"v", timestamp_ms=1)
    await producer.close()


async def test_a_second_run_finds_everything_in_place(settings: SetupSettings) -> None:
    """The first run makes topics, stream and tables; the second changes nothing and says what it looked at."""
    assert await run(settings)
    first = await stream_of(settings.kafka)
    assert await run(settings) == LOOKED_AT
    assert await stream_of(settings.kafka) == first
    async with Admin(settings.kafka) as admin:
        config = (await admin.config(settings.kafka.topic_raw)).effective
    assert config["cleanup.policy"] == "delete"
    assert config["retention.ms"] == str(7 * 24 * 3_600_000)
    assert config["unclean.leader.election.enable"] == "false"


async def test_topics_that_differ_from_the_settings_are_told(settings: SetupSettings) -> None:
    """Partitions, retention, clean-up by size: what no click is lost by at once is said, with the way to change it."""
    kafka = settings.kafka
    await run(settings)
    async with Admin(kafka) as admin:
        config = record_topic_config(kafka)
        await admin.alter_config(kafka.topic_raw, {**config, "retention.ms": "3600000", "retention.bytes": "1000000"})
    topic = f"topic {kafka.topic_raw} has"
    hours = " (or set CLICKLEDGER_RETENTION_HOURS)"
    change = f"kafka-configs.sh --alter --topic {kafka.topic_raw} --add-config"
    assert await run(settings, partitions=1) == [
        LOOKED_AT[0],
        f"topic {kafka.topic_enriched} has 2 partitions, CLICKLEDGER_PARTITIONS is 1: they are never taken away",
        f"{topic} 2 partitions, CLICKLEDGER_PARTITIONS is 1: they are never taken away",
        f"{topic} retention.ms=3600000, by the settings it would be 604800000: {change} retention.ms=604800000{hours}",
        f"{topic} retention.bytes=1000000, by the settings it would be -1: {change} retention.bytes=-1",
        LOOKED_AT[1],
    ]


async def test_tables_that_were_changed_by_hand_are_told(
    settings: SetupSettings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its cure, and nothing else is done; mended by them, set-up goes on. A TTL of the operator's is only said."""
    monkeypatch.setattr("clickledger.setup._OTHER_SETUP_SECONDS", 0.5)
    await run(settings)
    execute(database_url, "DROP VIEW edr")
    execute(database_url, "ALTER TABLE clicks DROP COLUMN city")
    execute(database_url, "ALTER TABLE audits MODIFY TTL toDateTime(audited_at) + INTERVAL 30 DAY")
    said = await run(settings, is_whole=False)
    assert [line.partition(":")[0] for line in said] == [
        "view edr is missing",
        "table audits has TTL toDateTime(audited_at) + toIntervalDay(30), set-up's files say toDateTime(audited_at) + toIntervalDay(400)",
        "table clicks lacks column city LowCardinality(String)",
        "what is missing as a whole, and a view that somebody changed",
    ]
    execute(database_url, said[2].partition(" comes by ")[2])
    execute(database_url, "DROP TABLE schema_versions SYNC")
    again = [line for line in await run(settings) if not line.startswith("table: applied")]
    assert again == [said[1], f"{LOOKED_AT[0]}, but for what is told above", LOOKED_AT[1]]
    execute(database_url, "CREATE OR REPLACE VIEW edr AS SELECT transaction_id FROM clicks")
    assert (await run(settings))[:2] == [said[1], "view edr has another query, or this server prints it in another way"]


async def test_partitions_grow_and_the_stream_stays(settings: SetupSettings) -> None:
    """More partitions on a stream with records: the same id, the partitions at creation kept."""
    await run(settings)
    await publish(settings.kafka, settings.kafka.topic_raw)
    before = await stream_of(settings.kafka)
    said = await run(settings, partitions=3)
    grown = await stream_of(settings.kafka)
    assert [line for line in said if "grown" in line] == [
        f"topic {settings.kafka.topic_enriched}: grown from 2 to 3 partitions",
        f"topic {settings.kafka.topic_raw}: grown from 2 to 3 partitions",
    ]
    assert grown == {**before, "partitions": 3, "start_offsets": [0, 0, 0]}


async def test_records_of_an_unknown_stream_are_refused(settings: SetupSettings) -> None:
    """A raw topic with records and no stream record: a human must decide."""
    async with Admin(settings.kafka) as admin:
        await admin.create(TopicSpec(settings.kafka.topic_raw, 2, 1))
    await publish(settings.kafka, settings.kafka.topic_raw)
    with pytest.raises(OperatorError, match="no stream for it"):
        await run(settings)


async def test_a_compacted_topic_is_refused(settings: SetupSettings) -> None:
    """Compaction would remove clicks."""
    async with Admin(settings.kafka) as admin:
        await admin.create(TopicSpec(settings.kafka.topic_enriched, 2, 1, {"cleanup.policy": "compact"}))
    with pytest.raises(OperatorError, match="is compacted"):
        await run(settings)


async def test_a_topic_that_a_client_called_into_being_is_refused(settings: SetupSettings) -> None:
    """Brokers with auto.create.topics.enable make it with defaults, as soon as a client asks for it."""
    async with Admin(settings.kafka) as admin:
        await admin.create(TopicSpec(settings.kafka.topic_raw, 1, 1))
    with pytest.raises(OperatorError, match="a client called it into being"):
        await run(settings)


async def test_two_set_ups_at_once_make_one_stream(settings: SetupSettings) -> None:
    """Two ids for one topic would count its records twice. A busy broker may tell one to run again."""
    said = await asyncio.gather(*(run(settings) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(lines, TransientError) for lines in said if not isinstance(lines, list)), said
    finished = [lines for lines in said if isinstance(lines, list)] or [await run(settings)]
    assert len([line for lines in finished for line in lines if line.startswith("stream ")]) <= 1
    stream = await stream_of(settings.kafka)
    assert await run(settings) == LOOKED_AT
    assert await stream_of(settings.kafka) == stream


async def test_a_set_up_that_was_cut_off_is_completed(settings: SetupSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The topics are there, the stream has no name yet, and nobody is about to give it one."""
    monkeypatch.setattr("clickledger.setup._OTHER_SETUP_SECONDS", 0.5)
    config = record_topic_config(settings.kafka)
    async with Admin(settings.kafka) as admin:
        for topic in (settings.kafka.topic_enriched, settings.kafka.topic_raw):
            await admin.create(TopicSpec(topic, 2, 1, config))
    assert [line for line in await run(settings) if line.startswith("stream ")]


async def test_a_topic_made_anew_is_a_new_stream(settings: SetupSettings, database_url: str) -> None:
    """Rows of the old stream are stored and the raw topic is new and empty: another id, so that offsets never meet."""
    await run(settings)
    before = await stream_of(settings.kafka)
    execute(database_url, f"INSERT INTO clicks (stream, raw_partition, raw_offset) VALUES ('{before['stream']}', 0, 0)")
    assert await run(settings)
    assert (await stream_of(settings.kafka))["stream"] != before["stream"]


async def test_an_enriched_topic_made_anew_rewinds_the_enricher_to_the_table(
    settings: SetupSettings, database_url: str
) -> None:
    """Each partition's enricher is asked to go back to the first raw offset that is no row, or to the stream's start."""
    await run(settings)
    stream = (await stream_of(settings.kafka))["stream"]
    await publish(settings.kafka, settings.kafka.topic_raw)
    execute(database_url, f"INSERT INTO clicks (stream, raw_partition, raw_offset) VALUES ('{stream}', 0, 6)")
    async with Admin(settings.kafka) as admin:
        await admin.delete(settings.kafka.topic_enriched)
        while settings.kafka.topic_enriched in await admin.topics():
            await asyncio.sleep(0.1)
    assert any("goes back" in line for line in await run(settings))
    with tempfile.TemporaryDirectory() as scratch:
        follower = CatalogFollower(CATALOG, settings.kafka, Path(scratch), (Kind.CONTROL,))
        async with followed(Catalog(CATALOG, Path(scratch)), follower) as catalog:
            await catalog.wait_until_current(WAIT_S)
            asked = pending_requests(catalog, stream)
    assert {partition: [r.raw_offset for r in requests] for partition, requests in asked.items()} == {0: [7], 1: [0]}
    assert not any("goes back" in line for line in await run(settings))
