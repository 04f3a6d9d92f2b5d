"""Ends the stack's children when the supervisor dies without a word (kill -9, out of memory).

Theory of operation: one small guard process reads a pipe whose only writer is the supervisor. The supervisor writes
`+<pid>` for each child it starts and `-<pid>` for each child it has reaped. When the supervisor dies, for whatever
reason, the kernel closes the pipe, the guard reads end-of-file, asks every process group that is left to end, and kills
what still lives two seconds later. Works alike on Linux and macOS; the Linux-only parent-death signal was rejected for
that reason. The guard inherits the data folder's lock, so the next `up` cannot start while old children still live.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import IO

# Together below the 5 s that a dead supervisor's children may live; services drain in the first part.
TERM_SECONDS = 2.0
KILL_SECONDS = 1.0
_POLL_SECONDS = 0.05


class Guard:
    """The supervisor's end: tells the guard process which children live."""

    def __init__(self, *, lock_fd: int | None = None) -> None:
        """Start the guard process; `lock_fd` is kept open by it until it has ended the children."""
        self._lock_fd = lock_fd
        self._pids: set[int] = set()
        self._process = self._spawn()

    @property
    def pid(self) -> int:
        """The guard's own process id."""
        return self._process.pid

    def add(self, pid: int) -> None:
        """Name a child that leads its own process group."""
        self._pids.add(pid)
        self._tell(f"+{pid}\n")

    def remove(self, pid: int) -> None:
        """A child was reaped: its number may belong to a stranger from now on."""
        self._pids.discard(pid)
        self._tell(f"-{pid}\n")

    def close(self) -> None:
        """All children were reaped: let the guard end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "clickledger.stack.guard"],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal is for the supervisor only
            pass_fds=() if self._lock_fd is None else (self._lock_fd,),
            bufsize=0,
        )

    def _tell(self, line: str) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(line.encode())
        except BrokenPipeError:  # the guard itself was killed: a new one learns every child anew
            pipe.close()
            self._process.wait()
            self._process = self._spawn()
            for pid in self._pids:
                self._tell(f"+{pid}\n")


def follow(lines: Iterable[str]) -> set[int]:
    """Children alive after the last line: `+pid` adds, `-pid` removes. A line cut off by the death is left out."""
    alive: set[int] = set()
    for line in lines:
        if not line.endswith("\n"):
            break
        pid = int(line[1:])
        if line.startswith("+"):
            alive.add(pid)
        else:
            alive.discard(pid)
    return alive


def end_groups(pids: set[int]) -> None:
    """Ask each process group to end, then kill the rest; returns within TERM_SECONDS + KILL_SECONDS."""
    alive = _signal_all(pids, signal.SIGTERM)
    alive = _wait_gone(alive, TERM_SECONDS)
    alive = _signal_all(alive, signal.SIGKILL)
    _wait_gone(alive, KILL_SECONDS)


def _signal_all(pids: set[int], number: int) -> set[int]:
    return {pid for pid in pids if _signal_group(pid, number)}


def _wait_gone(pids: set[int], seconds_max: float) -> set[int]:
    deadline = time.monotonic() + seconds_max
    while pids and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        pids = _signal_all(pids, 0)
    return pids


def _signal_group(pid: int, number: int) -> bool:
    """Send to the group led by `pid`; False when nobody is left in it."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        return False
    return True


def _main(pipe: IO[str]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends by end-of-file only, after its work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_groups(follow(pipe))


if __name__ == "__main__":
    _main(sys.stdin)
