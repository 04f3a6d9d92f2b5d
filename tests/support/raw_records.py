"""Records that another producer writes into a running stack's topics: raw clicks without the API, and any bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import orjson

from shared.events import Source, encode_raw, raw_origin
from shared.ids import uuid7_with_partition
from shared.kafka import Producer
from shared.settings import KafkaSettings


class Bytes(NamedTuple):
    """A Kafka record as any producer may write it. `timestamp_ms` is never negative: Kafka refuses that."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp_ms: int | None = None
    """None: now"""


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def unlinked_click(tenant: str, short_url: str, partition: int, age_ms: int = 0) -> Bytes:
    """A well-formed raw record without a link, as a producer writes it that does not know our catalog; so long ago."""
    received_at_ms = now_ms() - age_ms
    transaction_id = uuid7_with_partition(received_at_ms, partition, os.urandom(8)).encode()
    value = encode_raw(
        transaction_id=transaction_id,
        received_at_ms=received_at_ms,
        origin=raw_origin(tenant, "", "importer", Source.API),
        suspect=False,
        clicked_at_ignored=False,
        catalog_version=0,
        link=b"{}",
        click=orjson.dumps({"short-url": short_url, "user-agent": "Mozilla/5.0"}),
    )
    return Bytes(transaction_id, value)


async def write(bootstrap: str, topic: str, records: Iterable[tuple[int, Bytes]]) -> None:
    """Append (partition, record) pairs, in order for each partition."""
    by_partition: dict[int, list[Bytes]] = {}
    for partition, record in records:
        by_partition.setdefault(partition, []).append(record)
    producer = Producer(KafkaSettings(kafka_bootstrap=bootstrap), "test-foreign")
    await producer.start()
    try:
        for partition, some in by_partition.items():
            await _append(producer, topic, partition, some)
    finally:
        await producer.close()


async def _append(producer: Producer, topic: str, partition: int, records: Iterable[Bytes]) -> None:
    batch = producer.new_batch()
    for key, value, headers, timestamp_ms in records:
        made_ms = now_ms() if timestamp_ms is None else timestamp_ms
        while batch.append(timestamp=made_ms, key=key, value=value, headers=list(headers)) is None:
            await producer.send_batch(topic, partition, batch)
            batch = producer.new_batch()
    if batch.record_count():
        await producer.send_batch(topic, partition, batch)
