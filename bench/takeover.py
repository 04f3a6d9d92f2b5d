"""How long the partitions of an enricher or a sink that is killed with -9 stand still, until clicks taken since are rows."""

from __future__ import annotations

import time

from bench import open_loop, wrk
from bench.full import Full, full_stack
from bench.part import Recorder, main
from tests.support.api_service import CLICKS
from tests.support.pipeline import assignments, audit_is_clean, eventually, extra_service, now_ms, until_partitions_move

RATE = 300
SECONDS_MAX = 60.0


def repetition(full: Full, name: str, number: int) -> float:
    """A second process joins under load and is killed; seconds until each of its partitions has a row of a later click."""
    log = full.folder / f"{name}-{number}.log"
    child = extra_service(full.guard, full.stack, name, log)
    sending = open_loop.Driver(full.api_port, CLICKS, wrk.clicks(1_000), RATE, SECONDS_MAX, full.folder)
    try:
        eventually(lambda: any(assignments(child)), f"the second {name} owns partitions", SECONDS_MAX)
        owned = assignments(child)[-1]
        until_partitions_move(full.stack, owned, now_ms(), SECONDS_MAX)
        killed_ms = now_ms()
        child.kill()
        return until_partitions_move(full.stack, owned, killed_ms, SECONDS_MAX)
    finally:
        sending.close()
        child.kill()


def measure(recorder: Recorder) -> None:
    """Enricher and sink, in turn."""
    with full_stack() as full:
        for name in ("enricher", "sink"):
            with recorder.attempt(name):
                found = []
                for number in range(recorder.repetitions):
                    found.append(repetition(full, name, number))
                    time.sleep(1.0)
                recorder.figure(f"{name} killed: its partitions move", found)
        full.settle()
        audit_is_clean(full.stack)


if __name__ == "__main__":
    main("takeover", measure, __doc__)
