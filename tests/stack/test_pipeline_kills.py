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
from tests.support.pipeline import Sending, audit_is_clean, eventually, is_whole

CLICKS = 6_000
RATE = 1_000
# The kill falls somewhere into the run, and the run goes on long after it.
KILL_S = (0.5, 3.0)


@pytest.fixture
def sending(full_stack: FullStack) -> Iterator[Sending]:
    """Clicks one by one, each tried once: an attempt without an answer is counted as unknown, not repeated."""
    sending = Sending(full_stack, "--count", str(CLICKS), "--rate", str(RATE), "--retries", "0")
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
    killed_at = time.monotonic()
    assert sending.is_running
    eventually(lambda: full_stack.ready["pids"][victim] != before, f"{victim} started again")
    eventually(lambda: is_whole(full_stack), "every part answers")
    whole_s = time.monotonic() - killed_at

    proof = sending.proof()
    assert proof["clicks"] == CLICKS
    assert proof["accepted"] > CLICKS // 3
    assert proof["accepted"] + sum(n for code, n in proof["by_code"].items() if code != "200") == CLICKS
    audit_is_clean(full_stack)
    figure(
        f"killed {moment_s:.2f} s into the load (seed {seed}), whole again after {whole_s:.1f} s; "
        f"{proof['accepted']:,} x 200, {proof['unknown']:,} unknown of which {proof['verify']['unanswered']:,} have a row"
    )
