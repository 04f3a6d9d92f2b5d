"""Every way in which the sink's loop can be interrupted, enumerated: each operation of each scenario, each ending.

A *point* is the n-th operation of a port while an owner stores a scenario from its beginning to the end. Between two
operations nothing is awaited, so a crash after any line of the loop is a crash at one of these points, before or after
the operation's effect. `sweep` ends the owner there, lets others finish, and checks that each raw offset is one row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from shared.events import Status
from shared.ids import keyed_id
from sink.plans import Plan, encode_plan
from tests.support.sink_model import Process, World
from tests.support.stepping import IDLE

STEPS_MAX: Final = 3_000
"""Far more than any owner needs; beyond it the loop stands still, which is a failure."""


class Ending(StrEnum):
    """What happens at a point."""

    DIES_BEFORE = "dies before the effect"
    DIES_AFTER = "dies after the effect, before the answer"
    FAILS = "the operation fails without effect"
    REFUSED = "the operation is refused, until a human has acted"
    ANSWER_LOST = "the effect happens, its answer is lost"
    SLEEPS_BEFORE = "sleeps before the effect, another owner does everything, wakes up"
    SLEEPS_AFTER = "sleeps after the effect, another owner does everything, wakes up"
    SLEEPS_LONG = "sleeps before the effect for longer than anything counts, another owner begins, wakes up"
    SERVER_RESTARTS = "ClickHouse restarts: what is in flight is cut"
    PART_LOST = "ClickHouse restarts without its newest part, the token is remembered"
    PART_AND_TOKEN_LOST = "ClickHouse restarts without its newest part and token"
    GROUP_LOST = "the group's offsets are gone, another owner begins"


DEATHS: Final = (Ending.DIES_BEFORE, Ending.DIES_AFTER)
SLEEPS: Final = (Ending.SLEEPS_BEFORE, Ending.SLEEPS_AFTER, Ending.SLEEPS_LONG)


class Case(NamedTuple):
    """One interrupted run."""

    scenario: str
    point: int
    operation: str
    ending: Ending


# --- scenarios: what stands in Kafka, in the table and in the group when the owner begins ---------------------------------


def _write(world: World, kinds: str) -> None:
    """Append records.

    `n` plain, `s` suspect, `c` a copy of the record two before it, `p` poison, `o` poison with an error of no known
    class, `r` a rejected replay, always of the same row.
    """
    for kind in kinds:
        raw_offset = len(world.written)
        transaction_id = keyed_id("t", str(raw_offset), 1)
        if kind == "c":
            transaction_id = world.written[raw_offset - 2][0]
        if kind == "r":
            world.replay_of[raw_offset] = "s1/0/0"
            transaction_id = keyed_id("t", "replayed", 1)
            world.rejected.add(raw_offset)
        if kind == "p":
            world.poison.add(raw_offset)
        if kind == "o":
            world.odd.add(raw_offset)
        world.written[raw_offset] = (transaction_id, kind in "scr")
        world.write(raw_offset)


def _stored(kinds: str) -> World:
    """A world whose records are stored and whose owner is gone."""
    world = World()
    _write(world, kinds)
    Process(world).go_to(IDLE, answered=True)
    return world


def ordinary() -> World:
    """Three blocks with suspects, copies in one and in two blocks, and the same records once more by a second enricher."""
    world = World()
    _write(world, "nsncn")
    for raw_offset in (2, 3, 4):
        world.write(raw_offset)
    _write(world, "scnrrn")
    return world


def open_plan() -> World:
    """The former owner planned a block and died before storing it."""
    world = _stored("nnn")
    _write(world, "nnnn")
    former = Process(world, fetch=3)
    former.go_to("insert", answered=False)
    former.crash()
    return world


def group_lost() -> World:
    """Rows are stored, and the group has forgotten them."""
    world = _stored("nnsn")
    world.committed = None
    _write(world, "ncn")
    return world


def stale_plan() -> World:
    """The group has an older position than the table."""
    world = _stored("nnn")
    before = world.committed
    _write(world, "nn")
    Process(world, fetch=1).go_to(IDLE, answered=True)
    world.committed = before
    _write(world, "n")
    return world


def foreign_commit() -> World:
    """An operator has set the group's offset by hand: without a plan, and behind the table."""
    world = _stored("nnnn")
    world.committed = (1, "")
    _write(world, "nn")
    return world


def part_lost() -> World:
    """The table has lost its newest part since the group committed it."""
    world = _stored("nnn")
    _write(world, "nn")
    Process(world).go_to(IDLE, answered=True)
    world.parts.pop()
    _write(world, "n")
    return world


def token_without_part() -> World:
    """ClickHouse remembers the tokens of rows that it does not have."""
    world = _stored("nnn")
    _write(world, "nnn")
    world.tokens |= {"s1-0-3-4": world.now_s, "s1-0-5-5": world.now_s, "s1-0-3-4#1": world.now_s}
    return world


def unbuildable_plan() -> World:
    """The group has a plan whose records are not in Kafka as they were."""
    world = _stored("nnn")
    world.committed = (3, encode_plan(Plan(3, 4, 2, 9)))
    _write(world, "nnn")
    return world


