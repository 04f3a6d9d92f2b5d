"""One partition, as long as it is ours: plan, ask the table, insert, commit with the next plan.

`Owner.run` is the delivery guarantee: the order of the lines of its loop *is* the guarantee, and docs/adr/0006 says what a
crash after each of them leaves behind. Everything it talks to is a port, so that the same lines run against Kafka and
ClickHouse and against the model of tests/unit/test_sink_machine.py, crashed and rescheduled at every step.

`Bounds` limit what a stopped or expelled process can still do when it wakes up. An insert starts only within `fresh_s`
of the table's answer *and* of the last commit that the group accepted from us, and ends `insert_s` later at the latest.
So `settle_s` after a partition was assigned, no former owner's insert can be in flight any more. Whatever departs from
the plan that was found (a second token, other boundaries) waits for that.
"""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, assert_never

from shared.clickhouse import UnknownClickHouseError
from shared.errors import DataError, OperatorError, TransientError
from sink.blocks import Block, Body, block_at_ms, dedup_token
from sink.plans import (
    AlreadyThere,
    Impossible,
    Insert,
    InsertAgain,
    Plan,
    Rewind,
    StalePlan,
    Waypoints,
    decide,
    decode_plan,
    encode_plan,
)
from sink.poison import find_poison, known_good, not_storable
from sink.ports import Bounds, Clock, Feed, Group, Table
from sink.rows import Row, Rows
from sink.suspects import Remembered, questions, rewritten
from sink.watch import Alarm, Watch

log = logging.getLogger(__name__)

RETRY_S: Final = (0.2, 5.0)
"""First and longest pause after a transient error; it doubles in between and is jittered."""
OPERATOR_RETRY_S: Final = (1.0, 5.0)
"""The same after an error that a human must mend: when it is mended, the partition goes on within the longest pause."""
STALLED_S: Final = 30.0
"""How long one step may fail for passing reasons before that is an alarm: a restart of ClickHouse or Kafka is shorter."""
UNKNOWN_TRIES: Final = 5
"""Tries after an error of no known class before a row is suspected."""


P = ParamSpec("P")
T = TypeVar("T")


def _pause_s(bounds: tuple[float, float], tries: int) -> float:
    """The pause after so many failures before this one: doubling from the first bound to the second."""
    return min(bounds[1], bounds[0] * 2.0 ** min(tries, 16))


