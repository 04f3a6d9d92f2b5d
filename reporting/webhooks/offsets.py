"""Where in `clicks.enriched` a webhook or a replay begins and ends: asked of Kafka when somebody asks us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from reporting.webhooks.places import Mark
from shared.errors import TransientError
from shared.kafka import Reader
from shared.settings import KafkaSettings


class Offsets:
    """One reader, connected at the first question, one question at a time."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._reader: Reader | None = None
        self._one = asyncio.Lock()

    async def latest(self) -> dict[int, Mark]:
        """The end of every partition. Raises TransientError, OperatorError."""
        async with self._connected() as reader:
            ends = await reader.end_offsets(await reader.partitions())
        return {partition: Mark(end) for partition, end in ends.items()}

    async def since(self, time_ms: int) -> tuple[dict[int, Mark], dict[int, int]]:
        """The first record of that time or later in every partition, and the ends. Errors as `latest`."""
        async with self._connected() as reader:
            partitions = await reader.partitions()
            ends, found = await reader.end_offsets(partitions), await reader.offsets_at(time_ms, partitions)
        return {p: Mark(ends[p] if offset is None else offset) for p, offset in found.items()}, ends

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Reader]:
        async with self._one:
            try:
                async with asyncio.timeout(self._kafka.kafka_request_timeout_ms / 1_000):
                    if self._reader is None:
                        reader = Reader(self._kafka, self._kafka.topic_enriched, client_id="clickledger-webhooks")
                        await reader.start()
                        self._reader = reader
                    yield self._reader
            except TimeoutError as exc:
                await self._disconnect()
                raise TransientError("Kafka did not answer in time") from exc
            except (
                BaseException
            ):  # whatever it was, a cancellation too: an answer that is still to come is not the next one's
                await self._disconnect()
                raise

    async def _disconnect(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close(1)

    async def close(self) -> None:
        """Disconnect."""
        async with self._one:
            await self._disconnect()
