"""Where clicks become durable: Kafka through a supervised producer, and the spool while Kafka does not take them.

Theory of operation. A batch that is not acknowledged in time has an unknown outcome, and an idempotent producer cannot go
on after that: nobody knows its next sequence number. So the first such batch retires the producer: nothing new goes
through it, every wait for it ends, it is closed with a bound and only then another one is built. What it held goes to
the spool and is answered from there; it may be in Kafka as well, which is why everything from the spool is published as
suspect, and only while a producer is connected: then every earlier one is closed.

A new producer is not trusted with live clicks while the spool has clicks to prove it with: a broker that accepts
connections but no records would cost every round of clicks the whole time-out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from ingest_api.publish import Told
from ingest_api.share import Share, count_clicks
from ingest_api.spool import Spool, SpoolReason
from shared.errors import ClickledgerError, DataError, OperatorError, OutcomeUnknown, TransientError
from shared.kafka import Batch, Producer

log = logging.getLogger(__name__)

CHECK_EVERY_S: Final = 0.25
CLOSE_S_MAX: Final = 2.0
"""How long a retired producer may still deliver what it holds; its clicks are safe elsewhere."""
RETRY_S_MIN: Final = 0.2
RETRY_S_MAX: Final = 1.0
"""Clicks are refused or spooled meanwhile: a try each second costs little."""
SUSPECT_HEADERS: Final = [("suspect", b"1")]
NO_HEADERS: Final[list[tuple[str, bytes]]] = []


class KafkaDestination:
    """Appends clicks to a topic; `run` keeps a producer alive until it is cancelled."""

    def __init__(self, make_producer: Callable[[], Producer], topic: str, *, ack_timeout_ms: int) -> None:
        self._make_producer = make_producer
        self._topic = topic
        self._ack_timeout_ms = ack_timeout_ms
        self._producer: Producer | None = None
        self._retired = asyncio.Event()
        self._why_not = "not connected to Kafka yet"
        self.is_proved = True
        """Whether a batch was acknowledged since the last producer was given up."""
        self.rebuilt = 0
        """Producers replaced; a counter for metrics."""
        self.clicks = 0
        """Clicks acknowledged; a counter for metrics."""

    def why_not_ready(self) -> str:
        """Why nothing is taken now; empty when connected."""
        return self._why_not

    def producer(self) -> Producer:
        """The producer that is connected now, for other topics. Raises TransientError while there is none."""
        if self._producer is None:
            raise TransientError(self._why_not)
        return self._producer

    async def append(self, partition: int, shares: Sequence[Share]) -> None:
        """Append all clicks as one batch; returns when every in-sync replica has it. Raises what `Destination` tells."""
        await asyncio.shield(self.send(partition, shares))  # who waits may be cancelled, what was written not

    def send(self, partition: int, shares: Sequence[Share]) -> asyncio.Future[int]:
        """Begin to; the outcome is the future's, or raised when there is nothing to wait for."""
        producer = self.producer()
        batch = producer.new_batch()
        for _, timestamp_ms, suspect, keys, values, _ in shares:
            headers = SUSPECT_HEADERS if suspect else NO_HEADERS
            if not batch.extend(timestamp=timestamp_ms, keys=keys, values=values, headers=headers):
                raise DataError(f"{count_clicks(shares)} clicks do not fit one batch of {self._topic}/{partition}")
        try:
            sent = producer.begin_batch(self._topic, partition, batch, timeout_ms=self._ack_timeout_ms)
        except TransientError as exc:
            self._not_sent(producer, exc)
            raise
        sent.add_done_callback(partial(self._sent, producer, batch))
        return sent

    def _sent(self, producer: Producer, batch: Batch, sent: asyncio.Future[int]) -> None:
        """Note the outcome of a batch, before anybody who waits for it hears of it."""
        error = _error_of(sent)
        if isinstance(error, TransientError):
            self._not_sent(producer, error)
        elif error is None:
            self.is_proved = True
            self.clicks += batch.record_count()

    def _not_sent(self, producer: Producer, error: TransientError) -> None:
        if isinstance(error, OutcomeUnknown) or producer.is_broken:
            self._retire(producer, str(error))

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
        """Offer this producer until it is broken, then close it: the next one is built when it is dead."""
        self._retired.clear()
        self._producer, self._why_not = producer, ""
        try:
            while not (why := producer.is_broken):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._retired.wait(), CHECK_EVERY_S)
            self._retire(producer, why)
            self.rebuilt += 1
        finally:
            self._producer = None
            self._why_not = self._why_not or "stopping"
            await producer.close(CLOSE_S_MAX)

    def _retire(self, producer: Producer, why: str) -> None:
        """Give a producer up, at once and for good."""
        if producer is not self._producer:
            return  # a late answer to an earlier one
        log.error("the producer is replaced: %s", why)
        self._producer, self.is_proved = None, False
        self._why_not = f"the producer is being replaced: {why}"
        self._retired.set()
        producer.retire(why)