def _persistently(
    step: Callable[Concatenate[Owner, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Owner, P], Coroutine[Any, Any, T]]:
    """Do a step again after errors of the environment, with pauses, until it works. NotOwned ends it."""

    @functools.wraps(step)
    async def persistent(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        first_s, tries = self.clock.now_s(), 0
        while True:
            try:
                result = await step(self, *args, **kwargs)
            except (OperatorError, DataError) as exc:  # a DataError that is not about a row is a human's to look at
                self.watch.retried(exc)
                self.watch.raise_alarm(Alarm.OPERATOR, str(exc))
                bounds = OPERATOR_RETRY_S
            except TransientError as exc:
                self.watch.retried(exc)
                if self.clock.now_s() - first_s >= STALLED_S:
                    self.watch.raise_alarm(Alarm.STALLED, str(exc))
                bounds = RETRY_S
            else:
                self.watch.clear_alarm(Alarm.OPERATOR)
                self.watch.clear_alarm(Alarm.STALLED)
                return result
            self.table.give_turn()  # others go on while this waits
            await self.clock.pause(_pause_s(bounds, tries) * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
            tries += 1

    return persistent


class Owner:
    """The owner of one partition for the time of one assignment."""

    def __init__(
        self,
        stream: str,
        partition: int,
        *,
        table: Table,
        group: Group,
        feed: Feed,
        clock: Clock,
        watch: Watch,
        bounds: Bounds,
    ) -> None:
        self.stream, self.partition = stream, partition
        self.table, self.group, self.feed, self.clock, self.watch = table, group, feed, clock, watch
        self._bounds = bounds
        self._quiet_from_s = clock.now_s()  # no insert but ours began after this
        self._proved_at_s = float("-inf")  # when we last began a commit that the group accepted
        self._waypoints = Waypoints()
        self._acknowledged: set[Plan] = set()
        self._poison: dict[int, Row] = {}
        self._unknown_errors = 0
        self._remembered = Remembered()
        self._last_stored_s = clock.now_s()

    async def run(self) -> None:
        """Store blocks until the partition is taken away (NotOwned)."""
        try:
            await self._run()
        finally:
            self.table.give_turn()

    async def _run(self) -> None:
        await self.resume()
        block: Block | None = None
        while True:
            if block is None:
                block = await self.next_block()
                await self.commit(block.plan)  # plan
            is_stored, plan = await self.store(block), block.plan  # ask the table, insert
            block = None  # its rows go now: others need the room, and should they be missing, Kafka has them
            if not is_stored:  # the table stands elsewhere: the feed starts again from there
                continue
            block = await self.feed.following_block(self.table.take_turn)
            if block is None and not await self.see(plan):  # idle: see the stored block in the table
                continue
            await self.commit(block.plan if block else plan.after())  # commit, with the next plan

    @_persistently
    async def resume(self) -> None:
        """Start the feed where the committed plan and the table say. A plan that was not carried out is built again."""
        committed = await self.group.committed()
        highest = await self.table.highest()
        await self._reload_suspects()  # after the answer: no block that it counts may be missing here
        if committed is None:  # a new stream, or a group that lost its offsets, and a plan with them
            await self._start_over(highest, settle=highest >= self.table.start)
            return
        next_offset, metadata = committed
        plan = decode_plan(metadata)
        if plan is None:
            self.feed.restart(next_offset, highest)
            return
        match decide(plan, highest):
            case Insert() | InsertAgain():
                self.feed.restart(plan.first, plan.raw_before, plan)
            case AlreadyThere() | StalePlan():
                self.feed.restart(plan.next_offset, highest)
            case Rewind():
                await self._start_over(highest, settle=True)
            case Impossible():
                raise OperatorError(self._impossible(plan, highest))

    async def next_block(self) -> Block:
        """The next block; a plan whose records are gone is given up once nobody can be storing it."""
        while True:
            block = await self.feed.next_block()
            if isinstance(block, Block):
                self._waypoints.note(block.plan)
                return block
            self.watch.plan_lost(block)
            await self._give_up_plan()

    @_persistently
    async def _give_up_plan(self) -> None:
        await self._start_over(await self.table.highest(), settle=True)

    @_persistently
    async def commit(self, plan: Plan) -> None:
        """Register a plan at its first offset: what will be inserted next, or (empty) how far the table is."""
        await self._commit(plan)

    async def _commit(self, plan: Plan) -> None:
        began_s = self.clock.now_s()
        await self.group.commit(plan.first, encode_plan(plan))
        self._proved_at_s = began_s
        self._waypoints.note(plan)

    @_persistently
    async def store(self, block: Block) -> bool:
        """Bring a planned block into the table.

        True when an insert was acknowledged, or the table's answer shows the block; False when the table stands elsewhere, and
        the feed has been restarted from there.
        """
        block = Block(self._waypoints.registered(block.plan), block.rows)
        while True:
            if not self._is_fresh(self._proved_at_s):
                await self._commit(block.plan)
            await self.table.take_turn()
            try:
                asked_at_s = self.clock.now_s()
                highest = await self.table.highest()
                decision = decide(block.plan, highest, is_acknowledged=block.plan in self._acknowledged)
                self.watch.decided(decision)
                if isinstance(decision, Insert):
                    body, replaced = await self._body(block)
                    if not (self._is_fresh(asked_at_s) and self._is_fresh(self._proved_at_s)):
                        continue
                    if await self._insert(block, body):
                        self.watch.stored(block, replaced, len(body))
                        return True
                    continue
            finally:
                self.table.give_turn()
            if isinstance(decision, InsertAgain):
                block = await self._take_another_token(block)
            elif isinstance(decision, AlreadyThere):
                self._note_stored(block)
                return True
            else:
                await self._follow(block.plan, decision)
                return False

    @_persistently
    async def see(self, plan: Plan) -> bool:
        """Whether the table's answer shows a block that it took; when not, the feed has been restarted from where the table stands."""
        await self.table.take_turn()
        try:
            highest = await self.table.highest()
        finally:
            self.table.give_turn()
        plan = self._waypoints.registered(plan)
        decision = decide(plan, highest, is_acknowledged=plan in self._acknowledged)
        self.watch.decided(decision)
        match decision:
            case AlreadyThere():
                return True
            case Insert() | InsertAgain():  # lost behind its acknowledgement: build this very block again
                self.feed.restart(plan.first, plan.raw_before, plan)
            case _:
                await self._follow(plan, decision)
        return False

    async def _take_another_token(self, block: Block) -> Block:
        """Plan the block with the next token, once no insert with an earlier one can be in flight.

        Replicated tables commit token and part together, so there the part is on its way: ask again.
        """
        if not self._bounds.second_tokens:
            raise TransientError(
                f"partition {self.partition}: {block.plan} was acknowledged and no replica shows it yet"
            )
        plan = block.plan.with_attempt(block.plan.attempt + 1)
        while plan in self._acknowledged:
            plan = plan.with_attempt(plan.attempt + 1)
        if not await self._settle():
            await self._commit(plan)
            return Block(plan, block.rows)
        return block

    async def _follow(self, plan: Plan, decision: StalePlan | Rewind | Impossible) -> None:
        """Restart the feed from where the table stands instead of at this plan. Raises OperatorError when it stands inside."""
        match decision:
            case StalePlan(highest):
                await self._reload_suspects()
                self.feed.restart(plan.next_offset, highest)
            case Rewind(highest):
                await self._start_over(highest, settle=True)
            case Impossible(highest):
                raise OperatorError(self._impossible(plan, highest))
            case _:
                assert_never(decision)

    async def _insert(self, block: Block, body: Body) -> bool:
        """Insert; False when a row was found that cannot be stored, and the block must be made again without it."""
        quiet_from_s, self._quiet_from_s = self._quiet_from_s, self.clock.now_s()  # until answered, it may be in flight
        try:
            await self.table.insert(body, dedup_token(self.stream, self.partition, block))
        except DataError as exc:
            await self._find_poison(block, exc)
            return False
        except UnknownClickHouseError as exc:
            self._unknown_errors += 1
            if self._unknown_errors < UNKNOWN_TRIES:
                raise
            await self._find_poison(block, exc)
            return False
        self._quiet_from_s = quiet_from_s
        self._acknowledged.add(block.plan)
        self._note_stored(block)
        return True

    def _note_stored(self, block: Block) -> None:
        self._last_stored_s = self.clock.now_s()
        self._remembered.add(block.rows.suspect_keys(), self._last_stored_s)
        self._poison.clear()
        self._unknown_errors = 0
        self._acknowledged = {plan for plan in self._acknowledged if self._waypoints.at(plan.raw_before) is not None}

    async def _body(self, block: Block) -> tuple[Body, dict[int, bytes]]:
        """The block's bytes, and the rows (by raw offset) that were rewritten.

        Second copies of clicks become duplicates, rows that cannot be stored become malformed.
        """
        poison = self._poison | {row.raw_offset: row for row in block.rows.broken()}
        replaced: dict[int, bytes] = {}
        self._remembered.prune(self._last_stored_s)
        watched = self._remembered.watched(block.rows)
        if watched:
            rows = [row for row in block.rows.with_keys(watched) if row.raw_offset not in poison]
            stored = await self.table.copies(questions(rows, watched), block.plan.raw_before)
            replaced = rewritten(rows, watched, stored)
        replaced |= self._stand_ins(poison.values())
        return Body(block.rows, block_at_ms(block.rows[0]), replaced), replaced

    def _stand_ins(self, rows: Iterable[Row]) -> dict[int, bytes]:
        now_ms = self.clock.wall_ms()
        return {row.raw_offset: not_storable(row, self.stream, self.partition, now_ms) for row in rows}

    async def _find_poison(self, block: Block, cause: Exception) -> None:
        """Find the rows that ClickHouse refuses. Raises OperatorError when it refuses the block but none of its rows."""
        at_ms = block_at_ms(block.rows[0])

        async def probe(rows: Sequence[Row]) -> None:
            await self.table.probe(Body(Rows.of(rows), at_ms, {}))

        candidates = [row for row in block.rows if not row.is_broken and row.raw_offset not in self._poison]
        found = await find_poison(candidates, known_good(self.stream, self.partition, self.clock.wall_ms()), probe)
        if not found:
            raise OperatorError(
                f"partition {self.partition}, raw offsets {block.rows[0].raw_offset} to {block.rows[-1].raw_offset}: "
                f"the block is refused but each row alone is taken: {cause}"
            )
        for row in found:
            self.watch.poison(row, cause)
        self._poison |= {row.raw_offset: row for row in found}

    async def _start_over(self, highest: int, *, settle: bool) -> None:
        """Read again from where the table ends: the very block that is missing if we know it, else all of Kafka.

        `settle`: somebody may still be storing a block with other boundaries; wait until that is over and look again.
        """
        if settle and await self._settle():
            highest = await self.table.highest()
            await self._reload_suspects()
        plan = self._waypoints.at(highest)
        if plan is None:
            self.feed.restart(await self.feed.begin_offset(), highest)
        else:
            self.feed.restart(plan.first, highest, plan if plan.raw_last > highest else None)

    async def _reload_suspects(self) -> None:
        self._last_stored_s = self.clock.now_s()
        for key, age_s in await self.table.recent_suspects():
            self._remembered.add([key], self._last_stored_s - age_s)

    async def _settle(self) -> bool:
        """Wait until no insert that began before can be in flight; False when that was so already."""
        waited = False
        while (seconds := self._unsettled_s()) > 0:
            waited = True
            self.watch.settling(seconds)
            await self.clock.pause(min(seconds, 5.0))
        return waited

    def _unsettled_s(self) -> float:
        return self._quiet_from_s + self._bounds.settle_s - self.clock.now_s()

    def _is_fresh(self, at_s: float) -> bool:
        return self.clock.now_s() - at_s <= self._bounds.fresh_s

    def _impossible(self, plan: Plan, highest: int) -> str:
        return (
            f"partition {self.partition}: the table ends at raw offset {highest}, inside the planned block "
            f"{plan.raw_before + 1} to {plan.raw_last}: blocks are atomic, so another writer or a deletion did this"
        )
