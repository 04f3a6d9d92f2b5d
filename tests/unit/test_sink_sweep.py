"""The sink's loop interrupted at every operation in every way, one by one: nothing is sampled.

An owner is interrupted once, and the others finish; in one scenario the next owner dies as well, at each of its points.
All scenarios on both levels take minutes: `SWEEP_LEVELS=2 .venv/bin/python -m pytest tests/unit/test_sink_sweep.py
tests/unit/test_enricher_sweep.py`, from the torture harness by `subprocess`, its exit status is the verdict.
"""

from __future__ import annotations

import os
from collections import Counter
from itertools import product

import pytest

from sink import ports, worker
from tests.support.sink_model import Process
from tests.support.sink_mutants import MUTANTS, mutated
from tests.support.sink_sweep import (
    DEATHS,
    SCENARIOS,
    Case,
    Ending,
    begin,
    cases,
    operations,
    run_case,
    second_cases,
)
from tests.support.tracing import asynchronous, missed_lines

LEVELS = int(os.environ.get("SWEEP_LEVELS", "1"))

UNREACHED = {
    "_follow: case Impossible(highest):",
    "_follow: raise OperatorError(self._impossible(plan, highest))",
    "_follow: case _:",
    "_follow: assert_never(decision)",
    "_take_another_token: plan = plan.with_attempt(plan.attempt + 1)",
    "_take_another_token: raise TransientError(",  # replicated tables only: test_sink_cluster
    '_take_another_token: f"partition {self.partition}: {block.plan} was acknowledged and no replica shows it yet"',
}
"""Lines for what cannot be: a table that ends inside a block; a second token that was acknowledged and forgotten."""

each_order = pytest.mark.parametrize("token_first", [True, False], ids=["token first", "part first"])
each_scenario = pytest.mark.parametrize("scenario", SCENARIOS)


@each_order
@each_scenario
def test_no_interruption_loses_or_doubles_a_row(scenario: str, token_first: bool) -> None:
    """Whatever happens at any operation, each raw offset becomes exactly one row and each click is accepted once."""
    endings = Counter[Ending]()
    for case in cases(scenario, token_first=token_first):
        try:
            run_case(case, token_first=token_first)
        except AssertionError as exc:
            raise AssertionError(f"{case}: {exc}") from exc
        endings[case.ending] += 1
    assert set(endings) == set(Ending)


@each_order
@pytest.mark.parametrize("scenario", SCENARIOS if LEVELS > 1 else ["stale_plan"])
def test_no_second_death_loses_or_doubles_a_row(scenario: str, token_first: bool) -> None:
    """The owner is interrupted anywhere, and the next one dies anywhere, before the third finishes."""
    for case in cases(scenario, token_first=token_first):
        if case.ending in (*DEATHS, Ending.SERVER_RESTARTS, Ending.PART_LOST):
            for second in second_cases(case, token_first=token_first):
                run_case(case, token_first=token_first, then=second)


def test_every_port_method_is_a_point() -> None:
    """A method that is added to a port without a scenario that calls it fails here."""
    wanted = asynchronous([ports.Table, ports.Group, ports.Feed, ports.Clock]) - {"next_block", "following_block"} | {
        "read"
    }
    seen = {case.operation for scenario in SCENARIOS for case in cases(scenario, token_first=True)}
    assert seen == wanted


def test_every_line_of_the_loop_is_reached() -> None:
    """So "at every operation" is "after every line". Left out: what is raised for a state that cannot be."""

    def run() -> None:
        for scenario in SCENARIOS:
            world = begin(scenario, token_first=True)
            points = len(operations(world, Process(world)))
            endings = (Ending.PART_LOST, Ending.SLEEPS_BEFORE, Ending.SLEEPS_LONG)
            for ending, point in product(endings, range(points)):
                run_case(Case(scenario, point, "", ending), token_first=True)

    assert missed_lines(worker, worker.Owner, run) == UNREACHED


@pytest.mark.parametrize("rule", MUTANTS)
def test_a_missing_rule_is_found(rule: str) -> None:
    """Some interruption of the ordinary scenario doubles or loses a row, or leaves the owner standing still."""

    def sweep() -> None:
        for case in cases("ordinary", token_first=False):
            run_case(case, token_first=False)

    with mutated(rule), pytest.raises(AssertionError):
        sweep()
