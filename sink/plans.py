"""What was planned, and what the table says about it: the pure heart of "the table decides".

A block is described by its `Plan` (Kafka offsets and raw offsets), which is committed before the block is inserted, so
that a new owner cuts the very same block from Kafka. `decide` compares a plan with the highest raw offset stored in the
table. The table is always right.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, TypeAlias

from shared.errors import OperatorError


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next insert holds; committed as metadata before it. All offsets are inclusive.

    An empty plan (`raw_before == raw_last`, `last == first - 1`) says only how far the table was at this position.
    """

    first: int
    """Kafka offset from which the block is cut."""
    last: int
    """Kafka offset of its last row."""
    raw_before: int
    """Highest raw offset before the block; -1 when there is none."""
    raw_last: int
    """Raw offset of its last row."""
    attempt: int = 0
    """How often ClickHouse acknowledged the block and did not have it; in the token, so that all owners send the same."""

    @property
    def next_offset(self) -> int:
        """The Kafka offset to commit after the block."""
        return self.last + 1

    def with_attempt(self, attempt: int) -> Plan:
        """The same block, to be sent with another token."""
        return replace(self, attempt=attempt)

    def after(self) -> Plan:
        """The empty plan at this plan's end."""
        return Plan(self.last + 1, self.last, self.raw_last, self.raw_last)


_PLAN: Final = re.compile(r"v1:(\d+)-(-?\d+):(-?\d+):(-?\d+)(?:#(\d+))?")


def encode_plan(plan: Plan) -> str:
    """The commit metadata `v1:<first>-<last>:<raw before>:<raw last>`, with `#<attempt>` from the second one on."""
    text = f"v1:{plan.first}-{plan.last}:{plan.raw_before}:{plan.raw_last}"
    return f"{text}#{plan.attempt}" if plan.attempt else text


def decode_plan(metadata: str) -> Plan | None:
    """The plan in commit metadata; None when there is no metadata.

    Raises OperatorError for anything else: it was written by a newer sink or by another program, and guessing what was
    planned could store rows twice.
    """
    if not metadata:
        return None
    match = _PLAN.fullmatch(metadata)
    if match is None:
        raise OperatorError(f"commit metadata {metadata!r:.80} is not a plan of this version (v1:…)")
    plan = Plan(*(int(number or 0) for number in match.groups()))
    if plan.last < plan.first - 1 or plan.raw_last < plan.raw_before or plan.raw_before < -1:
        raise OperatorError(f"commit metadata {metadata!r:.80} contradicts itself")
    return plan


class Insert(NamedTuple):
    """The table stands right before the block."""


class InsertAgain(NamedTuple):
    """So it does although it acknowledged the block: the token is remembered without its rows. Take another token."""


class AlreadyThere(NamedTuple):
    """The table ends with the block's last row."""


class StalePlan(NamedTuple):
    """The table is further than the plan: drop it and go on from `highest`."""

    highest: int


class Rewind(NamedTuple):
    """Rows before the plan are missing: build blocks again from `highest` on."""

    highest: int


class Impossible(NamedTuple):
    """The table ends inside the block, which atomic blocks cannot do: a human must look."""

    highest: int


Decision: TypeAlias = Insert | InsertAgain | AlreadyThere | StalePlan | Rewind | Impossible


def decide(plan: Plan, highest: int, *, is_acknowledged: bool = False) -> Decision:
    """What to do with a planned block when the table's highest raw offset of the partition is `highest` (-1: none).

    `is_acknowledged`: an insert of this very plan, attempt included, was acknowledged to us.
    """
    if highest == plan.raw_last:
        return AlreadyThere()
    if highest == plan.raw_before:
        return InsertAgain() if is_acknowledged else Insert()
    if highest > plan.raw_last:
        return StalePlan(highest)
    if highest < plan.raw_before:
        return Rewind(highest)
    return Impossible(highest)


@dataclass(slots=True)
class Waypoints:
    """The plans of the latest blocks, so that a rewind need not read the topic from its beginning."""

    keep: int = 64
    plans: deque[Plan] = field(default_factory=deque)

    def note(self, plan: Plan) -> None:
        """Remember a plan that is about to be inserted."""
        if self.plans and self.plans[-1] == plan:
            return
        while self.plans and self.plans[-1].raw_before >= plan.raw_before:
            self.plans.pop()
        self.plans.append(plan)
        if len(self.plans) > self.keep:
            self.plans.popleft()

    def at(self, highest: int) -> Plan | None:
        """The plan that begins right after `highest`: the lost block itself, to be built again as it was."""
        return next((plan for plan in self.plans if plan.raw_before == highest), None)

    def registered(self, plan: Plan) -> Plan:
        """A plan with the latest attempt under which it was noted."""
        noted = self.at(plan.raw_before)
        return noted if noted is not None and noted.with_attempt(plan.attempt) == plan else plan
