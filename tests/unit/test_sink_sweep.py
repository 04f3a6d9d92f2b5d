"""The sink's loop interrupted at every operation in every way, one by one: nothing is sampled.

An owner is interrupted once, and the others finish; in one scenario the next owner dies as well, at each of its points.
All scenarios on both levels take minutes: `SWEEP_LEVELS=2 .venv/bin/python -m pytest tests/unit/test_sink_sweep.py
tests/unit/test_enricher_sweep.py`, from the torture harness by `subprocess`, its exit status is the verdict.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections import Counter
from collections.abc import Callable
from itertools import product
from types import FrameType
from typing import Any

import pytest

from sink import ports, worker
from tests.support.sink_model import Process
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

LEVELS = int(os.environ.get("SWEEP_LEVELS", "1"))
NAMES = {"next_block": "read"}
"""Port methods whose operations have another name."""

UNREACHED = {
    "_follow: case Impossible(highest):",
    "_follow: raise OperatorError(self._impossible(block.plan, highest))",
    "_follow: case _:",
    "_follow: assert_never(decision)",
    "_take_another_token: plan = plan.with_attempt(plan.attempt + 1)",
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


def _asynchronous(port: type) -> set[str]:
    return {
        NAMES.get(name, name)
        for name, member in vars(port).items()
        if inspect.iscoroutinefunction(member) or name == "turn"
    }


def test_every_port_method_is_a_point() -> None:
    """A method that is added to a port without a scenario that calls it fails here."""
    wanted = set[str]().union(*map(_asynchronous, (ports.Table, ports.Group, ports.Feed, ports.Clock)))
    seen = {case.operation for scenario in SCENARIOS for case in cases(scenario, token_first=True)}
    assert seen == wanted


def _traced(code_file: str, run: Callable[[], None]) -> set[int]:
    """The lines of a file that ran."""
    lines: set[int] = set()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        if frame.f_code.co_filename != code_file:
            return None
        if event == "line":
            lines.add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return lines


def _lines_of(function: Any) -> set[int]:
    """The lines with code in a function's body."""
    code = inspect.unwrap(function).__code__
    return {line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno}


def test_every_line_of_the_loop_is_reached() -> None:
    """So "at every operation" is "after every line". Left out: what is raised for a state that cannot be."""
    methods = [
        member for name, member in vars(worker.Owner).items() if inspect.isfunction(member) and name != "__init__"
    ]

    def run() -> None:
        for scenario in SCENARIOS:
            world = begin(scenario, token_first=True)
            points = len(operations(world, Process(world)))
            endings = (Ending.PART_LOST, Ending.SLEEPS_BEFORE, Ending.SLEEPS_LONG)
            for ending, point in product(endings, range(points)):
                run_case(Case(scenario, point, "", ending), token_first=True)

    reached = _traced(worker.__file__, run)
    source = inspect.getsource(worker).splitlines()
    missed = {
        f"{method.__name__}: {source[line - 1].strip()}" for method in methods for line in _lines_of(method) - reached
    }
    assert missed == UNREACHED
