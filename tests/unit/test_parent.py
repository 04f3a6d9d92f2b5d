"""The parent of several workers: who is taken for hanging, and what ends with a worker."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ingest_api import parent as parent_module
from ingest_api.config import ServiceSettings
from ingest_api.listeners import listen
from ingest_api.parent import SILENT_LOOKS_MAX, START_LOOKS_MAX, Parent, WorkerEnd, restarts
from shared.runtime import STOPPING, Runtime
from shared.settings import ApiSettings


class Process:
    """A worker of which only its death matters."""

    was_killed = False

    def kill(self) -> None:
        """SIGKILL."""
        self.was_killed = True


class Listeners:
    """Who was said to accept no more."""

    def __init__(self) -> None:
        self.ended: list[tuple[int, bool]] = []

    def end(self, number: int, *, hangs: bool = False) -> None:
        """As the real ones."""
        self.ended.append((number, hangs))


class Hearing:
    """A parent that listens to worker 1."""

    def __init__(self) -> None:
        settings = ServiceSettings.load()
        with listen(ApiSettings(api_port=0)) as listener:
            self.parent = Parent(Runtime("api", settings.runtime), settings, listener)
            self.parent._listeners.close()
        self.parent._reasons = ["", ""]
        self.parent._listeners = self.listeners = Listeners()  # type: ignore[assignment]
        self.reader, self.process = asyncio.StreamReader(), Process()
        hearing: Any = self.parent._hear(1, self.reader, self.process)  # type: ignore[arg-type]
        self.task: asyncio.Task[None] = asyncio.create_task(hearing)

    def say(self, why: str) -> None:
        """The worker reports."""
        self.reader.feed_data(json.dumps(why).encode() + b"\n")

    async def looks(self, count: float) -> None:
        """So many looks pass."""
        await asyncio.sleep(count * parent_module.LOOK_S)


def restarted(how: WorkerEnd) -> float:
    """How often a worker was started again after such an end."""
    return float(restarts.labels(how)._value.get())


@pytest.fixture
async def hearing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Hearing]:
    """Looks of 20 ms."""
    monkeypatch.setenv("CLICKLEDGER_DATA", str(tmp_path))
    monkeypatch.setattr(parent_module, "LOOK_S", 0.02)
    made = Hearing()
    yield made
    made.task.cancel()


async def test_a_silent_worker_is_killed(hearing: Hearing) -> None:
    """After so many looks at which it had said nothing; its socket is taken from it first."""
    hearing.say("")
    await hearing.looks(SILENT_LOOKS_MAX / 2)
    assert not hearing.process.was_killed
    await asyncio.wait_for(hearing.task, 5)
    assert hearing.process.was_killed
    assert hearing.listeners.ended == [(1, True)]


async def test_a_worker_that_speaks_lives(hearing: Hearing) -> None:
    """However seldom, as long as it is within the bound."""
    for why in ("starting", "", "no broker", ""):
        hearing.say(why)
        await hearing.looks(SILENT_LOOKS_MAX / 2)
        assert hearing.parent._reasons[1] == why
    assert not hearing.task.done()
    hearing.reader.feed_eof()
    await asyncio.wait_for(hearing.task, 5)
    assert not hearing.process.was_killed


async def test_a_start_has_more_time(hearing: Hearing) -> None:
    """Imports on a busy machine; but not for ever."""
    await hearing.looks(SILENT_LOOKS_MAX + START_LOOKS_MAX / 4)
    assert not hearing.process.was_killed
    await asyncio.wait_for(hearing.task, 10)
    assert hearing.process.was_killed


async def test_a_start_that_is_to_stop_has_not(hearing: Hearing) -> None:
    """A stop does not wait for a worker that never began."""
    hearing.parent._runtime.stopping.set()
    began = asyncio.get_running_loop().time()
    await asyncio.wait_for(hearing.task, 10)
    assert hearing.process.was_killed
    assert asyncio.get_running_loop().time() - began < START_LOOKS_MAX * parent_module.LOOK_S


async def test_a_worker_that_stops_gets_no_connections(hearing: Hearing) -> None:
    """It drains what it has, which takes its time."""
    hearing.say(STOPPING)
    await hearing.looks(1)
    assert hearing.listeners.ended == [(1, False)]
    assert not hearing.process.was_killed


async def test_what_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch, hearing: Hearing) -> None:
    """Too many files, no memory, an address that is gone: the other workers go on."""
    monkeypatch.setattr(parent_module, "RESTART_S_MIN", 0.001)
    tries: list[int] = []

    async def start(number: int) -> None:
        tries.append(number)
        if len(tries) == 3:
            hearing.parent._runtime.stopping.set()
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(hearing.parent, "_start", start)
    before = restarted(WorkerEnd.START_FAILED)
    await asyncio.wait_for(hearing.parent._keep(0), 5)
    assert restarted(WorkerEnd.START_FAILED) == before + 2  # the last one was not to be started again
    assert tries == [0, 0, 0]
    assert hearing.listeners.ended == [(0, False)] * 3
    assert "Too many open files" in hearing.parent._why_not_ready()


@pytest.mark.parametrize(("seconds", "how"), [("60", WorkerEnd.HUNG), ("0.1", WorkerEnd.DIED)])
async def test_it_is_told_how_a_worker_ended(
    hearing: Hearing, monkeypatch: pytest.MonkeyPatch, seconds: str, how: WorkerEnd
) -> None:
    """Killed for its silence, or ended otherwise; the next life begins with neither."""
    (hearing.parent._settings.runtime.data / "health").mkdir()
    pair = socket.socketpair()

    async def start(_number: int) -> tuple[asyncio.subprocess.Process, socket.socket]:
        return await asyncio.create_subprocess_exec("sleep", seconds), pair[0]

    monkeypatch.setattr(hearing.parent, "_start", start)
    with pair[1]:
        ended, _ = await asyncio.wait_for(hearing.parent._run_once(0), 10)
    assert ended is how
    assert 0 not in hearing.parent._hung
