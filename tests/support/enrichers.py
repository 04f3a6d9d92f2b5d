"""Enricher processes on a real broker, and what the tests ask of the topics."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from clickledger.stack.guard import Guard
from shared.catalog import CatalogWriter, Entry, Kind
from shared.events import raw_offset_of
from shared.ids import uuid7_with_partition
from shared.kafka import Admin, Producer, Reader, TopicSpec
from shared.settings import KafkaSettings
from shared.topic_rules import in_sync_min
from tests.support.enriching import raw_value
from tests.support.health import metric
from tests.support.processes import WAIT_S, Child
from tests.support.promise import promised

SESSION_MS = 3_000
CALM = {"CLICKLEDGER_KAFKA_SESSION_TIMEOUT_MS": "60000"}
"""For tests that count copies: a busy machine must not end a session, which would make some."""


class EnricherStack:
    """Topics, a catalog with a stream and a tenant, and any number of enricher processes."""

    def __init__(
        self, bootstrap: str, names: Any, folder: Path, guard: Guard, partitions: int, replicas: int = 1
    ) -> None:
        self.kafka = KafkaSettings(
            kafka_bootstrap=bootstrap,
            topic_raw=names.raw,
            topic_enriched=names.enriched,
            topic_catalog=names.catalog,
            kafka_session_timeout_ms=SESSION_MS,
            kafka_heartbeat_ms=SESSION_MS // 4,
        )
        self.stream = uuid.uuid4().hex
        self.partitions, self.replicas = partitions, replicas
        self.version = -1
        self._names = names
        self._folder = folder
        self._guard = guard
        self._children: list[Child] = []
        self.producer = Producer(self.kafka, "test")

    async def open(self) -> None:
        """Make the topics and the catalog."""
        async with Admin(self.kafka) as admin:
            config = {"max.message.bytes": str(8 << 20), "min.insync.replicas": str(in_sync_min(self.replicas))}
            for topic in (self.kafka.topic_raw, self.kafka.topic_enriched):
                await admin.create(TopicSpec(topic, self.partitions, self.replicas, config))
            await admin.create(self.catalog_spec)
        await self.producer.start()
        await self.fill_catalog()

    @property
    def catalog_spec(self) -> TopicSpec:
        """The catalog's topic."""
        return TopicSpec(self.kafka.topic_catalog, 1, self.replicas, {"cleanup.policy": "compact"})

    async def fill_catalog(self) -> None:
        """Write the stream, a tenant and a promotion."""
        tenant = {"v": 1, "tenant": "acme", "retention_days": 90, "privacy": "store"}
        promotion = {"v": 1, "tenant": "acme", "promotion_id": "spring", "campaign_id": "c1", "deployment_id": "d1"}
        self.version = await self.writer.put_many(
            [
                Entry(Kind.STREAM, self.kafka.topic_raw, self.stream_record),
                Entry(Kind.TENANT, "acme", tenant),
                Entry(Kind.PROMOTION, "acme/spring", promotion),
            ]
        )

    @property
    def stream_record(self) -> dict[str, Any]:
        """The catalog's record of the stream."""
        return {
            "v": 1,
            "stream": self.stream,
            "topic": self.kafka.topic_raw,
            "partitions": self.partitions,
            "partitions_at_creation": self.partitions,
            "start_offsets": [0] * self.partitions,
            "created_at": 0,
        }

    async def close(self) -> None:
        """End the processes and the producer."""
        for child in self._children:
            if child.alive:
                child.kill()
        await self.producer.close()

    @property
    def writer(self) -> CatalogWriter:
        """Writes to the catalog."""
        return CatalogWriter(self.kafka, self.producer)

    def start(self, number: int = 0, **settings: str) -> Child:
        """Start an enricher process; `number` is its machine."""
        folder = self._folder / f"machine-{number}"
        folder.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            **self._names.env(),
            "CLICKLEDGER_KAFKA_BOOTSTRAP": self.kafka.kafka_bootstrap,
            "CLICKLEDGER_KAFKA_SESSION_TIMEOUT_MS": str(SESSION_MS),
            "CLICKLEDGER_KAFKA_HEARTBEAT_MS": str(SESSION_MS // 4),
            "CLICKLEDGER_DATA": str(folder),
            "CLICKLEDGER_NODE": f"machine-{number}",
            "CLICKLEDGER_CATALOG_MAP_BYTES": str(64 << 20),
            **settings,
        }
        code = "import sys; from enricher.service import main; sys.exit(main())"
        child = Child(self._guard, [sys.executable, "-c", code], folder / "enricher.log", environment)
        self._children.append(child)
        return child

    def metric(self, child: Child, name: str) -> float:
        """The sum of all metrics of an enricher whose text begins so; 0 before it says where it listens."""
        return metric(child.log.parent, "enricher", child.pid, name)

    async def send(self, partition: int, values: Sequence[bytes | None], key: bytes | None = None) -> int:
        """Append raw records to a partition; the offset of the first. Each valid click has an id of its own."""
        batch = self.producer.new_batch()
        for value in values:
            own = key if value is None or key is not None else _key_of(value)
            batch.append(timestamp=now_ms(), key=own, value=value, headers=[])
        return await self.producer.send_batch(self.kafka.topic_raw, partition, batch)

    def clicks(self, partition: int, count: int) -> list[bytes]:
        """New valid raw records."""
        ids = (uuid7_with_partition(now_ms(), partition, os.urandom(8)) for _ in range(count))
        return [
            raw_value(transaction_id=i, received_at_ms=now_ms(), catalog_version=self.version, suspect=False)
            for i in ids
        ]

    async def enriched(self, topic: str | None = None) -> dict[int, list[Any]]:
        """Every record of the enriched topic, by partition."""
        return await self._read(topic or self.kafka.topic_enriched)

    async def raw(self) -> dict[int, list[Any]]:
        """Every record of the raw topic, by partition."""
        return await self._read(self.kafka.topic_raw)

    async def _read(self, topic: str) -> dict[int, list[Any]]:
        reader = Reader(self.kafka, topic, client_id="test")
        await reader.start()
        try:
            partitions = range(self.partitions)
            begins, ends = await reader.begin_offsets(partitions), await reader.end_offsets(partitions)
            reader.assign(begins)
            found: dict[int, list[Any]] = {p: [] for p in partitions}
            while [p for p in partitions if await reader.position(p) < ends[p]]:
                for partition, records in (await reader.getmany(200)).items():
                    found[partition].extend(records)
        finally:
            await reader.close()
        return found

    async def end_offsets(self) -> dict[int, int]:
        """The raw topic's end offsets."""
        reader = Reader(self.kafka, self.kafka.topic_raw, client_id="test")
        await reader.start()
        try:
            return await reader.end_offsets(range(self.partitions))
        finally:
            await reader.close()

    async def wait_enriched(self, ends: Mapping[int, int] | None = None) -> dict[int, list[Any]]:
        """Wait until every raw record below `ends` (default: the present ends) has an enriched one; all records."""
        wanted = ends or await self.end_offsets()
        found: dict[int, list[Any]] = {}

        async def is_done() -> bool:
            nonlocal found
            found = await self.enriched()
            return all(max((offset_of(r) for r in found[p]), default=-1) >= end - 1 for p, end in wanted.items())

        await eventually(is_done, self._children)
        return found