class KafkaOrSpool:
    """Kafka first; what Kafka does not acknowledge, for whatever reason but the data's own, goes to the spool."""

    def __init__(self, kafka: KafkaDestination, spool: Spool | None) -> None:
        """`spool` None: switched off; then the caller hears what Kafka said."""
        self._kafka = kafka
        self._spool = spool
        self._spooling: set[asyncio.Task[None]] = set()

    def why_not_ready(self) -> str:
        """Why a click can be made durable neither here nor there; empty when it can."""
        why_not = self._kafka.why_not_ready()
        if not why_not or self._spool is None:
            return why_not
        why_not_spooled = self._spool.why_not_ready()
        return f"{why_not}; {why_not_spooled}" if why_not_spooled else ""

    def append(self, partition: int, shares: Sequence[Share], told: Told) -> None:
        """See `Destination`. The way into Kafka needs no task; one is made for what goes to the spool."""
        spool = self._spool
        reason = None if spool is None else self._why_spool_at_once(spool)
        if spool is not None and reason is not None:
            self._spool_soon(spool, partition, shares, told, reason)
            return
        try:
            sent = self._kafka.send(partition, shares)
        except ClickledgerError as exc:
            asyncio.get_running_loop().call_soon(self._settle, partition, shares, told, exc)
        else:
            sent.add_done_callback(lambda sent: self._settle(partition, shares, told, _error_of(sent)))

    def _settle(self, partition: int, shares: Sequence[Share], told: Told, error: Exception | None) -> None:
        """Tell what Kafka said; what it has not, or may not have, goes to the spool, unless it is itself at fault."""
        spool = self._spool
        if spool is None or not isinstance(error, TransientError | OperatorError):
            told(error)
        elif isinstance(error, OutcomeUnknown):
            self._spool_soon(spool, partition, shares, told, SpoolReason.OUTCOME_UNKNOWN, error)
        else:
            log.warning("%d clicks go to the spool: %s", count_clicks(shares), error)
            self._spool_soon(spool, partition, shares, told, SpoolReason.NOT_SENT)

    def _spool_soon(
        self,
        spool: Spool,
        partition: int,
        shares: Sequence[Share],
        told: Told,
        reason: SpoolReason,
        cause: OutcomeUnknown | None = None,
    ) -> None:
        """Begin to spool clicks; `cause`: Kafka may have them as well."""
        spooling = asyncio.get_running_loop().create_task(spool.append(partition, shares, reason))
        self._spooling.add(spooling)
        spooling.add_done_callback(partial(self._spooled, told, cause))

    def _spooled(self, told: Told, cause: OutcomeUnknown | None, spooling: asyncio.Task[None]) -> None:
        self._spooling.remove(spooling)
        error = _error_of(spooling)
        if cause is not None and isinstance(error, TransientError):
            error = OutcomeUnknown(f"{cause}; {error}")
        told(error)

    def _why_spool_at_once(self, spool: Spool) -> SpoolReason | None:
        if self._kafka.why_not_ready():
            return SpoolReason.NOT_CONNECTED
        if not self._kafka.is_proved and spool.folder.clicks:
            return SpoolReason.NOT_PROVED
        return None


def _error_of(outcome: asyncio.Future[Any]) -> Exception | None:
    """Why it failed; what was cancelled may have happened all the same."""
    error = OutcomeUnknown("cancelled") if outcome.cancelled() else outcome.exception()
    return error if error is None or isinstance(error, Exception) else OutcomeUnknown(repr(error))
