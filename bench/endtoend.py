"""Processor time that a click costs in each process of the whole local stack, from the request to the row.

Single clicks and batches come at a fixed rate; the time of each process is taken until the last row is stored, with what they do in
the background. The audit must be clean afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bench import open_loop, wrk
from bench.full import Full, full_stack
from bench.machine import cpu_seconds
from bench.part import Recorder, main
from bench.targets import PROCESSES
from tests.support.api_service import BATCH, CLICKS
from tests.support.pipeline import audit_is_clean

NAMES = {"API": "api", "broker": "broker", "enricher": "enricher", "sink": "sink", "ClickHouse": "clickhouse"}
BATCH_CLICKS = 100
MONTH_S = 30 * 86_400


class Way(NamedTuple):
    """One way of sending."""

    name: str
    path: str
    bodies: Sequence[str]
    clicks: int
    """of one request"""
    rate: float
    """requests a second"""


def repetition(full: Full, way: Way, seconds: float) -> dict[str, float]:
    """CPU-seconds a million clicks of each process."""
    rows = full.settle()
    before = {name: cpu_seconds(full.pid(process)) for name, process in NAMES.items()}
    held = open_loop.hold(full.api_port, way.path, way.bodies, way.rate, seconds, full.folder)
    if held.good != held.sent:
        raise RuntimeError(f"{held.sent - held.good} of {held.sent} answers are no 200")
    clicks = held.good * way.clicks
    if (stored := full.settle() - rows) != clicks:
        raise RuntimeError(f"{clicks} clicks were answered with 200, {stored} rows are stored")
    return {name: (cpu_seconds(full.pid(process)) - before[name]) / clicks * 1e6 for name, process in NAMES.items()}


def measure(recorder: Recorder) -> None:
    """Both ways."""
    lines = wrk.clicks(1_000, 50 * BATCH_CLICKS)
    many = ["\t".join(lines[n : n + BATCH_CLICKS]) for n in range(0, len(lines), BATCH_CLICKS)]
    ways = (
        Way("single", CLICKS, wrk.clicks(1_000), 1, 2_000),
        Way("batches of 100", BATCH, many, BATCH_CLICKS, 100),
    )
    with full_stack() as full:
        open_loop.hold(full.api_port, CLICKS, wrk.clicks(1_000), 1_000, 3.0, full.folder)
        for way in ways:
            with recorder.attempt(way.name):
                some = [repetition(full, way, recorder.scale(20.0, 5.0)) for _ in range(recorder.repetitions)]
                note = f"{way.rate * way.clicks:,.0f} clicks/s"
                for name in PROCESSES:
                    recorder.figure(f"{way.name}: {name}", [each[name] for each in some], note=note)
                total = [sum(each.values()) for each in some]
                recorder.figure(f"{way.name}: all", total)
                cores = [each / 1e6 * 1e9 / MONTH_S for each in total]
                recorder.figure(f"a billion clicks a month, {way.name}", cores, note="of the mean rate, 386 clicks/s")
        audit_is_clean(full.stack)


if __name__ == "__main__":
    main("endtoend", measure, __doc__)
