"""Plans, the table's decision, waypoints: pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import OperatorError
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

PLAN = Plan(first=10, last=25, raw_before=99, raw_last=109)


def test_a_plan_is_written_as_agreed() -> None:
    """`v1:<first>-<last>:<raw before>:<raw last>`."""
    assert encode_plan(PLAN) == "v1:10-25:99:109"
    assert decode_plan("v1:0-0:-1:0") == Plan(0, 0, -1, 0)


@given(st.integers(0, 1 << 62), st.integers(0, 10**6), st.integers(-1, 1 << 62), st.integers(0, 10**6))
def test_decoding_gives_what_was_encoded(first: int, length: int, before: int, rows: int) -> None:
    """For every plan, the empty ones too."""
    plan = Plan(first, first + length - 1, before, before + rows)
    assert decode_plan(encode_plan(plan)) == plan


def test_no_metadata_is_no_plan() -> None:
    """A commit that carries nothing."""
    assert decode_plan("") is None


@pytest.mark.parametrize(
    "text", ["v2:1-2:3:4", "v1:1-2:3", "x", "v1:5-2:3:4", "v1:1-2:4:3", "v1:1-2:-2:4", "v1:1-2:3:4 "]
)
def test_metadata_of_others_is_never_none(text: str) -> None:
    """What cannot be read stops the partition instead of counting as no plan."""
    with pytest.raises(OperatorError):
        decode_plan(text)


@pytest.mark.parametrize(
    ("highest", "expected"),
    [
        (98, Rewind(98)),
        (-1, Rewind(-1)),
        (99, Insert()),
        (100, Impossible(100)),
        (108, Impossible(108)),
        (109, AlreadyThere()),
        (110, StalePlan(110)),
    ],
)
def test_the_table_decides(highest: int, expected: object) -> None:
    """Each side of each limit."""
    assert decide(PLAN, highest) == expected


def test_an_acknowledged_insert_without_rows_gets_another_token() -> None:
    """Only when the table stands right before the block; the attempt is part of the plan, so that all owners send it."""
    assert decide(PLAN, 99, is_acknowledged=True) == InsertAgain()
    assert decide(PLAN, 109, is_acknowledged=True) == AlreadyThere()
    again = PLAN.with_attempt(2)
    assert encode_plan(again) == "v1:10-25:99:109#2"
    assert decode_plan("v1:10-25:99:109#2") == again
    assert again.after() == PLAN.after()


def test_waypoints_know_the_latest_attempt() -> None:
    """The attempt noted last is the one to go on with; other plans are not touched."""
    waypoints = Waypoints()
    waypoints.note(PLAN)
    waypoints.note(PLAN.with_attempt(1))
    assert waypoints.registered(PLAN) == PLAN.with_attempt(1)
    assert waypoints.registered(Plan(10, 24, 99, 108)) == Plan(10, 24, 99, 108)
    assert waypoints.registered(PLAN.after()) == PLAN.after()


def test_an_empty_plan_only_compares() -> None:
    """It is never inserted: the table is there, further, or short."""
    empty = PLAN.after()
    assert empty == Plan(26, 25, 109, 109)
    assert decide(empty, 109) == AlreadyThere()
    assert decide(empty, 110) == StalePlan(110)
    assert decide(empty, 108) == Rewind(108)


def test_waypoints_give_the_lost_block_as_it_was() -> None:
    """The plan that begins right behind the table's end, among the latest ones."""
    waypoints = Waypoints(keep=2)
    plans = [Plan(n * 10, n * 10 + 9, n * 5 - 1, n * 5 + 4) for n in range(3)]
    for plan in plans:
        waypoints.note(plan)
    assert [waypoints.at(plan.raw_before) for plan in plans] == [None, plans[1], plans[2]]
    waypoints.note(plans[1])
    assert waypoints.at(plans[2].raw_before) is None
