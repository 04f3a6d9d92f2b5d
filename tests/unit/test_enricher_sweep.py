"""The enricher's loop interrupted at every operation in every way, one by one: nothing is sampled."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from enricher import worker
from tests.support.enricher_mutants import MUTANTS
from tests.support.enricher_sweep import SCENARIOS, Ending, cases, run_case
from tests.support.tracing import asynchronous, missed_lines

UNREACHED = {
    "_note: self.alarms.raise_alarm(Alarm.STALLED, str(exc))",
    "_fill: if time.monotonic() >= slice_ends:",
    "_fill: moment = self._moment(catalog_end)",
    "_fill: await asyncio.sleep(0)",
    "_fill: slice_ends = time.monotonic() + SLICE_S",
    '_fill: raise OperatorError(f"raw offset {records[start].offset}: its enriched record does not fit an empty batch")',
    "stop: self._stopping = True",
    "stop: self._feed.nudge()",
}
"""Lines that report after minutes of failures, hand the event loop to others, refuse what a setting forbids, and end an orderly stop."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of failures are injected; none is news."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def _run_all(scenario: str) -> Counter[Ending]:
    endings = Counter[Ending]()
    for case in cases(scenario):
        try:
            run_case(case)
        except AssertionError as exc:
            raise AssertionError(f"{case}: {exc}") from exc
        endings[case.ending] += 1
    return endings


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_interruption_makes_a_hole(scenario: str) -> None:
    """Whatever happens at any operation, at each append all lower offsets stand there already, and none is missing."""
    assert set(_run_all(scenario)) == set(Ending)


def test_every_port_method_is_a_point() -> None:
    """A method that is added to a port without a scenario that calls it fails here."""
    ports = asynchronous([worker.Group, worker.Appender, worker.Producers, worker.Gate])
    seen = {case.operation for scenario in SCENARIOS for case in cases(scenario)}
    assert seen == ports | {"next", "pause", "wait_for_nudge"}


def test_every_line_of_the_loop_is_reached() -> None:
    """So "at every operation" is "after every line"."""

    def run() -> None:
        for scenario in SCENARIOS:
            _run_all(scenario)

    missed = missed_lines(worker, worker.PartitionWorker, run)
    assert missed <= UNREACHED


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_missing_rule_is_found(mutant: type[Any]) -> None:
    """Some interruption of the ordinary scenario makes a hole, or leaves the worker standing still."""

    def sweep() -> None:
        for case in cases("ordinary", mutant):
            run_case(case, mutant)

    with pytest.raises(AssertionError):
        sweep()
