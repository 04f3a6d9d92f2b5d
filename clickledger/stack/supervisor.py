"""Child processes that are kept running: started, watched, restarted with back-off, stopped within a bound.

Theory of operation: each `Service` has one task. It spawns the process in a process group of its own, tells the guard,
copies the process's lines to the terminal, waits for its end, and then starts it again after a pause, until it is told
to stop. A pause doubles with each death and begins anew after a run that lasted long enough to count as healthy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from clickledger.stack.guard import Guard
from clickledger.stack.output import Output
from shared.errors import OperatorError, TransientError

_BACKOFF_SECONDS_FIRST = 0.25
_BACKOFF_SECONDS_MAX = 10.0
_HEALTHY_SECONDS = 30.0
_READY_POLL_SECONDS = 0.1
_KILLED_SECONDS_MAX = 5.0
_STOP_SECONDS_MIN = 0.5
_LINE_BYTES_MAX = 1 << 20
_LAST_LINES_SECONDS_MAX = 1.0

# Deaths in a row before the first readiness after which starting is given up: a bad setting does not heal by itself.
_DEATHS_BEFORE_READY_MAX = 5


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run. Secrets go into `env`, never into `command`, which every user of the machine can read."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    is_ready: Callable[[int], Awaitable[bool]]  # asked with the process id until it says yes


def backoff_seconds(deaths: int) -> float:
    """Pause before the next start after `deaths` deaths in a row (from 1): 0.25, 0.5, 1 … 10 s."""
    return min(_BACKOFF_SECONDS_MAX, _BACKOFF_SECONDS_FIRST * 2.0 ** min(deaths - 1, 16))


def describe_exit(status: int) -> str:
    """A process's end in words: `exit status 1`, `killed by SIGKILL`."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


class Service:
    """One kept process."""

    def __init__(self, spec: Spec, guard: Guard, output: Output, on_pid: Callable[[], None]) -> None:
        """`on_pid` is called whenever a new process has been spawned."""
        self.spec = spec
        self.pid: int | None = None
        self._guard, self._output, self._on_pid = guard, output, on_pid
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._deaths = 0
        self._was_ready = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to keep the process running."""
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.spec.name}")

    async def wait_ready(self, seconds_max: float) -> None:
        """Wait until it answers. Raises OperatorError when it keeps dying, TransientError when it takes too long."""
        deadline = time.monotonic() + seconds_max
        while not await self._answers():
            if self._task and self._task.done():
                self._task.result()
            if time.monotonic() > deadline:
                raise TransientError(f"{self.spec.name} did not become ready within {seconds_max:.0f} s")
            await asyncio.sleep(_READY_POLL_SECONDS)
        self._was_ready = True

    async def _answers(self) -> bool:
        return self.pid is not None and await self.spec.is_ready(self.pid)

    async def stop(self, seconds_max: float) -> None:
        """SIGTERM, after `seconds_max` (0.5 at least) SIGKILL, to the whole process group; no restart."""
        seconds_max = max(_STOP_SECONDS_MIN, seconds_max)
        self._stopping.set()
        if self._process is not None and self._process.is_alive:
            self._process.signal_group(signal.SIGTERM)
        if self._task is None:
            return
        done, _ = await asyncio.wait([self._task], timeout=seconds_max)
        if not done:
            self._output.say(f"{self.spec.name} did not stop within {seconds_max:.1f} s: killing it")
            self.kill()
            await asyncio.wait([self._task], timeout=_KILLED_SECONDS_MAX)

    def kill(self) -> None:
        """SIGKILL to the whole process group; no restart."""
        self._stopping.set()
        if self._process is not None and self._process.is_alive:
            self._process.signal_group(signal.SIGKILL)

    async def _keep(self) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            end = await self._run_once()
            if self._stopping.is_set():
                return
            self._deaths = 1 if time.monotonic() - started > _HEALTHY_SECONDS else self._deaths + 1
            if not self._was_ready and self._deaths >= _DEATHS_BEFORE_READY_MAX:
                raise OperatorError(f"{self.spec.name} died {self._deaths} times while starting: see its lines above")
            pause = backoff_seconds(self._deaths)
            self._output.say(f"{self.spec.name} died ({end}): starting it again in {pause:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _run_once(self) -> str:
        """One life of the process; how it ended."""
        try:
            process = await spawn(self.spec, self._output)
        except OSError as exc:  # no memory or no process to be had: try again like after a death
            return str(exc)
        self._guard.add(process.pid)
        self._process, self.pid = process, process.pid
        self._on_pid()
        if self._stopping.is_set():  # told to stop while the process was being made
            process.signal_group(signal.SIGTERM)
        try:
            return describe_exit(await process.wait())
        finally:
            self._guard.remove(process.pid)


class Process(asyncio.SubprocessProtocol):
    """One child that leads its own group, its lines printed as they come.

    Not asyncio's own `Process`: its `wait` also waits for the pipe, which a worker of a killed parent keeps open.
    """

    def __init__(self, name: str, output: Output) -> None:
        self._name, self._output = name, output
        self._exited = asyncio.Event()
        self._closed = asyncio.Event()
        self._transport: asyncio.SubprocessTransport | None = None
        self._line = bytearray()
        self.pid = 0

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return not self._exited.is_set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process runs."""
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport, self.pid = transport, transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - output and errors come as one
        """Print whole lines; a line beyond the bound is printed in pieces."""
        self._line += data
        *lines, rest = self._line.split(b"\n")
        if len(rest) > _LINE_BYTES_MAX:
            lines, rest = [*lines, rest], bytearray()
        self._line = rest
        for line in lines:
            self._print(line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        """Nobody can write any more."""
        if self._line:
            self._print(self._line)
            self._line = bytearray()
        self._closed.set()

    def process_exited(self) -> None:
        """The process itself has ended; workers may still live."""
        self._exited.set()

    async def wait(self) -> int:
        """Wait for the end, end what is left of the group, and give the exit status (negative: the signal)."""
        await self._exited.wait()
        self.signal_group(signal.SIGKILL)  # workers that outlived their parent would hold its ports
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), _LAST_LINES_SECONDS_MAX)
        assert self._transport is not None
        status = self._transport.get_returncode()
        self._transport.close()
        return -signal.SIGKILL if status is None else status

    def signal_group(self, number: int) -> None:
        """Send a signal to the process and its workers."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _print(self, line: bytes | bytearray) -> None:
        self._output.line(self._name, line.decode("utf-8", "replace").rstrip())


async def spawn(spec: Spec, output: Output) -> Process:
    """Start a process that leads its own group, so that Ctrl-C in the terminal reaches the supervisor alone."""
    _transport, process = await asyncio.get_running_loop().subprocess_exec(
        lambda: Process(spec.name, output),
        *spec.command,
        env=dict(spec.env),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    return process


def python_command(*arguments: str) -> list[str]:
    """The same interpreter with these arguments, unbuffered."""
    return [sys.executable, "-u", *arguments]
