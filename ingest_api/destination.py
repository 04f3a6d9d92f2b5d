"""Kafka as the place where clicks become durable: a supervised producer that is replaced when it can no longer deliver.

An idempotent producer whose sequence broke, or whose sender ended, never delivers again; one whose acknowledgements
stay away again and again may not either. Both are closed with a bound and replaced; meanwhile nothing is taken.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

from ingest_api.handler import PendingClick
from shared.errors import DataError, OperatorError, OutcomeUnknown, TransientError
from shared.kafka import Producer

log = logging.getLogger(__name__)

UNKNOWN_IN_A_ROW_MAX: Final = 3
"""Batches without acknowledgement, with none in between, before the producer is replaced."""
CHECK_EVERY_S: Final = 0.25
RETRY_S_MIN: Final = 0.2
RETRY_S_MAX: Final = 1.0
"""Every click is refused meanwhile: a try each second costs little."""
SUSPECT_HEADER: Final = (("suspect", b"1"),)


class KafkaDestination:
    """Appends clicks to a topic; `run` keeps a producer alive until it is cancelled."""

    def __init__(self, make_producer: Callable[[], Producer], topic: str, *, ack_timeout_ms: int) -> None:
        self._make_producer = make_producer
        self._topic = topic
        self._ack_timeout_ms = ack_timeout_ms
        self._producer: Producer | None = None
        self._unknown_in_a_row = 0
        self._why_not = "not connected to Kafka yet"
        self.rebuilt = 0
        """Producers replaced; a counter for metrics."""

    def why_not_ready(self) -> str:
        """Why nothing is taken now; empty when connected."""
        return self._why_not

    def producer(self) -> Producer:
        """The producer that is connected now, for other topics. Raises TransientError while there is none."""
        if self._producer is None:
            raise TransientError(self._why_not)
        return self._producer

    async def append(self, partition: int, clicks: Sequence[PendingClick]) -> None:
        """Append all clicks as one batch; returns when every in-sync replica has it. Errors as `Destination`."""
        producer = self.producer()
        batch = producer.new_batch()
        for click in clicks:
            headers = SUSPECT_HEADER if click.suspect else ()
            if (
                batch.append(timestamp=click.timestamp_ms, key=click.key, value=click.value, headers=list(headers))
                is None
            ):
                raise DataError(f"{len(clicks)} clicks do not fit one batch of {self._topic}/{partition}")
        try:
            await producer.send_batch(self._topic, partition, batch, timeout_ms=self._ack_timeout_ms)
        except OutcomeUnknown:
            self._unknown_in_a_row += 1
            raise
        self._unknown_in_a_row = 0

    async def run(self) -> None:
        """Connect, watch, replace; for ever. On cancellation the producer is flushed and closed, with a bound."""
        delay_s = RETRY_S_MIN
        while True:
            producer = self._make_producer()
            try:
                await producer.start()
            except (TransientError, OperatorError) as exc:
                self._why_not = str(exc)
                log.warning("%s; again in %.1f s", exc, delay_s)
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.5))  # noqa: S311 jitter
                delay_s = min(delay_s * 2, RETRY_S_MAX)
                continue
            delay_s = RETRY_S_MIN
            await self._use(producer)

    async def _use(self, producer: Producer) -> None:
        """Offer this producer until it is broken."""
        self._producer, self._why_not, self._unknown_in_a_row = producer, "", 0
        try:
            while not (why := self._why_broken(producer)):  # noqa: ASYNC110 the client reports its death to nobody
                await asyncio.sleep(CHECK_EVERY_S)
            self.rebuilt += 1
            log.error("the producer is replaced: %s", why)
            self._why_not = f"the producer is being replaced: {why}"
        finally:
            self._producer = None
            self._why_not = self._why_not or "stopping"
            await producer.close()

    def _why_broken(self, producer: Producer) -> str:
        if self._unknown_in_a_row >= UNKNOWN_IN_A_ROW_MAX:
            return f"{self._unknown_in_a_row} batches in a row were not acknowledged"
        return producer.is_broken
