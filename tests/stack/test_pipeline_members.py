"""Two enrichers and two sinks: the second ones join, leave, freeze and die while clicks come in."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from clickledger.stack.guard import Guard
from tests.support.figures import Figure
from tests.support.full_stack import FullStack
from tests.support.pipeline import (
    Sending,
    assignments,
    audit_is_clean,
    eventually,
    extra_service,
    now_ms,
    until_partitions_move,
)
from tests.support.processes import Child

PARTITIONS = range(6)
SESSION_S = 6.0

StartSecond = Callable[[str], Child]


@pytest.fixture
def sending(full_stack: FullStack) -> Iterator[Sending]:
    """Clicks until the test stops it."""
    sending = Sending(full_stack, "--count", "0", "--rate", "300", "--batch", "6", "--duration", "600")
    yield sending
    sending.close()


@pytest.fixture
def start_second(guard: Guard, full_stack: FullStack, tmp_path: Path) -> Iterator[StartSecond]:
    """Start a second process of a service and wait until it owns partitions."""
    started: list[Child] = []

    def start(name: str) -> Child:
        child = extra_service(guard, full_stack, name, tmp_path / f"{name}-{len(started)}.log")
        started.append(child)
        eventually(lambda: any(assignments(child)), f"the second {name} owns partitions")
        return child

    yield start
    for child in started:
        child.kill()


def owned(*members: Child) -> set[int]:
    """The partitions that these members own now."""
    return {partition for member in members for partition in assignments(member)[-1]}


def is_assigned_again(member: Child, before: int) -> bool:
    """Whether a member got partitions in an assignment after the first `before`."""
    return len(assignments(member)) > before and bool(owned(member))


def test_members_join_leave_freeze_and_die_under_load(
    full_stack: FullStack, sending: Sending, start_second: StartSecond, figure: Figure
) -> None:
    """Whatever the second members do, every partition goes on, and each 200 is one row."""
    sending.wait_for_rows()
    members = [start_second("enricher"), start_second("sink")]
    eventually(lambda: all(0 < len(owned(member)) < len(PARTITIONS) for member in members), "each has its share")
    joined_s = until_partitions_move(full_stack, PARTITIONS, now_ms())

    assert [member.stop() for member in members] == [0, 0]
    left_s = until_partitions_move(full_stack, PARTITIONS, now_ms())

    members = [start_second("enricher"), start_second("sink")]
    counts = [len(assignments(member)) for member in members]
    frozen_ms = now_ms()
    for member in members:
        os.kill(member.pid, signal.SIGSTOP)
    frozen_s = until_partitions_move(full_stack, PARTITIONS, frozen_ms)
    time.sleep(max(0.0, SESSION_S + 2 - frozen_s))
    for member in members:
        os.kill(member.pid, signal.SIGCONT)
    for member, count in zip(members, counts, strict=True):
        eventually(partial(is_assigned_again, member, count), "a woken member works again")
    woken_s = until_partitions_move(full_stack, PARTITIONS, now_ms())

    dead = owned(*members)
    killed_ms = now_ms()
    for member in members:
        member.kill()
    moved_s = until_partitions_move(full_stack, dead, killed_ms)

    sending.stop()
    proof = sending.proof()
    assert (proof["unknown"], proof["accepted"]) == (0, proof["clicks"])
    audit_is_clean(full_stack)
    figure(
        f"clicks stored again in all partitions: {joined_s:.1f} s after members joined, {left_s:.1f} s after they left, "
        f"{frozen_s:.1f} s after they froze, {woken_s:.1f} s after they woke; in the partitions {sorted(dead)} of killed "
        f"members after {moved_s:.1f} s; {proof['accepted']:,} x 200"
    )
