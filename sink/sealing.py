"""Seals what a member's partitions have stored: beside the loop that stores, one range at a time.

Nothing here can change what is stored. A range is read, checked, and written down when each of its raw offsets is one
row or lies in an accepted gap; one that is not is an alarm and stays unsealed. Two owners at once, or one that was
stopped and wakes up, compute the same range (shared/seals.py) and carry the same token, so ClickHouse takes one seal.
Former streams are sealed too, by whoever owns the partition of the same number now: their last rows must not expire
unsealed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from prometheus_client import Counter, Gauge

from shared.alarms import Alarms
from shared.clickhouse import ClickHouse
from shared.erasures import FRESH_S, INSERT_S, SETTLE_S, Announcement, announce, unfinished
from shared.errors import DataError, OperatorError, TransientError
from shared.positions import accepted_gaps
from shared.seals import (
    COLUMNS_VERSION,
    Reading,
    Seal,
    due_range,
    first_blocks,
    gaps_inside,
    last_sealed,
    partitions_stored,
    read_range,
    refusal,
    write_seal,
)
from sink.ports import Clock
from sink.watch import SERVICE, Alarm

log = logging.getLogger(__name__)

seals_written = Counter("clickledger_sink_seals", "Ranges sealed")
sealed_offset = Gauge("clickledger_sink_sealed_offset", "Last sealed raw offset", ["partition"])
unsealed_seconds = Gauge(
    "clickledger_sink_unsealed_seconds", "Since the insert of the oldest row that is not sealed", ["partition"]
)
seal_failures = Counter("clickledger_sink_seal_failures", "Ranges that could not be sealed, by reason", ["reason"])

FIRST_ROUND_S: Final = 60.0
"""The first round comes within this time of joining the group, so that members that restart often seal too."""
QUERY_SETTINGS: Final = {"max_threads": 1, "priority": 10}
"""Reading for seals takes one thread and gives way to other queries."""


class Failure(StrEnum):
    """Why a range that was due was not sealed."""

    UNVERIFIED = "unverified"
    ERASURE = "erasure"
    LATE = "late"
    SWALLOWED = "swallowed"
    ERROR = "error"


for _failure in Failure:
    seal_failures.labels(_failure)


@dataclass(frozen=True, slots=True)
class SealLimits:
    """When ranges are sealed; the same for all members of a group."""

    every_ms: int
    """Length of the slots, and how often is looked."""
    age_ms: int
    """Age of a row when it is sealed."""
    rows_max: int
    """Rows of one seal, if they are more than one block."""


@dataclass(slots=True)
class _Swallowed:
    """A seal that was acknowledged and is not there: its token is remembered without its row."""

    attempt: int
    at_s: float


@dataclass(slots=True)
class Sealer:
    """Seals for one member until it is cancelled. `owned`: the partitions that are the member's now."""

    clickhouse: ClickHouse
    stream: str
    start: Callable[[int], int]
    owned: Callable[[], Collection[int]]
    partitions: int
    """of the topic at the start; shares out the partitions of former streams"""
    limits: SealLimits
    clock: Clock
    who: str
    _alarms: dict[tuple[str, int], Alarms[Alarm]] = field(default_factory=dict)
    """By (stream, partition)."""
    _swallowed: dict[tuple[str, int, int], _Swallowed] = field(default_factory=dict)
    _shown: set[int] = field(default_factory=set)

    async def run(self) -> None:
        """Look for ranges that are due, for ever."""
        pause_s = min(FIRST_ROUND_S, self.limits.every_ms / 1000)
        try:
            while True:
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
                pause_s = self.limits.every_ms / 1000
                try:
                    await self.round()
                except (TransientError, OperatorError, DataError) as exc:
                    log.warning("sealing: looking for former streams: %s", exc)
        finally:
            self.owned = tuple
            self._forget_what_is_not_owned()

    async def round(self) -> None:
        """Seal everything that is due now. Raises as ClickHouse does."""
        self._forget_what_is_not_owned()
        stored = [(stream, partition) for stream, partition in await partitions_stored(self.clickhouse)]
        former = [place for place in stored if place[0] != self.stream and self._owns(*place)]
        for stream, partition in [(self.stream, partition) for partition in sorted(self.owned())] + former:
            try:
                while self._owns(stream, partition) and await self._seal_next(stream, partition):
                    pass
            except (TransientError, OperatorError, DataError) as exc:
                seal_failures.labels(Failure.ERROR).inc()
                log.warning("stream %s, partition %d: sealing: %s", stream, partition, exc)

    async def _seal_next(self, stream: str, partition: int) -> bool:
        """Seal the next range of a partition; False when none is due or it cannot be sealed now."""
        sealed = await last_sealed(self.clickhouse, stream, partition)
        after = self._start(stream, partition) - 1 if sealed is None else sealed
        limits = self.limits
        now_ms, blocks = await first_blocks(self.clickhouse, stream, partition, after, limits.rows_max, QUERY_SETTINGS)
        if stream == self.stream:
            self._show(partition, after, (now_ms - blocks[0].inserted_at_ms) / 1000 if blocks else 0.0)
        last = due_range(
            blocks, now_ms=now_ms, every_ms=limits.every_ms, age_ms=limits.age_ms, rows_max=limits.rows_max
        )
        if last is None:
            return False
        if await self._is_erasing():
            return False
        began_s = self.clock.now_s()
        announcement = Announcement(str(uuid.uuid4()), stream, partition, after + 1, self.who)
        await announce(self.clickhouse, announcement)
        seal = None if await self._is_erasing() else await self._measure(stream, partition, after + 1, last)
        if seal is None:
            await announce(self.clickhouse, announcement, is_over=True)
            return False
        return await self._write(seal, began_s)

    async def _is_erasing(self) -> bool:
        """Whether an erasure is under way. Asked again after announcing: before, to leave it alone, after, to be right."""
        erasures = await unfinished(self.clickhouse)
        if erasures:
            seal_failures.labels(Failure.ERASURE).inc()
            log.warning("sealing waits for erasure %s; if it was cut off: clickledger erase --finish", erasures[0])
        return bool(erasures)

    async def _measure(self, stream: str, partition: int, first: int, last: int) -> Seal | None:
        """Read a range; None, and an alarm, when it does not verify."""
        gaps = gaps_inside(
            (
                (gap.first, gap.last)
                for gap in await accepted_gaps(self.clickhouse, stream)
                if gap.partition == partition
            ),
            first,
            last,
        )
        reading: Reading = await read_range(
            self.clickhouse, (stream, partition, first, last), gaps, COLUMNS_VERSION, QUERY_SETTINGS
        )
        why = refusal(reading, first, last, gaps)
        if why:
            seal_failures.labels(Failure.UNVERIFIED).inc()
            detail = f"raw offsets {first} to {last}: {why}: see `clickledger audit`"
            self._alarms_of(stream, partition).raise_alarm(Alarm.SEAL, detail)
            return None
        self._alarms_of(stream, partition).clear_alarm(Alarm.SEAL)
        return Seal(
            *(stream, partition, first, last, 1, reading.rows, gaps, COLUMNS_VERSION),
            *(reading.digest, reading.kept_digest, reading.expires_first_s),
            sealed_by=self.who,
        )

    async def _write(self, seal: Seal, began_s: float) -> bool:
        """Insert a seal unless too long after its announcement; whether it is there."""
        if self.clock.now_s() - began_s > FRESH_S or not self._owns(seal.stream, seal.partition):
            seal_failures.labels(Failure.LATE).inc()
            return False
        key = seal.stream, seal.partition, seal.first
        swallowed = self._swallowed.get(key)
        token = seal.token
        if swallowed is not None:
            if self.clock.now_s() - swallowed.at_s < SETTLE_S:
                return False
            token += f"#{swallowed.attempt}"
        await write_seal(self.clickhouse, seal, token, INSERT_S)
        sealed = await last_sealed(self.clickhouse, seal.stream, seal.partition)
        if sealed is None or sealed < seal.last:
            attempt = swallowed.attempt + 1 if swallowed else 1
            self._swallowed[key] = _Swallowed(attempt, self.clock.now_s())
            seal_failures.labels(Failure.SWALLOWED).inc()
            return False
        self._swallowed.pop(key, None)
        seals_written.inc()
        if seal.stream == self.stream:
            sealed_offset.labels(seal.partition).set(seal.last)
        return True

    def _start(self, stream: str, partition: int) -> int:
        return self.start(partition) if stream == self.stream else 0

    def _owns(self, stream: str, partition: int) -> bool:
        return (partition if stream == self.stream else partition % self.partitions) in self.owned()

    def _show(self, partition: int, sealed: int, age_s: float) -> None:
        self._shown.add(partition)
        sealed_offset.labels(partition).set(sealed)
        unsealed_seconds.labels(partition).set(max(0.0, age_s))

    def _forget_what_is_not_owned(self) -> None:
        """What another member seals now is not shown here."""
        for partition in self._shown - set(self.owned()):
            self._shown.discard(partition)
            sealed_offset.remove(partition)
            unsealed_seconds.remove(partition)
        for place in [each for each in self._alarms if not self._owns(*each)]:
            self._alarms.pop(place).drop()

    def _alarms_of(self, stream: str, partition: int) -> Alarms[Alarm]:
        name = f"sealing of stream {stream}, partition {partition},"
        return self._alarms.setdefault((stream, partition), Alarms(SERVICE, name, log))
