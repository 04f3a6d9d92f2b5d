"""Blocks for one partition's owner: the member's fetch loop puts records in, the owner takes blocks out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from shared.errors import OffsetLost
from shared.kafka import Record
from sink.blocks import Block, Intake, Limits, Range, Unbuildable
from sink.plans import Plan
from sink.watch import Alarm, PartitionWatch, records_read

IDLE_MS: Final = 1_000
"""How long a stored block may wait for the next plan to be committed with its end: blocks of a steady stream follow each
other by their age. Until then the group holds the plan that was carried out, which a new owner finds in the table."""

BLOCKS_IN_A_ROW: Final = 4
"""Blocks of a partition that are read before others have their turn. What a fetch brings beyond a block would hold room, wait for the
next turn longer than a block's age, and be a small block; and an owner that waits for its next block in vain asks the table once more."""


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class PartitionFeed:
    """The intake of one assignment. `seek` and `hold` act on the consumer; `seek` also releases the partition."""

    def __init__(
        self,
        intake: Intake,
        limits: Limits,
        watch: PartitionWatch,
        *,
        begin_offset: Callable[[], Awaitable[int]],
        seek: Callable[[int], None],
    ) -> None:
        self.intake = intake
        self._begin_offset = begin_offset
        self._limits = limits
        self._watch = watch
        self._seek = seek
        self._changed = asyncio.Event()
        self.is_started = False
        self.finished = asyncio.Event()
        self._is_finishing = False
        self._is_out = False  # the owner has a block
        self._out_bytes = 0
        self._row_bytes = 0.0
        self.served_s = 0.0
        """When its turn was over: who has waited longest is read first."""
        self._cut_in_turn = 0

    async def begin_offset(self) -> int:
        """The earliest record kept in Kafka. Raises TransientError, OperatorError."""
        return await self._begin_offset()

    def put(self, records: Sequence[Record]) -> None:
        """Take fetched records; foreign ones and gaps are reported."""
        if not self.is_started:
            return
        before = self.intake.counts
        taken, dropped, foreign, awaiting = before.taken, before.dropped, before.foreign, before.awaiting
        self.intake.offer(records, _now_ms())
        if self.intake:
            self._row_bytes = self.intake.memory_bytes / len(self.intake)
        after = self.intake.counts
        for outcome, count in (
            ("taken", after.taken - taken),
            ("dropped", after.dropped - dropped),
            ("foreign", after.foreign - foreign),
            ("awaiting", after.awaiting - awaiting),
        ):
            if count:
                records_read.labels(outcome).inc(count)
        if after.taken > taken or self.intake.gap is not None:
            self._watch.clear_alarm(Alarm.LOST)
        if self.intake.foreign:
            self._watch.foreign(self.intake.take_foreign())
        self._note_gap()
        self._changed.set()

    def accept(self, gaps: Sequence[Range]) -> None:
        """Learn which gaps were accepted; read again from the one that stopped us."""
        self.intake.accepted = tuple(gaps)
        position = self.intake.reopen_gap()
        if position is not None:
            self._seek(position)
            self._note_gap()

    def jump(self, lost: OffsetLost) -> None:
        """The wanted records are no longer in Kafka: go on at the earliest; an alarm stands until it is known what is missing."""
        self._watch.lost(lost, self.intake.taken + 1)
        self.intake.jump(lost.earliest)
        self._seek(lost.earliest)
        self._changed.set()

    def finish(self) -> None:
        """Hand out no further block; `finished` is set as soon as the owner has committed the one at hand."""
        self._is_finishing = True
        if not self._is_out:
            self.finished.set()
        self._changed.set()

    @property
    def bytes(self) -> int:
        """Memory of the rows that are read and not yet stored, those of the block at hand too."""
        return self.intake.memory_bytes + self._out_bytes

    @property
    def is_full(self) -> bool:
        """Whether two blocks wait: enough to go on with. A planned block is needed whole, whatever the limits are now."""
        if self.intake.has_plan:
            return False
        return self.intake.memory_bytes >= 2 * self._limits.bytes_max or len(self.intake) >= 2 * self._limits.rows_max

    def wanted_bytes(self, lag: int) -> int:
        """Memory of what is still to be read for the block that fills, with so many records left to read."""
        rows_max = self._limits.rows_max
        rows = min(lag, rows_max - len(self.intake) % rows_max)
        return min(self._limits.bytes_max, round(rows * self._row_bytes))

    def end_turn(self) -> None:
        """Be read after those that wait: it had its blocks, or nothing is left to read."""
        self._cut_in_turn = 0
        self.served_s = time.monotonic()

    def restart(self, position: int, taken: int, plan: Plan | None = None) -> None:
        """Read again from a Kafka offset; everything up to raw offset `taken` is stored."""
        self.intake.restart(position, taken, plan)
        self._seek(position)
        self.is_started = True
        self._note_gap()

    async def next_block(self) -> Block | Unbuildable:
        """Wait until a block is due."""
        self._is_out, self._out_bytes = False, 0
        while (wait_ms := self._due_in_ms()) != 0:
            if self._is_finishing:
                self.finished.set()
            await self._changes_within(wait_ms)
        self._is_out = True
        return self._cut()

    async def following_block(self, take_turn: Callable[[], Awaitable[None]]) -> Block | None:
        """The next block, as soon as it is due; None when no record comes for `IDLE_MS`, or it is time to finish.

        One that is due for its age grows until `take_turn` returns. Were it cut before, its rows would wait for a place while
        those behind them wait for the block after it.
        """
        self._out_bytes = 0
        idle_at_ms = _now_ms() + IDLE_MS
        may_store = False
        while not self._is_finishing and not self.intake.has_plan:
            wait_ms = self._due_in_ms()
            if wait_ms is None:
                wait_ms = idle_at_ms - _now_ms()
                if wait_ms <= 0:
                    break
            elif wait_ms == 0:
                if may_store or self.intake.is_full(self._limits):
                    block = self._cut()
                    return block if isinstance(block, Block) else None
                await take_turn()
                may_store = True
                continue
            await self._changes_within(wait_ms)
        return None

    async def _changes_within(self, wait_ms: int | None) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(None if wait_ms is None else wait_ms / 1000):
                await self._changed.wait()
        except TimeoutError:
            return

    def _cut(self) -> Block | Unbuildable:
        before = self.intake.memory_bytes
        block = self.intake.cut(self._limits)
        self._out_bytes = before - self.intake.memory_bytes
        self._cut_in_turn += 1
        if self._cut_in_turn == BLOCKS_IN_A_ROW:
            self.end_turn()
        return block

    def _due_in_ms(self) -> int | None:
        return None if self._is_finishing else self.intake.due_in_ms(self._limits, _now_ms())

    def _note_gap(self) -> None:
        if self.intake.gap is not None:
            self._watch.gap(self.intake.gap)
        else:
            self._watch.clear_alarm(Alarm.GAP)


def who_may_read(feeds: Mapping[int, PartitionFeed], lags: Mapping[int, int], room: int, fetch_room: int) -> set[int]:
    """The partitions to read now, with `room` bytes free and as much as `fetch_room` taken by one fetch for a partition.

    Who has waited longest goes first, and on until its turn of some full blocks is over: were the room shared out among all, each would have too
    little for a block, and all would store small ones when they are due for their age. A planned block is needed whole.
    """
    found = set()
    for partition, feed in sorted(feeds.items(), key=lambda each: each[1].served_s):
        if not feed.is_started or feed.is_full or (room < fetch_room and not feed.intake.has_plan):
            continue
        found.add(partition)
        room -= max(fetch_room, feed.wanted_bytes(lags[partition]))
        if not lags[partition]:
            feed.end_turn()
    return found
