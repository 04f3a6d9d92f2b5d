"""`python -m bench`: every measurement, one after the other, printed and written to bench/RESULTS.md.

About four minutes; with QUICK=1 in the environment about two, with shorter and rougher measurements. Exit status 3: the
load generator `wrk` is missing; 1: a measurement failed (the others are still made, and RESULTS.md is left as it was).
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("RESULTS.md")
LIBRARIES = ("aiokafka", "uvicorn", "uvloop", "httptools", "orjson", "chdb-core", "clickhouse-connect", "ua-parser")
MISSING = 3
QUIET_LOAD_MAX = 0.7
"""Load average above which something else had a part of the machine just before the run."""


class Part(NamedTuple):
    """One measurement: a module of this package."""

    module: str
    title: str
    arguments: tuple[str, ...]
    quick_arguments: tuple[str, ...]
    seconds_max: float


PARTS = (
    Part("api", "API: requests per second", ("--seconds", "4"), ("--seconds", "2"), 150),
    Part("enricher", "Enricher: events per second and core", ("--seconds", "2"), ("--seconds", "0.7"), 60),
    Part("sink", "Sink: rows per second on a backlog", ("--rows", "240000"), ("--rows", "120000"), 180),
    Part(
        "freshness",
        "Freshness: from the 200 to a visible row, at 500 clicks a second",
        ("--seconds", "40"),
        ("--seconds", "12"),
        180,
    ),
)


def machine() -> list[str]:
    """What the figures were made on, one fact a line."""
    cpu = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.*)$", cpu.read_text(), re.MULTILINE) if cpu.exists() else []
    lock = (ROOT / "clickledger/stack/kafka.lock").read_text(encoding="utf-8")
    kafka = re.search(r"org\.apache\.kafka:kafka_2\.13:(\S+)", lock)
    found = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    load = os.getloadavg()
    busy = ["**other work ran on the machine: the figures are low, the ratios rough; run it on a quiet one**"]
    return [
        f"made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by `{'QUICK=1 ' if is_quick() else ''}make bench`",
        f"machine: {os.cpu_count()} cores, {models[0] if models else platform.processor() or platform.machine()}",
        f"system: {platform.system()} {platform.release()}, load average before the run {load[0]:.1f}",
        f"Python {platform.python_version()}, Apache Kafka {kafka[1] if kafka else '?'}, {wrk_version()}",
        found,
        *(busy if load[0] > QUIET_LOAD_MAX else []),
    ]


def wrk_version() -> str:
    """The load generator's own words."""
    said = subprocess.run([str(shutil.which("wrk")), "-v"], capture_output=True, text=True, check=False).stdout
    return " ".join(said.split()[:2])


def is_quick() -> bool:
    """Whether a shorter, rougher run was asked for."""
    return bool(os.environ.get("QUICK"))


def run(part: Part) -> tuple[str, bool]:
    """Run one measurement, shown as it goes; what it printed, and whether it succeeded within its time."""
    arguments = part.quick_arguments if is_quick() else part.arguments
    command = [sys.executable, "-u", "-m", f"bench.{part.module}", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(part.seconds_max, process.kill)  # its guard ends what it had started
    timer.start()
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    is_good = process.wait() == 0
    if not timer.is_alive() and not is_good:
        print(f"stopped after {part.seconds_max:.0f} s")
    timer.cancel()
    return "\n".join(lines).strip("\n"), is_good


def page(header: list[str], sections: list[tuple[str, str]]) -> str:
    """The text of RESULTS.md."""
    facts = "\n".join(f"- {line}" for line in header)
    tables = "\n".join(f"## {title}\n\n```\n{text}\n```\n" for title, text in sections)
    return f"# Figures\n\nHow to read them: [README.md](README.md).\n\n{facts}\n\n{tables}"


def main() -> int:
    """Measure everything; the exit status."""
    if shutil.which("wrk") is None:
        print("bench needs the load generator wrk: install the Debian package `wrk` (apt-get install wrk)")
        return MISSING
    header = machine()
    print("\n".join(header))
    sections, failed = [], []
    for part in PARTS:
        print(f"\n{part.title}", flush=True)
        text, is_good = run(part)
        sections.append((part.title, text))
        if not is_good:
            failed.append(part.module)
    if failed:
        print(f"failed: {', '.join(failed)}; {RESULTS.name} is left as it was")
        return 1
    RESULTS.write_text(page(header, sections), encoding="utf-8")
    print(f"written to {RESULTS.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
