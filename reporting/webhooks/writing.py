"""Writes to the compacted topics: the catalog's webhooks, and where they stand. One producer, replaced when it is broken."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from shared.catalog import CatalogWriter, Entry
from shared.errors import ClickledgerError, OutcomeUnknown
from shared.kafka import Producer
from shared.settings import KafkaSettings


class Writing:
    """Writes records that may be written twice: each says all of what it is about."""

    def __init__(self, kafka: KafkaSettings, client_id: str) -> None:
        self._kafka, self._client_id = kafka, client_id
        self._producer: Producer | None = None
        self._one = asyncio.Lock()

    async def put(self, topic: str, entries: Sequence[Entry]) -> int:
        """Write in order; the version of the last one. Raises TransientError (OutcomeUnknown too), OperatorError."""
        async with self._one:
            producer = await self._connected()
            try:
                return await CatalogWriter(self._kafka, producer, topic).put_many(entries)
            except ClickledgerError as exc:
                if isinstance(exc, OutcomeUnknown) or producer.is_broken:
                    await self.close(1)
                raise

    async def _connected(self) -> Producer:
        if self._producer is not None and self._producer.is_broken:
            await self.close(1)
        if self._producer is None:
            producer = Producer(self._kafka, self._client_id)
            await producer.start()
            self._producer = producer
        return self._producer

    async def close(self, deadline_s: float = 3) -> None:
        """Disconnect within a bound."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.close(deadline_s)
