"""Changes of the catalog, appended to its topic."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from shared.catalog.records import PARTITION, Entry, Kind
from shared.errors import OutcomeUnknown
from shared.kafka import Producer
from shared.settings import KafkaSettings


class CatalogWriter:
    """Writes changes to the catalog topic. Each call returns the version that holds them."""

    def __init__(self, kafka: KafkaSettings, producer: Producer, topic: str = "") -> None:
        """`topic`: another one that has the catalog's form."""
        self._topic = topic or kafka.topic_catalog
        self._producer = producer

    async def put(self, kind: Kind, record_id: str, value: Mapping[str, Any] | None) -> int:
        """Write one record, or delete it with None; its version. Raises TransientError, OutcomeUnknown, OperatorError."""
        return await self.put_many([Entry(kind, record_id, value)])

    async def put_many(self, entries: Iterable[Entry]) -> int:
        """Write records in order, in as few batches as possible; the version of the last. At least one entry."""
        now_ms = time.time_ns() // 1_000_000
        version, batch = -1, self._producer.new_batch()
        for kind, record_id, value in entries:
            record = {
                "timestamp": now_ms,
                "key": f"{kind}:{record_id}".encode(),
                "value": None if value is None else orjson.dumps(value),
                "headers": [],
            }
            if batch.append(**record) is None:  # type: ignore[arg-type]
                version = await self._send(batch)
                batch = self._producer.new_batch()
                batch.append(**record)  # type: ignore[arg-type]
        return await self._send(batch) if batch.record_count() else version

    async def _send(self, batch: Any) -> int:
        first = await self._producer.send_batch(self._topic, PARTITION, batch)
        if first < 0:
            raise OutcomeUnknown(f"{self._topic} has {batch.record_count()} records, the broker does not know where")
        return first + int(batch.record_count()) - 1
