"""The idempotent producer: acks=all, explicit partitions, one batch outstanding per partition.

The library connects and knows the cluster; batches travel on links of our own, because its producer costs several times
what a batch does (docs/adr/0032). The wait for an acknowledgement is bounded here, and after it the outcome is *unknown*
unless nothing was ever written. A producer whose sequence broke does not recover: `is_broken` says so, the owner closes
it with a bound and builds another. `retire` ends all waits at once, for an owner that gave it up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from shared.errors import DataError, TransientError
from shared.kafka.batch import Batch, RecordBatch, check_codec
from shared.kafka.client import mapped
from shared.kafka.deliveries import Deliveries
from shared.kafka.leaders import Leaders
from shared.settings import KafkaSettings


class Producer:
    """Appends batches durably to explicit partitions. Build and use it on one event loop."""

    def __init__(self, settings: KafkaSettings, client_id: str) -> None:
        self._client_id = client_id
        self._settings = settings
        self._timeout_s = settings.kafka_request_timeout_ms / 1000
        self._deliveries = Deliveries()
        self._leaders: Leaders | None = None

    @property
    def is_broken(self) -> str:
        """Why this producer will never deliver again, empty while it may."""
        return self._deliveries.broken

    @property
    def has_missed_deadline(self) -> bool:
        """Whether it is broken because a batch was not acknowledged in time."""
        return self._deliveries.has_missed_deadline

    async def start(self) -> None:
        """Connect. Raises TransientError while no broker answers within the request time-out, OperatorError."""
        check_codec(self._settings.kafka_compression)
        leaders = Leaders(self._settings, self._client_id, self._deliveries)
        try:
            with mapped("connecting the producer"):
                identity = await asyncio.wait_for(leaders.start(), self._timeout_s)
        except BaseException:  # a cancellation, too, must not leave connections open
            await leaders.close()
            raise
        self._leaders = leaders
        self._deliveries.begin(leaders, identity)

    def new_batch(self) -> Batch:
        """An empty batch of at most `kafka_batch_bytes_max` bytes (a first record of any size fits); it is sent once."""
        return RecordBatch(self._settings.kafka_batch_bytes_max, self._settings.kafka_compression)

    async def send_batch(self, topic: str, partition: int, batch: Batch, *, timeout_ms: int | None = None) -> int:
        """Append a batch; the offset of its first record once every in-sync replica has it.

        Batches of one partition are sent one at a time, in the order of the calls. Raises OutcomeUnknown when no
        acknowledgement came within `timeout_ms` (default: the request time-out), TransientError when it was certainly
        not appended, DataError when a record is too large, OperatorError. The offset is -1 in the one case that the
        broker has the batch and has forgotten where: an earlier attempt, many batches ago, was appended.
        """
        return await self.begin_batch(topic, partition, batch, timeout_ms=timeout_ms)

    def begin_batch(
        self, topic: str, partition: int, batch: Batch, *, timeout_ms: int | None = None
    ) -> asyncio.Future[int]:
        """`send_batch` for a caller that goes on meanwhile: the future has its outcome; raises when nothing was begun."""
        if self._leaders is None:
            raise TransientError("the producer is not connected")
        timeout_s = timeout_ms / 1000 if timeout_ms else self._timeout_s
        return self._deliveries.send(topic, partition, cast("RecordBatch", batch), timeout_s)

    def retire(self, why: str) -> None:
        """Take nothing any more and end every wait now: what was sent has an unknown outcome. `close` is still due."""
        self._deliveries.retire(why)

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

    async def close(self, deadline_s: float = 5) -> bool:
        """Flush and close within `deadline_s`; False when records may be left unacknowledged."""
        leaders, self._leaders = self._leaders, None
        if leaders is None:
            return True
        is_complete = await self._deliveries.drain(deadline_s)
        await leaders.close()
        return is_complete
