"""The file of results, docs/torture.json: one entry for each run of the command, its rounds appended as they end."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import orjson

from tests.torture.rounds import Round
from tests.torture.world import ROOT

RESULTS: Final = ROOT / "docs/torture.json"
LIBRARIES: Final = ("aiokafka", "chdb-core", "clickhouse-connect", "uvicorn", "uvloop")


def this_machine() -> dict[str, Any]:
    """What a run was made on."""
    cpu = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.*)$", cpu.read_text(), re.MULTILINE) if cpu.exists() else []
    return {
        "cores": os.cpu_count(),
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 1),
    }


def versions() -> dict[str, str]:
    """What was run."""
    lock = (ROOT / "clickledger/stack/kafka.lock").read_text(encoding="utf-8")
    kafka = re.search(r"org\.apache\.kafka:kafka_2\.13:(\S+)", lock)
    return {
        "python": platform.python_version(),
        "kafka": kafka[1] if kafka else "?",
        **{name: version(name) for name in LIBRARIES},
    }


def commit() -> str:
    """The checkout's commit, with `+` when files differ from it."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{RESULTS.relative_to(ROOT)}")
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        return "unknown"
    return head + ("+" if changed else "")


def _git(*arguments: str) -> str:
    command = [shutil.which("git") or "git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def read(path: Path = RESULTS) -> list[dict[str, Any]]:
    """All runs so far, oldest first."""
    if not path.exists():
        return []
    found: list[dict[str, Any]] = orjson.loads(path.read_bytes())["runs"]
    return found


class Recorder:
    """Appends one run's rounds; several runs may write at the same time."""

    def __init__(self, command: str, seed: str, path: Path = RESULTS) -> None:
        self._path = path
        self._run: dict[str, Any] = {
            "command": command,
            "seed": seed,
            "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "commit": commit(),
            "machine": this_machine(),
            "versions": versions(),
            "rounds": [],
        }

    def add(self, made: Round) -> None:
        """Append a round to the file at once: what was measured must survive whatever comes next."""
        self._run["rounds"].append(made.as_record())
        self._write()

    def add_late(self, problems: Sequence[str]) -> None:
        """Note what was found when the rounds were compared once more."""
        if problems:
            self._run["late"] = list(problems)
            self._write()

    def _write(self) -> None:
        with self._locked() as runs:
            place = next((n for n, each in enumerate(runs) if _is_same(each, self._run)), len(runs))
            runs[place : place + 1] = [self._run]

    @contextmanager
    def _locked(self) -> Iterator[list[dict[str, Any]]]:
        handle = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            runs = read(self._path)
            yield runs
            scratch = self._path.with_suffix(".json.tmp")
            scratch.write_text(encode(runs), encoding="utf-8")
            scratch.replace(self._path)
        finally:
            os.close(handle)


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return (one["at"], one["seed"], one["command"]) == (other["at"], other["seed"], other["command"])


def encode(runs: list[dict[str, Any]]) -> str:
    """The file's text: one line for each round, so that two versions can be compared."""
    blocks = []
    for run in runs:
        head = orjson.dumps({name: each for name, each in run.items() if name != "rounds"}).decode()
        rounds = ",\n".join(f"  {orjson.dumps(each).decode()}" for each in run["rounds"])
        blocks.append(f'{head[:-1]},"rounds":[\n{rounds}\n]}}')
    return '{"runs":[\n' + ",\n".join(blocks) + "\n]}\n"
