"""The idempotent producer: acks=all, explicit partitions, one batch outstanding per partition.

The library wakes waiters for a partition unfairly (some starve), so batches queue here, per partition, in order. An
idempotent batch never expires inside the library: the wait for its acknowledgement is bounded here, and after it the
outcome is *unknown*. A producer whose sequence broke or whose sender died does not recover: `is_broken` says so, the
owner closes it with a bound and builds another. `retire` ends all waits at once, for an owner that gave it up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Final, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors

from shared.errors import DataError, OutcomeUnknown, TransientError
from shared.kafka.client import bounded, connection, map_error, mapped
from shared.settings import KafkaSettings

GROWN_ASKS_MAX: Final = 10
"""How often the brokers are asked about a partition that they do not know yet: a topic that has just grown."""
GROWN_ASK_S: Final = 0.1


class Batch(Protocol):
    """Records of one partition under construction; made by `Producer.new_batch`."""

    def append(
        self, *, timestamp: int, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ...
    ) -> object | None:
        """Add a record (`timestamp` in ms); None when the batch is full."""

    def record_count(self) -> int:
        """Records in the batch."""

    def size(self) -> int:
        """Bytes of the batch."""


class Producer:
    """Appends batches durably to explicit partitions. Build and use it on one event loop."""

    def __init__(self, settings: KafkaSettings, client_id: str) -> None:
        self._settings = settings
        self._client_id = client_id
        self._producer: AIOKafkaProducer | None = None
        self._locks: dict[tuple[str, int], asyncio.Lock] = {}
        self._waits: set[asyncio.Timeout] = set()
        self._broken: str = ""

    @property
    def is_broken(self) -> str:
        """Why this producer will never deliver again, empty while it may."""
        if self._broken:
            return self._broken
        sender = self._producer._sender.sender_task if self._producer is not None else None
        if sender is not None and sender.done():
            return "the sender task ended"
        return ""

    async def start(self) -> None:
        """Connect. Raises TransientError while no broker answers within the request time-out, OperatorError."""
        settings = self._settings
        producer = AIOKafkaProducer(
            **connection(settings),
            client_id=self._client_id,
            acks="all",
            enable_idempotence=True,
            compression_type=None if settings.kafka_compression == "none" else settings.kafka_compression,
            max_batch_size=settings.kafka_batch_bytes_max,
            max_request_size=settings.kafka_batch_bytes_max + 65_536,
            linger_ms=0,
        )
        try:
            with mapped("connecting the producer"):
                await asyncio.wait_for(producer.start(), settings.kafka_request_timeout_ms / 1000)
        except BaseException:  # a cancellation, too, must not leave connections open
            await _close(producer, 1)
            raise
        self._producer = producer

    def new_batch(self) -> Batch:
        """An empty batch of at most `kafka_batch_bytes_max` bytes (a first record of any size fits)."""
        batch: Batch = self._open.create_batch()
        return batch

    async def send_batch(self, topic: str, partition: int, batch: Batch, *, timeout_ms: int | None = None) -> int:
        """Append a batch; the offset of its first record once every in-sync replica has it.

        Batches of one partition are sent one at a time, in the order of the calls. Raises OutcomeUnknown when no
        acknowledgement came within `timeout_ms` (default: the request time-out), TransientError when it was certainly
        not sent, DataError when a record is too large, OperatorError.
        """
        lock = self._locks.setdefault((topic, partition), asyncio.Lock())
        timeout_s = (timeout_ms or self._settings.kafka_request_timeout_ms) / 1000
        what = f"producing {batch.record_count()} records to {topic}/{partition}"
        acquired = False
        try:
            async with asyncio.timeout(timeout_s) as wait:
                self._waits.add(wait)
                try:
                    async with lock:
                        acquired = True
                        return await self._append(topic, partition, batch, what)
                finally:
                    self._waits.discard(wait)
        except TimeoutError as exc:
            if not acquired:
                late = f"earlier batches filled the queue for {timeout_s:.1f} s"
                raise TransientError(f"{what}: {self._broken or late}") from exc
            raise OutcomeUnknown(f"{what}: {self._broken or f'no acknowledgement within {timeout_s:.1f} s'}") from exc

    def retire(self, why: str) -> None:
        """Take nothing any more and end every wait now: what was sent has an unknown outcome. `close` is still due."""
        self._broken = self._broken or why
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(asyncio.get_running_loop().time())

    async def _append(self, topic: str, partition: int, batch: Batch, what: str) -> int:
        if reason := self.is_broken:
            raise TransientError(f"{what}: {reason}")
        await self._see_partition(topic, partition)
        try:
            future = await self._open.send_batch(batch, topic, partition=partition)
            metadata = await future
        except kafka_errors.KafkaError as exc:
            if isinstance(exc, (kafka_errors.OutOfOrderSequenceNumber, kafka_errors.UnknownProducerId)):
                self._broken = f"sequence of {topic}/{partition} broken: {type(exc).__name__}"
            if why := self.is_broken:  # a sender that ended fails what it had sent, too
                raise OutcomeUnknown(f"{what}: {why}") from exc
            raise map_error(exc, what, writing=True) from exc
        except (AssertionError, ValueError) as exc:
            raise DataError(f"{what}: {exc}") from exc
        offset: int = metadata.offset
        return offset

    async def _see_partition(self, topic: str, partition: int) -> None:
        """See to it that the client knows the partition; it looks for new ones only now and then. Raises TransientError."""
        known: Collection[int] = ()
        with mapped(f"partitions of {topic}"):
            for _ in range(GROWN_ASKS_MAX):
                known = await self._open.partitions_for(topic)
                if partition in known:
                    return
                await self._open.client.force_metadata_update()
                await asyncio.sleep(GROWN_ASK_S)
        raise TransientError(f"{topic} has {len(known)} partitions, none with number {partition}")

    async def send(
        self,
        topic: str,
        partition: int,
        *,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> int:
        """Append one record; its offset. Errors as `send_batch`."""
        batch = self.new_batch()
        if batch.append(timestamp=timestamp_ms, key=key, value=value, headers=list(headers)) is None:
            raise DataError(f"record for {topic}/{partition} does not fit a batch")
        return await self.send_batch(topic, partition, batch)

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises TransientError, OperatorError."""
        with mapped(f"partitions of {topic}"):
            return len(await self._open.partitions_for(topic))

    async def close(self, deadline_s: float = 5) -> bool:
        """Flush and close within `deadline_s`; False when records may be left unacknowledged."""
        producer, self._producer = self._producer, None
        return True if producer is None else await _close(producer, deadline_s)

    @property
    def _open(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise TransientError("the producer is not connected")
        return self._producer


async def _close(producer: AIOKafkaProducer, deadline_s: float) -> bool:
    if await bounded(producer.stop(), deadline_s):
        return True
    # `stop()` waits for the acknowledgement of everything, without bound: end the sender and the sockets by hand.
    await bounded(producer._sender.close(), 1)
    await bounded(producer.client.close(), 1)
    return False
