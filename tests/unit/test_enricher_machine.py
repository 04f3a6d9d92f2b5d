"""The enricher's loop against a model Kafka: crashes, zombies, batches that arrive late, lost groups, refills."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from enricher.refill import Request
from enricher.worker import PartitionWorker
from tests.support.enricher_model import AHEAD, QUICK, ModelProducing, Process, World
from tests.support.enricher_mutants import MUTANTS
from tests.support.enricher_sweep import operations
from tests.support.stepping import IDLE

POINTS = st.sampled_from(["committed", "get", "send_batch", "commit", IDLE])


class EnricherMachine(RuleBasedStateMachine):
    """At each append all lower offsets stand there (the model asserts it); in the end none is missing."""

    worker: type[Any] = PartitionWorker[ModelProducing]

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.processes: list[Process] = []

    @initialize(records=st.integers(1, 9))
    def begin(self, records: int) -> None:
        """Some records wait."""
        self.write(records, is_ahead=False)
        self.processes.append(Process(self.world, self.worker))

    @rule(records=st.integers(1, 5), is_ahead=st.booleans())
    def write(self, records: int, *, is_ahead: bool) -> None:
        """New raw records; the first may need a newer catalog."""
        self.world.raw += ([AHEAD] if is_ahead else [QUICK]) + [QUICK] * (records - 1)

    @rule(data=st.data(), fault=st.sampled_from(["none", "before", "refused", "after"]))
    def step(self, data: st.DataObject, fault: str) -> None:
        """One operation of a process takes effect, or fails, or loses its answer."""
        data.draw(st.sampled_from(self.processes)).step(fault)

    @rule(data=st.data(), point=POINTS, answered=st.booleans())
    def go_to(self, data: st.DataObject, point: str, *, answered: bool) -> None:
        """A process goes on to right before, or right behind, the next operation of a kind."""
        data.draw(st.sampled_from(self.processes)).go_to(point, answered=answered)

    @rule(data=st.data())
    def a_batch_stays_in_the_air(self, data: st.DataObject) -> None:
        """Its sender gets no acknowledgement in time."""
        self.world.is_next_late = True
        data.draw(st.sampled_from(self.processes)).go_to("send_batch", answered=True)
        self.world.is_next_late = False

    @precondition(lambda self: self.world.in_the_air)
    @rule()
    def a_batch_arrives(self) -> None:
        """Whoever works by then."""
        self.world.batch_arrives()

    @rule(then=POINTS, crash=st.booleans())
    def hand_over(self, then: str, *, crash: bool) -> None:
        """The partition goes to another; the former owner is dead, or stopped where it is."""
        if crash:
            self.processes[-1].crash()
        self.processes = [process for process in self.processes if process.pending is not None][-2:]
        self.processes.append(Process(self.world, self.worker))
        self.processes[-1].go_to(then, answered=False)

    @rule(data=st.data())
    def refill(self, data: st.DataObject) -> None:
        """An operator wants a partition again from somewhere."""
        offset = data.draw(st.integers(0, len(self.world.raw)))
        self.world.requests += (Request(f"r{len(self.world.requests)}", offset, accept_lost=False),)

    @rule()
    def group_is_lost(self) -> None:
        """The committed offsets are gone."""
        self.world.committed = None

    def teardown(self) -> None:
        """Left alone, the last owner and what was in the air complete the topic."""
        if not self.processes:
            return
        operations(self.world, Process(self.world, self.worker))
        while self.world.in_the_air:
            self.world.batch_arrives()
        self.world.assert_complete()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """No log of injected failures, and no finalizers of others inside of `ast.parse` (as in test_sink_machine.py)."""
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    logging.disable(logging.NOTSET)


EnricherMachine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
TestEnricherMachine = EnricherMachine.TestCase


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_machine_finds_a_missing_rule(mutant: type[Any]) -> None:
    """Deterministic: the same examples in each run."""
    machine = type("Mutated", (EnricherMachine,), {"worker": mutant})
    same = settings(EnricherMachine.TestCase.settings, max_examples=2_000, derandomize=True, phases=(Phase.generate,))
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=same)
