"""`kill -9` of each part of the running stack while clicks come in: every 200 is still exactly one row."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.figures import Figure
from tests.support.full_stack import FullStack
from tests.support.pipeline import Sending, audit_is_clean, eventually, is_whole, now_ms, until_partitions_move

RATE = "1000"
# The kill falls somewhere into the run; the run goes on until clicks of all partitions are stored again.
KILL_S = (0.2, 2.0)
WHOLE_S_MAX = 60.0


@pytest.fixture
def sending(full_stack: FullStack) -> Iterator[Sending]:
    """Clicks one by one, each tried once: an attempt without an answer is counted as unknown, not repeated."""
    sending = Sending(full_stack, "--count", "0", "--rate", RATE, "--retries", "0")
    yield sending
    sending.close()


@pytest.mark.parametrize("victim", ["enricher", "sink", "api", "broker", "clickhouse"])
def test_a_part_is_killed_under_load(full_stack: FullStack, sending: Sending, victim: str, figure: Figure) -> None:
    """The supervisor starts it again; each 200 has its one row; unknown outcomes left at most one row each."""
    sending.wait_for_rows()
    seed = random.randrange(1 << 32)
    moment_s = random.Random(seed).uniform(*KILL_S)
    time.sleep(moment_s)
    before = full_stack.ready["pids"][victim]
    for pid in before if isinstance(before, list) else [before]:
        os.kill(pid, signal.SIGKILL)
    killed_ms = now_ms()
    eventually(lambda: full_stack.ready["pids"][victim] != before, f"{victim} started again", WHOLE_S_MAX)
    eventually(lambda: is_whole(full_stack), "every part answers", WHOLE_S_MAX)
    whole_ms = now_ms()
    until_partitions_move(full_stack, range(6), whole_ms, WHOLE_S_MAX)
    sending.stop()

    proof = sending.proof()
    assert sum(proof["by_code"].values()) == proof["clicks"]
    assert proof["accepted"] + proof["unknown"] == proof["clicks"]
    audit_is_clean(full_stack)
    figure(
        f"killed {moment_s:.2f} s into the load (seed {seed}), whole again after {(whole_ms - killed_ms) / 1000:.1f} s; "
        f"{proof['accepted']:,} x 200, {proof['unknown']:,} unknown of which {proof['verify']['unanswered']:,} have a row"
    )
