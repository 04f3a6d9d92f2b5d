"""Reads a topic from explicit positions, without a group."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.kafka.admin import Admin
from shared.kafka.client import (
    FETCH_WAIT_MS,
    Record,
    bounded,
    connection,
    fetched_records,
    gather,
    mapped,
    refuse_broken,
    start_consumer,
)
from shared.settings import KafkaSettings

PARTITION_BYTES_MAX: Final = 1 << 20
"""Fetched ahead of one partition where nothing else is asked for; the library's own default."""


class Reader:
    """Reads a topic from explicit positions, without a group: catalog, audit, streams."""

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        *,
        client_id: str,
        partition_bytes_max: int = PARTITION_BYTES_MAX,
        gather_ms: int = 0,
    ) -> None:
        """`partition_bytes_max`: what is fetched ahead of one partition; a larger record comes all the same.

        `gather_ms`: as for `Consumer`.
        """
        self._gather_ms = gather_ms
        self._settings = settings
        self.topic = topic
        self._consumer = AIOKafkaConsumer(
            **connection(settings),
            client_id=client_id,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=FETCH_WAIT_MS,
            max_partition_fetch_bytes=partition_bytes_max,
            isolation_level="read_uncommitted",
            check_crcs=False,  # `fetched` does
        )

    async def start(self) -> None:
        """Connect. Raises TransientError, OperatorError."""
        await start_consumer(self._consumer, f"connecting to read {self.topic}", self._settings)

    async def close(self, deadline_s: float = 5) -> None:
        """Disconnect within `deadline_s`."""
        await bounded(self._consumer.stop(), deadline_s)

    def raise_if_broken(self) -> None:
        """Raise ClientBroken when this reader must be built anew; `getmany` does it by itself."""
        refuse_broken(self._consumer, f"reading {self.topic}")

    async def partitions(self, topic: str = "") -> list[int]:
        """The partitions of the topic, or of another one. Raises TransientError while it is unknown."""
        topic = topic or self.topic
        with mapped(f"partitions of {topic}"):
            client = self._consumer._client
            return sorted(
                await asyncio.wait_for(client._wait_on_metadata(topic), self._settings.kafka_request_timeout_ms / 1000)
            )

    async def begin_offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """The earliest kept offset of each partition."""
        with mapped(f"begin offsets of {self.topic}"):
            found = await self._consumer.beginning_offsets([TopicPartition(self.topic, p) for p in partitions])
        return {tp.partition: offset for tp, offset in found.items()}

    async def end_offsets(self, partitions: Iterable[int], topic: str = "") -> dict[int, int]:
        """The offset after the last record of each partition, of the topic or of another one."""
        topic = topic or self.topic
        with mapped(f"end offsets of {topic}"):
            found = await self._consumer.end_offsets([TopicPartition(topic, p) for p in partitions])
        return {tp.partition: offset for tp, offset in found.items()}

    async def offsets_at(self, time_ms: int, partitions: Iterable[int]) -> dict[int, int | None]:
        """The first offset whose record timestamp is at least `time_ms`; None where there is none."""
        with mapped(f"offsets of {self.topic} at {time_ms}"):
            found = await self._consumer.offsets_for_times({TopicPartition(self.topic, p): time_ms for p in partitions})
        return {tp.partition: at.offset if at else None for tp, at in found.items()}

    async def committed(self, group_id: str, topic: str, partitions: list[int]) -> dict[int, int]:
        """Where a group stands; only partitions in which it committed something."""
        async with Admin(self._settings) as admin:
            found = await admin.committed(group_id, topic, partitions)
        return {partition: committed.next_offset for partition, committed in found.items() if committed is not None}

    def assign(self, positions: Mapping[int, int]) -> None:
        """Read these partitions from these offsets on."""
        self._consumer.assign([TopicPartition(self.topic, p) for p in positions])
        for partition, offset in positions.items():
            self._consumer.seek(TopicPartition(self.topic, partition), offset)

    def rest(self) -> None:
        """Fetch nothing before the next `assign`.

        A broker answers a connection's requests one after the other: behind a fetch that waits for records which
        nobody asked for, the next question waits, too.
        """
        self._consumer.pause(*self._consumer.assignment())

    async def position(self, partition: int) -> int:
        """The next offset to be returned."""
        position: int = await self._consumer.position(TopicPartition(self.topic, partition))
        return position

    async def getmany(self, timeout_ms: int) -> dict[int, list[Record]]:
        """As `Consumer.getmany`, for the assigned partitions."""
        fetched = await fetched_records(self._consumer, (), timeout_ms, f"reading {self.topic}")
        if self._gather_ms:
            gather(self._consumer, sum(map(len, fetched.values())), self._gather_ms)
        return fetched
