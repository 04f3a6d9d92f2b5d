"""One producer for all partitions, replaced when it can no longer be trusted.

An idempotent producer cannot go on for ever: its sequence for a partition breaks (every later batch is refused), or a batch
is not acknowledged within the request time-out and nobody knows which sequence number comes next. Either way
`Producer.is_broken` says so. Such a producer is closed with a bound and another is built. Its late batches do no harm: each starts at an offset below which everything had been
acknowledged (`worker.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from enricher import metrics
from enricher.metrics import ProducerEnd
from shared.kafka import Producer

log = logging.getLogger(__name__)

CLOSE_SECONDS_MAX = 1.0


class Producing:
    """Hands out the present producer and replaces a broken one."""

    def __init__(self, build: Callable[[], Producer]) -> None:
        self._build = build
        self._producer: Producer | None = None
        self._lock = asyncio.Lock()

    async def get(self) -> Producer:
        """A connected producer. Raises TransientError, OperatorError."""
        async with self._lock:
            if self._producer is not None and (reason := self._producer.is_broken):
                await self._close(self._producer, reason)
            if self._producer is None:
                producer = self._build()
                await producer.start()
                self._producer = producer
            return self._producer

    async def give_up(self, producer: Producer, why: str) -> None:
        """Close a producer whose batch has an unknown outcome, unless another partition already did."""
        async with self._lock:
            if self._producer is producer:
                await self._close(producer, producer.is_broken or why)

    async def close(self, deadline_s: float) -> None:
        """Close for good."""
        async with self._lock:
            if self._producer is not None:
                await self._producer.close(deadline_s)
                self._producer = None

    async def _close(self, producer: Producer, why: str) -> None:
        self._producer = None
        reason = ProducerEnd.NO_ACKNOWLEDGEMENT if producer.has_missed_deadline else ProducerEnd.BROKEN
        metrics.producers.labels(reason).inc()
        log.warning("the producer is replaced (%s): %s", reason, why)
        await producer.close(CLOSE_SECONDS_MAX)
