"""What figures were made on, and what the kernel says about processes: processor time, memory, cores."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARIES = ("aiokafka", "uvicorn", "uvloop", "httptools", "orjson", "chdb-core", "clickhouse-connect", "ua-parser")
QUIET_LOAD_MAX = 0.7
"""Load average above which something else had a part of the machine just before the run."""
SERVER_CORE, LOAD_CORE = "0", "1"
ALL_CORES = ",".join(map(str, sorted(os.sched_getaffinity(0)))) if hasattr(os, "sched_getaffinity") else "0"


def facts(*, is_quick: bool) -> list[str]:
    """One fact a line."""
    cpu = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.*)$", cpu.read_text(), re.MULTILINE) if cpu.exists() else []
    lock = (ROOT / "clickledger/stack/kafka.lock").read_text(encoding="utf-8")
    kafka = re.search(r"org\.apache\.kafka:kafka_2\.13:(\S+)", lock)
    load = os.getloadavg()
    busy = ["**other work ran on the machine: the figures are low, the ratios rough; run it on a quiet one**"]
    return [
        f"last run {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by `make bench{' QUICK=1' if is_quick else ''}`, {_commit()}",
        f"machine: {os.cpu_count()} cores, {models[0] if models else platform.machine()}, {_memory_gb():.0f} GB of memory",
        f"system: {platform.system()} {platform.release()}, load average before the run {load[0]:.1f}",
        f"Python {platform.python_version()}, Apache Kafka {kafka[1] if kafka else '?'}, {_wrk_version()}",
        ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        *(busy if load[0] > QUIET_LOAD_MAX else []),
    ]


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return f"commit {said}" if said else "not from a checkout"


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _wrk_version() -> str:
    said = subprocess.run([str(shutil.which("wrk")), "-v"], capture_output=True, text=True, check=False).stdout
    return " ".join(said.split()[:2])


def cpu_seconds(pids: int | Iterable[int]) -> float:
    """Processor time of processes so far, all threads; one that is gone counts as 0. Linux only, elsewhere 0."""
    return sum(map(_cpu_seconds, [pids] if isinstance(pids, int) else pids))


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss_mb(pid: int) -> float:
    """Memory of a process, shared pages counted in shares."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def rss_mb(pid: int | str, *, peak: bool = False) -> float:
    """Resident memory of a process, `self` is this one; `peak`: the greatest so far."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(rf"^{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def pin(pid: int, cores: str) -> None:
    """Keep all threads of a running process on these cores (`0`, `0,1`), and what it starts later."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), set(map(int, cores.split(","))))
