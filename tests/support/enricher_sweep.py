"""Every way in which the enricher's loop can be interrupted, enumerated: each operation of each scenario, each ending.

As sink_sweep.py. What must hold at every append: before any enriched record of offset o stand all lower ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from enricher.refill import Request
from shared.kafka import Committed
from tests.support.enricher_model import AHEAD, QUICK, Process, World
from tests.support.stepping import IDLE

STEPS_MAX: Final = 1_000
ARRIVALS: Final = (0, 1, 2, 99)
"""After how many batches of others one that was in the air arrives; 99: at the very end."""


class Ending(StrEnum):
    """What happens at a point."""

    DIES_BEFORE = "dies before the effect"
    DIES_AFTER = "dies after the effect, before the answer"
    FAILS = "the operation fails without effect"
    REFUSED = "the operation is refused, until a human has acted"
    ANSWER_LOST = "the effect happens, its answer is lost"
    SLEEPS_BEFORE = "sleeps before the effect, another owner does everything, wakes up"
    SLEEPS_AFTER = "sleeps after the effect, another owner does everything, wakes up"
    SENT_LATE = "the next batch stays in the air, its sender goes on"
    SENT_LATE_AND_DIES = "the next batch stays in the air, its sender dies"
    REFILL = "an operator asks for everything from offset 2 again"
    GROUP_LOST = "the group's offsets are gone, another owner begins"


class Case(NamedTuple):
    """One interrupted run."""

    scenario: str
    point: int
    operation: str
    ending: Ending
    arrives_after: int


def ordinary() -> World:
    """Eleven records; two of them are stamped with a version that the catalog's copy has not reached."""
    return World(raw=[QUICK] * 5 + [AHEAD, QUICK, AHEAD] + [QUICK] * 3)


def copies_behind_the_commit() -> World:
    """The former owner wrote more than it committed."""
    return World(raw=[QUICK] * 9, log=[0, 1, 2, 3, 4, 5], committed=Committed(3, ""))


def refill() -> World:
    """Everything was written and committed once; an operator wants it again from offset 1."""
    requests = (Request("r1", 1, accept_lost=False),)
    return World(raw=[QUICK] * 7, log=list(range(7)), committed=Committed(7, ""), requests=requests)


def lost_in_kafka() -> World:
    """Kafka has deleted offsets 2 to 4 before they were enriched, and an operator gives them up."""
    requests = (Request("r1", 5, accept_lost=True),)
    return World(
        raw=[QUICK] * 9, begin=5, log=[0, 1], given_up={2, 3, 4}, committed=Committed(2, ""), requests=requests
    )


def lost_unnoticed() -> World:
    """The same, but nobody has asked yet: the partition stands still until somebody does."""
    world = lost_in_kafka()
    world.requests = ()
    return world


def unknown_outcome() -> World:
    """The first batch stays in the air."""
    return World(raw=[QUICK] * 8, is_next_late=True)


def fenced() -> World:
    """The partition is somebody else's already when the first owner begins."""
    return World(raw=[QUICK] * 8, is_first_fenced=True)


SCENARIOS: Final[dict[str, Callable[[], World]]] = {
    each.__name__: each
    for each in (ordinary, copies_behind_the_commit, refill, lost_in_kafka, lost_unnoticed, unknown_outcome, fenced)
}


def operations(world: World, process: Process) -> list[str]:
    """Let a worker work alone until all is committed; the operations that it needed, in order."""
    names = []
    for _ in range(STEPS_MAX):
        if process.pending is None or (world.is_done and process.pending.name == IDLE):
            return names
        names.append(process.pending.name)
        _one(world, process)
    raise AssertionError(f"the worker stands still at {process.pending}, {world}")


def _one(world: World, process: Process) -> None:
    """One operation, effect and answer; an operator comes when the partition stands still."""
    stands_still = process.pending is not None and process.pending.name == "wait_for_nudge"
    if stands_still and not any(request.accept_lost for request in world.requests):
        world.requests += (Request("r1", world.begin, accept_lost=True),)
    process.step()
    process.step()


FAULTS: Final = {Ending.FAILS: "before", Ending.REFUSED: "refused", Ending.ANSWER_LOST: "after"}


def interrupt(world: World, process: Process, ending: Ending) -> None:
    """What the ending does at the point where the process is."""
    match ending:
        case Ending.DIES_BEFORE:
            process.crash()
        case Ending.DIES_AFTER:
            process.step()
            process.crash()
        case Ending.FAILS | Ending.REFUSED | Ending.ANSWER_LOST:
            process.step(FAULTS[ending])
        case Ending.SLEEPS_AFTER:
            process.step()
        case Ending.SENT_LATE | Ending.SENT_LATE_AND_DIES:
            world.is_next_late = True
            process.go_to("send_batch", answered=True)
            world.is_next_late = False
            if ending is Ending.SENT_LATE_AND_DIES:
                process.crash()
        case Ending.REFILL:
            world.requests += (Request("r2", max(2, world.begin), accept_lost=False),)
        case Ending.GROUP_LOST if not world.begin:
            world.committed = None
        case _:
            pass


def finish(world: World, process: Process, case: Case) -> None:
    """Let everybody finish: the same owner where it can, else the next; a sleeper wakes up when that one is done."""
    is_left = case.ending in (Ending.SLEEPS_BEFORE, Ending.SLEEPS_AFTER, Ending.GROUP_LOST)
    successor = process if process.pending is not None and not is_left else Process(world)
    _work(world, successor, case.arrives_after)
    if successor.pending is None:  # the partition was somebody else's
        successor = Process(world)
        operations(world, successor)
    for _ in range(60 if is_left else 0):  # side by side, until the sleeper has noticed
        _one(world, process)
        _one(world, successor)
    operations(world, successor)
    while world.in_the_air:
        world.batch_arrives()
    world.assert_complete()


def _work(world: World, process: Process, arrives_after: int) -> None:
    """Work to the end; what was in the air arrives after so many batches."""
    batches = 0
    for _ in range(STEPS_MAX):
        if world.in_the_air and batches == arrives_after:
            world.batch_arrives()
        if process.pending is None or (world.is_done and process.pending.name == IDLE):
            return
        batches += process.pending.name == "send_batch"
        _one(world, process)
    raise AssertionError(f"the worker stands still at {process.pending}, {world}")


def run_case(case: Case, worker: type | None = None) -> None:
    """Run a scenario to a point, end it there, and let others finish. `worker`: a mutant."""
    world = SCENARIOS[case.scenario]()
    process = Process(world) if worker is None else Process(world, worker)
    for _ in range(case.point):
        _one(world, process)
    interrupt(world, process, case.ending)
    finish(world, process, case)


def cases(scenario: str, worker: type | None = None) -> Iterator[Case]:
    """Every point of a scenario with every ending."""
    world = SCENARIOS[scenario]()
    process = Process(world) if worker is None else Process(world, worker)
    for point, operation in enumerate(operations(world, process)):
        for ending in Ending:
            is_late = ending in (Ending.SENT_LATE, Ending.SENT_LATE_AND_DIES)
            for arrives_after in ARRIVALS if is_late else (0,):
                yield Case(scenario, point, operation, ending, arrives_after)