async def eventually(condition: Callable[[], Awaitable[bool]], children: Sequence[Child] = ()) -> None:
    """Wait until a condition holds; fails with the processes' last words after a generous bound."""
    if not await comes_true(condition, WAIT_S):
        raise AssertionError("not within the bound\n" + "\n".join(child.tail() for child in children))


async def comes_true(condition: Callable[[], Awaitable[bool]], seconds_max: float) -> bool:
    """Wait until a condition holds; False when it does not within the bound."""
    deadline = time.monotonic() + seconds_max
    while not await condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.2)
    return True


def offset_of(record: Any) -> int:
    """The raw offset that an enriched record names in its header."""
    offset = raw_offset_of(record.headers)
    assert offset is not None
    return offset


def first_copies(records: Sequence[Any], expected: int = 0) -> list[Any]:
    """The records in the order in which the sink takes them; fails where a record stands before a lower offset."""
    taken = []
    for record in records:
        promised(offset_of(record) <= expected, f"hole: {offset_of(record)} stands where {expected} was expected")
        if offset_of(record) == expected:
            taken.append(record)
            expected += 1
    return taken


def pause(child: Child) -> None:
    """Stop a process in its tracks, as a long pause of the machine does."""
    os.kill(child.pid, signal.SIGSTOP)


def resume(child: Child) -> None:
    """Wake a paused process."""
    os.kill(child.pid, signal.SIGCONT)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _key_of(value: bytes) -> bytes:
    try:
        key: str = orjson.loads(value)["transaction_id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return str(uuid.uuid4()).encode()
    return key.encode()
