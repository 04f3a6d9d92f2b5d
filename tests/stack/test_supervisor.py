"""Keeping processes running, with tiny stand-in processes."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from clickledger.stack.guard import Guard, follow
from clickledger.stack.output import Output
from clickledger.stack.supervisor import Service, Spec, backoff_seconds, describe_exit
from shared.errors import OperatorError, TransientError
from tests.support.processes import WAIT_S


async def ready_now(_pid: int) -> bool:
    """Ready as soon as there is a process."""
    return True


async def never_ready(_pid: int) -> bool:
    """A service that does not come up."""
    return False


class Room:
    """A guard, a terminal in memory, and the process ids that were announced."""

    def __init__(self) -> None:
        self.guard = Guard()
        self.stream = io.StringIO()
        self.output = Output(self.stream)
        self.announced: list[int] = []
        self.services: list[Service] = []

    def keep(self, code: str, *, is_ready: Callable[[int], Awaitable[bool]] = ready_now) -> Service:
        """Keep a small Python program running."""
        spec = Spec("toy", [sys.executable, "-u", "-c", code], dict(os.environ), is_ready)
        service = Service(spec, self.guard, self.output, lambda: self.announced.append(service.pid or 0))
        self.services.append(service)
        service.start()
        return service

    async def printed(self, text: str) -> None:
        """Wait until a line with `text` was printed."""
        async with asyncio.timeout(WAIT_S):
            while text not in self.stream.getvalue():
                await asyncio.sleep(0.02)


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    """A room whose processes end with the test."""
    room = Room()
    yield room
    for service in room.services:
        service.kill()
        await service.stop(5.0)
    room.output.close()
    room.guard.close()


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie that init has still to reap."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


FOREVER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)


def test_pauses_double_up_to_a_bound() -> None:
    """0.25 s after the first death, never more than 10 s."""
    assert [backoff_seconds(deaths) for deaths in (1, 2, 3, 4)] == [0.25, 0.5, 1.0, 2.0]
    assert backoff_seconds(1_000) == 10.0


def test_ends_are_told_in_words() -> None:
    """An exit status, a known signal, an unknown one."""
    assert describe_exit(3) == "exit status 3"
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(-99) == "killed by signal 99"


async def test_a_killed_process_is_started_again_and_announced(room: Room) -> None:
    """The fact is printed, and the new process id is told."""
    service = room.keep(FOREVER)
    await service.wait_ready(WAIT_S)
    first = service.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await room.printed("toy died (killed by SIGKILL): starting it again in 0.25 s")
    async with asyncio.timeout(WAIT_S):
        while service.pid == first:
            await asyncio.sleep(0.02)
    assert room.announced == [first, service.pid]


async def test_lines_are_printed_with_the_name(room: Room) -> None:
    """What the process writes appears behind its name."""
    room.keep(FOREVER)
    await room.printed("toy        | up")


async def test_stop_ends_the_process_for_good(room: Room) -> None:
    """SIGTERM is enough for a process that heeds it, and it is not started again."""
    service = room.keep(FOREVER)
    await room.printed("up")
    await service.stop(5.0)
    assert service.pid is not None
    assert not is_alive(service.pid)
    assert len(room.announced) == 1


async def test_a_process_that_ignores_sigterm_is_killed(room: Room) -> None:
    """The stop is bounded."""
    service = room.keep(STUBBORN)
    await room.printed("up")
    await service.stop(0.5)
    assert service.pid is not None
    assert not is_alive(service.pid)
    await room.printed("did not stop within")


async def test_grandchildren_end_with_their_parent(room: Room) -> None:
    """A worker that outlives its killed parent would hold the port: it goes too."""
    code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {FOREVER!r}])\n"
        "print('worker', child.pid, flush=True)\n"
        "time.sleep(600)"
    )
    service = room.keep(code)
    await room.printed("worker ")
    worker = int(room.stream.getvalue().split("worker ")[1].split()[0])
    assert service.pid is not None
    os.kill(service.pid, signal.SIGKILL)
    async with asyncio.timeout(WAIT_S):
        while is_alive(worker):
            await asyncio.sleep(0.02)


async def test_a_service_that_keeps_dying_at_the_start_is_given_up(room: Room) -> None:
    """A wrong setting does not heal: five deaths before the first readiness end the start."""
    service = room.keep("raise SystemExit(7)", is_ready=never_ready)
    with pytest.raises(OperatorError, match="died 5 times while starting"):
        await service.wait_ready(WAIT_S)


async def test_a_service_that_never_answers_times_out(room: Room) -> None:
    """Waiting is bounded and says for whom."""
    service = room.keep(FOREVER, is_ready=never_ready)
    with pytest.raises(TransientError, match="toy did not become ready within 0 s"):
        await service.wait_ready(0.2)


def test_the_guard_knows_who_is_left() -> None:
    """Added and not removed; a last line without its end is not believed."""
    assert follow(["+10\n", "+11\n", "-10\n", "+12\n", "+1"]) == {11, 12}


SUPERVISOR = """
import subprocess, sys, time
from clickledger.stack.guard import Guard
guard = Guard()
for code in sys.argv[1:]:
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    guard.add(child.pid)
    child.stdout.readline()
    print(child.pid, flush=True)
print("all", flush=True)
time.sleep(600)
"""


async def test_children_end_when_the_supervisor_is_killed() -> None:
    """After kill -9 of the supervisor, heeding and stubborn children end soon."""
    command = [sys.executable, "-u", "-c", SUPERVISOR, FOREVER, STUBBORN]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    children = [int(await process.stdout.readline()) for _ in (FOREVER, STUBBORN)]
    assert await process.stdout.readline() == b"all\n"
    process.kill()
    await process.wait()
    async with asyncio.timeout(WAIT_S):
        while any(map(is_alive, children)):
            await asyncio.sleep(0.05)


async def test_a_killed_guard_is_replaced(room: Room) -> None:
    """A new guard learns every child, so that nothing is forgotten."""
    service = room.keep(FOREVER)
    await room.printed("up")
    before = room.guard.pid
    os.kill(before, signal.SIGKILL)
    async with asyncio.timeout(WAIT_S):
        while room.guard.pid == before:
            room.guard.add(service.pid or 0)
            await asyncio.sleep(0.05)