def poison() -> World:
    """Rows that ClickHouse refuses, alone and side by side."""
    world = World()
    _write(world, "npnppns")
    return world


def odd_rows() -> World:
    """Rows that ClickHouse refuses with an error of no known class."""
    world = World()
    _write(world, "nonns")
    return world


def odd_errors() -> World:
    """ClickHouse answers with an error of no known class, again and again, and then no longer."""
    world = World(odd_errors=9)
    _write(world, "nn")
    return world


def odd_moment() -> World:
    """It is over just before the rows would be held to be at fault."""
    world = World(odd_errors=8)
    _write(world, "nn")
    return world


SCENARIOS: Final[dict[str, Callable[[], World]]] = {
    each.__name__: each
    for each in (
        ordinary,
        open_plan,
        group_lost,
        stale_plan,
        foreign_commit,
        part_lost,
        token_without_part,
        unbuildable_plan,
        poison,
        odd_rows,
        odd_errors,
        odd_moment,
    )
}


# --- running ----------------------------------------------------------------------------------------------------------


def begin(scenario: str, *, token_first: bool) -> World:
    """The world of a scenario; the server writes the token first, or the part."""
    world = SCENARIOS[scenario]()
    world.token_first = token_first
    return world


def is_stored(world: World) -> bool:
    """Whether the table has got to the last record."""
    return world.highest() == len(world.written) - 1


def operations(world: World, process: Process) -> list[str]:
    """Let an owner work alone until all is stored and committed; the operations that it needed, in order."""
    names = []
    for _ in range(STEPS_MAX):
        if process.pending is None or (is_stored(world) and process.is_idle):
            return names
        names.append(process.pending.name)
        _one(process)
    raise AssertionError(f"the owner stands still at {process.pending}")


def _one(process: Process) -> None:
    """One operation, effect and answer."""
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
        case Ending.SERVER_RESTARTS | Ending.PART_LOST | Ending.PART_AND_TOKEN_LOST:
            world.server_starts += 1
            process.disconnect()
            if ending is not Ending.SERVER_RESTARTS and len(world.parts) > 1:
                lost = world.parts.pop()
                if ending is Ending.PART_AND_TOKEN_LOST:
                    world.forget_tokens_of(lost)
                _write(world, "n")  # a loss behind an idle owner is noticed with the next block
        case Ending.GROUP_LOST if world.parts:
            world.committed = None
        case _:
            pass


def finish(world: World, process: Process, ending: Ending) -> None:
    """Let everybody finish: the same owner where it can, else the next one; a sleeper wakes up when that one is done."""
    if ending in SLEEPS or ending is Ending.GROUP_LOST or process.pending is None:
        successor = Process(world, fetch=3)
        if ending is Ending.SLEEPS_LONG:
            successor.go_to("insert", answered=False)
            world.now_s += 100
            world.forget_old_tokens()
        else:
            operations(world, successor)
        for _ in range(40):  # side by side, until the sleeper has noticed
            _one(process)
            _one(successor)
        operations(world, successor)
    else:
        operations(world, process)


def assert_exact(world: World) -> None:
    """Each raw offset is one row; each id that was ever accepted is accepted once; poison is kept as malformed."""
    rows = {row["raw_offset"]: row for row in world.rows()}
    assert Counter(row["raw_offset"] for row in world.rows()) == Counter(range(len(world.written)))
    accepted = Counter(row["transaction_id"] for row in rows.values() if row["status"] == Status.ACCEPTED)
    wanted = {
        transaction_id
        for raw_offset, (transaction_id, _) in world.written.items()
        if raw_offset not in world.poison | world.odd | world.rejected
    }
    assert accepted == Counter(wanted)
    assert {raw for raw, row in rows.items() if row["status"] == Status.MALFORMED} == world.poison | world.odd
    assert sum(row["status"] == Status.REJECTED for row in rows.values()) == min(1, len(world.rejected))


def run_case(case: Case, *, token_first: bool, then: Case | None = None) -> None:
    """Run a scenario to a point, end it there, and let others finish. `then`: the next owner is interrupted as well."""
    world = begin(case.scenario, token_first=token_first)
    process = Process(world)
    for _ in range(case.point):
        _one(process)
    interrupt(world, process, case.ending)
    if then is not None:
        process = Process(world, fetch=3)
        for _ in range(then.point):
            _one(process)
        interrupt(world, process, then.ending)
        finish(world, process, then.ending)
    else:
        finish(world, process, case.ending)
    assert_exact(world)


def cases(scenario: str, *, token_first: bool) -> Iterator[Case]:
    """Every point of a scenario with every ending."""
    world = begin(scenario, token_first=token_first)
    for point, operation in enumerate(operations(world, Process(world))):
        for ending in Ending:
            yield Case(scenario, point, operation, ending)


def second_cases(case: Case, *, token_first: bool) -> Iterator[Case]:
    """Every point of the owner that follows a case, with both deaths."""
    world = begin(case.scenario, token_first=token_first)
    process = Process(world)
    for _ in range(case.point):
        _one(process)
    interrupt(world, process, case.ending)
    for point, operation in enumerate(operations(world, Process(world, fetch=3))):
        for ending in DEATHS:
            yield Case(case.scenario, point, operation, ending)
