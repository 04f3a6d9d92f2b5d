"""One producer for all partitions, replaced when it can no longer be trusted.

After a time-out the outcome of a batch is unknown, and a sequence that broke never heals: such a producer is closed
with a bound and another is built. A late batch of the old one does no harm: it starts at an offset below which
everything had been acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from enricher import metrics
from shared.errors import TransientError
from shared.kafka import Producer

CLOSE_SECONDS_MAX = 2.0


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
                await self._close(reason)
            if self._producer is None:
                producer = self._build()
                await producer.start()
                self._producer = producer
            return self._producer

    async def give_up(self, producer: Producer) -> None:
        """Close a producer whose batch has an unknown outcome, unless another partition already did."""
        async with self._lock:
            if self._producer is producer:
                await self._close("unknown outcome")

    async def close(self, deadline_s: float) -> None:
        """Close for good."""
        async with self._lock:
            if self._producer is not None:
                await self._producer.close(deadline_s)
                self._producer = None

    async def _close(self, reason: str) -> None:
        producer, self._producer = self._producer, None
        metrics.producers.inc()
        if producer is None:
            raise TransientError(f"no producer to close: {reason}")
        await producer.close(CLOSE_SECONDS_MAX)
