"""Child processes of a test run: ended with their test, and also when the test run itself is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from clickledger.stack.guard import Guard

_POLL_SECONDS = 0.05
WAIT_S = 120.0
"""For anything that another process has to do. A bound against hanging, never a promise: a busy machine may need it."""
STOPPED_S_MAX = 60.0
"""After SIGTERM; then SIGKILL follows, and the status tells."""


class Child:
    """One child process in its own process group, its output in a file."""

    def __init__(self, guard: Guard, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        """Start it now."""
        self._guard = guard
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True
            )
        guard.add(self.process.pid)

    @property
    def pid(self) -> int:
        """Process id, also that of its group."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def stop(self, seconds_max: float = STOPPED_S_MAX) -> int:
        """SIGTERM, then SIGKILL for the whole group when it takes too long; gives the exit status."""
        return self._end(signal.SIGTERM, seconds_max)

    def kill(self) -> int:
        """SIGKILL for the whole group, as when a machine dies."""
        return self._end(signal.SIGKILL, 20.0)

    def _end(self, number: int, seconds_max: float) -> int:
        """Send the signal and wait; calling it for an ended process is harmless."""
        if self.alive:
            os.killpg(self.pid, number)
        try:
            status = self.process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            status = self.process.wait()
        self._guard.remove(self.pid)
        return status

    def tail(self, lines: int = 20) -> str:
        """The last lines it printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def wait_until(ready: Callable[[], bool], child: Child, what: str, seconds_max: float = WAIT_S) -> None:
    """Wait for `ready()`; fails with the child's last words when it ends or takes too long."""
    deadline = time.monotonic() + seconds_max
    while not ready():
        if not child.alive:
            raise RuntimeError(f"{what} ended with status {child.process.returncode}:\n{child.tail()}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} was not ready within {seconds_max} s:\n{child.tail()}")
        time.sleep(_POLL_SECONDS)


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something listens on the port."""
    try:
        socket.create_connection((host, port), timeout=10.0).close()
    except OSError:
        return False
    return True
