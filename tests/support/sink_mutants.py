"""The sink with one of its rules taken out, for tests that must notice it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from shared.events import raw_offset_of
from sink import worker
from sink.blocks import Block, EnrichedRecord, Intake
from sink.plans import AlreadyThere, Insert, Plan, encode_plan


def _without_plan(patch: pytest.MonkeyPatch) -> None:
    """Commits say where the table is, and never what comes next."""

    def only_position(plan: Plan) -> str:
        return encode_plan(Plan(plan.first, plan.first - 1, plan.raw_before, plan.raw_before))

    patch.setattr(worker, "encode_plan", only_position)


def _without_token(patch: pytest.MonkeyPatch) -> None:
    """Each insert has a token of its own, so that ClickHouse never drops one."""
    numbers = itertools.count()

    def another(_stream: str, _partition: int, _block: Block) -> str:
        return f"token-{next(numbers)}"

    patch.setattr(worker, "dedup_token", another)


def _without_drop_rule(patch: pytest.MonkeyPatch) -> None:
    """Copies of offsets that were taken before are taken again."""
    look_at, offer = Intake._look_at, Intake.offer

    def take_all(self: Intake, record: EnrichedRecord) -> None:
        raw_offset = raw_offset_of(record.headers)
        if raw_offset is not None and raw_offset <= self.taken:
            self.taken = raw_offset - 1
        look_at(self, record)

    def offer_all(self: Intake, records: Iterable[EnrichedRecord], now_ms: int) -> None:
        offer(self, records, now_ms)
        if len(self) and not self._arrivals:  # copies only: they make a block like all others
            self._arrivals.append((self.taken, now_ms))

    patch.setattr(Intake, "_look_at", take_all)
    patch.setattr(Intake, "offer", offer_all)


def _without_question(patch: pytest.MonkeyPatch) -> None:
    """What was planned is inserted, whatever the table says; what was acknowledged is believed to be there."""

    def believe(_plan: Plan, _highest: int, *, is_acknowledged: bool = False) -> Any:
        return AlreadyThere() if is_acknowledged else Insert()

    patch.setattr(worker, "decide", believe)


MUTANTS: Final[dict[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "plan": _without_plan,
    "token": _without_token,
    "drop rule": _without_drop_rule,
    "question to the table": _without_question,
}


@contextmanager
def mutated(rule: str) -> Iterator[None]:
    """Take a rule out for the body."""
    with pytest.MonkeyPatch.context() as patch:
        MUTANTS[rule](patch)
        yield
