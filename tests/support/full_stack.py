"""`clickledger up` as a user starts it, and single services with an environment of the test's own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clickledger.stack.guard import Guard
from shared import health_files
from tests.support.clickhouse import http_ok
from tests.support.processes import Child, wait_until

_READY_SECONDS_MAX = 180.0
_QUICK = {"CLICKLEDGER_API_SPOOL_HEARD_MS": "500"}
"""`audit --wait` waits for the next sign of life of each spool, of which there is one in 3 s else."""

_ON_THE_FULL_STACK = frozenset(
    {
        "test_clients.py",
        "test_commands.py",
        "test_fuzz_reports.py",
        "test_isolation.py",
        "test_pipeline.py",
        "test_pipeline_gap.py",
        "test_pipeline_members.py",
        "test_poison.py",
        "test_postman.py",
        "test_readme.py",
        "test_reprocess.py",
        "test_spool_pipeline.py",
        "test_up.py",
    }
)
"""Files that ask for `full_stack`. They run one after the other in one process: an idle stack takes a quarter of a
processor, so it is started once in a run and ends with the last of them."""


def clean_env() -> dict[str, str]:
    """This process's environment without any of our settings."""
    return {name: text for name, text in os.environ.items() if not name.startswith("CLICKLEDGER_")}


def is_on_full_stack(path: Path) -> bool:
    """Whether the tests of this file share the one stack."""
    return path.parent.name == "stack" and path.name in _ON_THE_FULL_STACK


class FullStack:
    """A running `clickledger up` on free ports; `stop()` ends it, `start()` goes on from the same data."""

    def __init__(self, guard: Guard, folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Start it and wait for its ready file. `arguments` are further options of `up`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data = folder / "data"
        self.ready_file = folder / "ready.json"
        self._guard, self._arguments = guard, arguments
        self._env = {**clean_env(), **_QUICK, **(env or {})}
        self.supervisor = self._spawn()
        self.wait_ready()

    @property
    def ready(self) -> dict[str, Any]:
        """The ready file's content now."""
        found: dict[str, Any] = json.loads(self.ready_file.read_text(encoding="utf-8"))
        return found

    def pids(self) -> list[int]:
        """Process ids of everything that works."""
        listed = (each if isinstance(each, list) else [each] for each in self.ready["pids"].values())
        return [pid for group in listed for pid in group]

    def start(self) -> None:
        """Start again on the same data and wait for the ready file."""
        self.supervisor = self._spawn()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until everything answers; fails with the stack's last lines."""
        wait_until(self.ready_file.exists, self.supervisor, "clickledger up", _READY_SECONDS_MAX)

    def stop(self) -> int:
        """SIGTERM; gives the exit status."""
        return self.supervisor.stop(60.0)

    def close(self) -> None:
        """End it at the end of a test."""
        if self.supervisor.alive:
            self.stop()

    def _spawn(self) -> Child:
        self.ready_file.unlink(missing_ok=True)
        command = [
            *(sys.executable, "-m", "clickledger", "up"),
            *("--data", str(self.data)),
            *("--port", "0"),
            *("--ready-file", str(self.ready_file)),
            *self._arguments,
        ]
        return Child(self._guard, command, self.folder / "up.log", self._env)


def spawn_service(guard: Guard, name: str, log: Path, env: Mapping[str, str]) -> Child:
    """Start `clickledger <name>` with these settings; it may not be ready yet."""
    return Child(guard, [sys.executable, "-m", "clickledger", name], log, {**clean_env(), **env})


def is_service_ready(name: str, child: Child, data: Path) -> bool:
    """Whether a service's health endpoint says ready."""
    port = health_files.read_port(data, name, child.pid)
    return port is not None and http_ok(port, "/readyz")


def start_service(guard: Guard, name: str, log: Path, env: Mapping[str, str]) -> Child:
    """Start `clickledger <name>` with these settings and wait until its health endpoint says ready."""
    child = spawn_service(guard, name, log, env)
    wait_until(lambda: is_service_ready(name, child, Path(env["CLICKLEDGER_DATA"])), child, name)
    return child
