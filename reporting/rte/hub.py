"""The process's one reader of `clicks.enriched`: fills the ring, notices when Kafka is silent or the stream is another.

It begins some events before the end, so that clients which come back after a restart find their position in the ring.
When Kafka does not answer, the ring stands and its clients stay; the reader goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Any, Final, Protocol, Self

from reporting import metrics
from reporting.rte.ring import Ring
from reporting.rte.sse import Closed
from shared.clickhouse import ClickHouse
from shared.enriched import Enriched, PositionLost, Stream
from shared.errors import ClickledgerError, DataError, OffsetLost, OperatorError, StreamReplaced, TransientError
from shared.positions import accepted_gaps
from shared.settings import KafkaSettings, ReportingSettings

log = logging.getLogger(__name__)

READ_MS: Final = 200
"""How long one read waits for clicks."""
PUBLISH_S: Final = 0.1
"""Seconds between two wake-ups of all clients: 500 of them, ten times a second, are a third of a core."""
PROBE_S: Final = 2.0
"""Seconds between two questions that only a living Kafka answers."""
GROW_S: Final = 10.0
"""Seconds between two looks for added partitions; the client library hears of them every 30 s."""
GAPS_S: Final = 2.0
"""Seconds between two looks for accepted gaps while a partition stands at one."""
RETRY_S: Final = (0.5, 5.0)
"""First and longest pause after a failure; doubles in between, jittered."""
HISTORY_EVENT_BYTES: Final = 4_000
"""What an event takes in the ring, about: how many are read at the start."""


class Streams(Protocol):
    """The part of `shared.catalog.Catalog` that is needed."""

    def stream(self, topic: str) -> dict[str, Any] | None:
        """The record of the stream that a raw topic carries."""


class Hub:
    """Entered for the life of the process. `ring` is what clients read; a new one follows when the old one has ended."""

    def __init__(
        self, kafka: KafkaSettings, settings: ReportingSettings, catalog: Streams, clickhouse: ClickHouse
    ) -> None:
        self.kafka = kafka
        self.settings = settings
        self.clickhouse = clickhouse
        self.ring: Ring | None = None
        self.is_away = True
        """Kafka does not answer."""
        self._catalog = catalog
        self._enriched: Enriched | None = None
        self._counted = (0, 0)
        self._stopping = False
        self._running: asyncio.Task[None] | None = None
        self._next_probe_s = self._next_growth_s = self._next_gaps_s = 0.0

    async def _run(self) -> None:
        """Read until cancelled. Errors of the environment are tried again."""
        pause_s = RETRY_S[0]
        try:
            while True:
                try:
                    await self._begin()
                    pause_s = RETRY_S[0]
                    await self._read_on()
                except StreamReplaced as exc:
                    await self._end(Closed.STREAM_REPLACED, exc)
                except (PositionLost, OffsetLost) as exc:
                    await self._end(Closed.LOST, exc)
                except ClickledgerError as exc:
                    self._heard(exc)
                    await self._disconnect()
                await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311  # jitter
                pause_s = min(2 * pause_s, RETRY_S[1])
        finally:
            await self._disconnect()

    async def __aenter__(self) -> Self:
        """Begin to read."""
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End it; raises what ended it before, which is a bug."""
        assert self._running is not None
        self._running.cancel()
        await asyncio.wait([self._running])
        if not self._running.cancelled():
            self._running.result()

    @property
    def has_ended(self) -> bool:
        """A bug has ended the reading."""
        return self._running is not None and self._running.done()

    def stop(self) -> None:
        """Let every stream end."""
        self._stopping = True
        if self.ring is not None:
            self.ring.end(Closed.STOPPING)

    @property
    def has_gap(self) -> bool:
        """A partition's next click is missing in clicks.enriched."""
        return self._enriched is not None and bool(self._enriched.gaps)

    def stream(self) -> Stream:
        """The stream that the raw topic carries. Raises TransientError while that is unknown."""
        record = self._catalog.stream(self.kafka.topic_raw)
        if record is None:
            raise TransientError(f"the catalog has no stream for {self.kafka.topic_raw} yet")
        return Stream(record["stream"], tuple(record["start_offsets"]))

    def reader(self, what: str) -> Enriched:
        """A new reader of the present stream, not yet connected. Raises TransientError."""
        bytes_max = self.settings.reporting_rte_catchup_bytes_max
        return Enriched(self.kafka, self.stream(), f"clickledger-{what}", bytes_max, round(1000 * PUBLISH_S))

    async def pass_accepted_gaps(self, enriched: Enriched) -> dict[int, int]:
        """Let a reader go on behind gaps that somebody accepted; gives the partitions and where they go on."""
        passed = {}
        try:
            accepted = await accepted_gaps(self.clickhouse, enriched.stream.id)
        except (TransientError, OperatorError, DataError) as exc:
            log.warning("looking for accepted gaps: %s", exc)
            return {}
        for partition, gap in enriched.gaps.items():
            covered = (each for each in accepted if each.partition == partition)
            if any(each.first <= gap.first and gap.last <= each.last for each in covered):
                enriched.pass_gap(partition, gap.last + 1)
                passed[partition] = gap.last + 1
        return passed

    # One reading

    async def _begin(self) -> None:
        if self._enriched is not None:  # the same reading, after a failure
            await self._enriched.open()
            return
        enriched = self.reader("rte")
        try:
            await enriched.open()
            history = self.settings.reporting_rte_ring_bytes_max // HISTORY_EVENT_BYTES
            ends = await enriched.begin_latest(history)
            ring = Ring(enriched.position, self.settings.reporting_rte_ring_bytes_max)
            while enriched.lag(ends):
                ring.add(await enriched.read(READ_MS), len(enriched.position.offsets))
        except BaseException:  # whatever it was, a cancellation too: nobody else closes it
            await enriched.close()
            raise
        self._enriched, self._counted = enriched, (0, 0)
        self.ring = ring
        if self._stopping:
            ring.end(Closed.STOPPING)

    async def _read_on(self) -> None:
        enriched, ring = self._enriched, self.ring
        assert enriched is not None
        assert ring is not None
        self._next_probe_s = 0
        while True:
            began_s = time.monotonic()
            if self.stream().id != enriched.stream.id:
                raise StreamReplaced(f"{self.kafka.topic_raw} carries another stream than {enriched.stream.id}")
            await self._look_around(enriched, ring, began_s)
            taken = await enriched.read(READ_MS)
            for part in ring.portions(taken):
                ring.add(part, len(enriched.position.offsets))
                self._heard(None)
                await asyncio.sleep(max(0, began_s + PUBLISH_S - time.monotonic()))
                began_s = time.monotonic()
            self._count(enriched)

    async def _look_around(self, enriched: Enriched, ring: Ring, now_s: float) -> None:
        """What need not be done each time."""
        if now_s >= self._next_probe_s:
            self._next_probe_s = now_s + PROBE_S
            try:
                metrics.rte_lag.set(enriched.lag(await enriched.ends()))
                self._heard(None)
            except TransientError as exc:  # the reader itself hears nothing of it and may go on any moment
                self._heard(exc)
        if now_s >= self._next_growth_s:
            self._next_growth_s = now_s + GROW_S
            if await enriched.grow():
                ring.add((), len(enriched.position.offsets))
        gaps = enriched.gaps
        metrics.rte_gaps.set(len(gaps))
        if gaps and now_s >= self._next_gaps_s:
            self._next_gaps_s = now_s + GAPS_S
            for partition, raw_offset in (await self.pass_accepted_gaps(enriched)).items():
                ring.pass_gap(partition, raw_offset)

    def _heard(self, exc: ClickledgerError | None) -> None:
        """Note whether Kafka answers; log when that changes."""
        is_away = exc is not None
        if is_away and not self.is_away:
            log.warning("event streams stand: %s", exc)
        elif self.is_away and not is_away:
            log.info("event streams go on")
        self.is_away = is_away
        metrics.rte_away.set(is_away)

    async def _end(self, reason: Closed, exc: ClickledgerError) -> None:
        """End all streams of this reading; a new one begins."""
        log.error("event streams end: %s", exc)
        if self.ring is not None:
            self.ring.end(reason)
        await self._disconnect()
        self.ring, self._enriched = None, None

    async def _disconnect(self) -> None:
        if self._enriched is not None:
            await self._enriched.close()

    def _count(self, enriched: Enriched) -> None:
        copies, foreign = enriched.copies, enriched.foreign
        metrics.rte_dropped_total.labels("copy").inc(copies - self._counted[0])
        metrics.rte_dropped_total.labels("foreign").inc(foreign - self._counted[1])
        self._counted = copies, foreign
