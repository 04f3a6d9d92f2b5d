"""The parts in the order in which they run, and how one runs: in a process of its own, within its time, leaving nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from bench.report import read_lines
from bench.rows import Row

ROOT = Path(__file__).parents[1]
TOTAL_S, QUICK_TOTAL_S = 55 * 60, 330
"""What has not ended by then is cut off or left out, so that all of it ends within an hour, a quick run within six minutes."""
ENDING_S = 20.0
"""For a part that is told to stop: its guard ends what it had started within three."""
DISK_BYTES_MIN = 12 << 30
"""Free space that a part needs to begin: the largest takes some 8 GB for its time."""


class Part(NamedTuple):
    """One module of this package."""

    name: str
    title: str
    seconds_max: float
    quick_seconds_max: float


PARTS = (
    Part("api", "API: single clicks", 540, 75),
    Part("batch", "API: batches, workers, memory", 420, 75),
    Part("enricher", "Enricher: events per second and core", 420, 60),
    Part("sink", "Sink: rows per second on a backlog", 420, 60),
    Part("freshness", "Freshness at 1,000 clicks/s", 300, 75),
    Part("endtoend", "End to end: processor time of each process", 420, 75),
    Part("growth", "Growth: ten times the links, rows, partitions", 900, 90),
    Part("columns", "Disk", 180, 30),
    Part("start", "Start and restart", 300, 75),
    Part("backlog", "Backlog", 480, 60),
    Part("takeover", "Takeover after kill -9", 300, 75),
    Part("kafka", "Kafka's own limit with aiokafka", 120, 30),
)


class Ended(NamedTuple):
    """How a part ended."""

    rows: list[Row]
    is_broken: bool
    reason: str
    """of rows that it did not make"""


def run(part: Part, *, is_quick: bool, seconds_max: float) -> Ended:
    """Run a part, shown as it goes, for at most `seconds_max`, or its own bound."""
    own_s = part.quick_seconds_max if is_quick else part.seconds_max
    with tempfile.TemporaryDirectory(prefix="clickledger-bench-") as scratch:
        rows_to = Path(scratch) / "rows.jsonl"
        free = os.statvfs(scratch)
        if free.f_bavail * free.f_frsize < DISK_BYTES_MIN:
            return Ended([], is_broken=False, reason=f"less than {DISK_BYTES_MIN >> 30} GiB free on the disk")
        command = [sys.executable, "-u", "-m", f"bench.{part.name}", "--rows-to", str(rows_to)]
        status = _run([*command, *(["--quick"] if is_quick else [])], scratch, min(own_s, seconds_max))
        rows = read_lines(rows_to)
    if status is not None:
        return Ended(rows, is_broken=status != 0, reason="the measurement broke" if status else "")
    if own_s > seconds_max:
        return Ended(rows, is_broken=False, reason="no time left")
    return Ended(rows, is_broken=True, reason=f"stopped after {own_s:.0f} s")


def _run(command: list[str], scratch: str, seconds_max: float) -> int | None:
    """The exit status; None when it was stopped. All that it started is gone afterwards."""
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TMPDIR": scratch}, start_new_session=True)
    timed_out = threading.Event()

    def stop() -> None:
        timed_out.set()
        process.send_signal(signal.SIGINT)  # its `finally` clauses run; then its guard ends what is left

    timer = threading.Timer(seconds_max, stop)
    timer.start()
    try:
        status = process.wait(seconds_max + ENDING_S)
    except subprocess.TimeoutExpired:
        status = -signal.SIGKILL
    finally:
        timer.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
            time.sleep(4)  # the guard of a killed process needs three seconds
    return None if timed_out.is_set() else status
