"""Reports are ready while ClickHouse answers, and say since when it does not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reporting import reachable as module
from reporting.reachable import AWAY_S, Reachable
from shared.errors import OperatorError, TransientError


class Server:
    """Answers as it is told; counts."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.is_silent = False
        self.asked = 0

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        """See `Asked`."""
        self.asked += 1
        if self.is_silent:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return [(1,)]


class Clock:
    """Goes when it is told."""

    now_s = 1_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now_s


@pytest.mark.parametrize("error", [TransientError("connection refused"), OperatorError("wrong password")])
async def test_it_is_away_after_a_while_and_back_at_once(error: Exception) -> None:
    """A restart is shorter; what it is refused with is told; the first answer ends it."""
    server, clock = Server(), Clock()
    reachable = Reachable(server, clock)
    await reachable.ask()
    server.error = error
    clock.now_s += AWAY_S - 1
    await reachable.ask()
    assert reachable.why_not_ready() == ""
    clock.now_s += 1
    assert reachable.why_not_ready() == f"no answer from ClickHouse for 10 s, so there are no reports: {error}"
    server.error = None
    await reachable.ask()
    assert reachable.why_not_ready() == ""


async def test_a_start_without_it_is_no_exception() -> None:
    """It counts from the start; a process that has not asked yet says nothing."""
    server, clock = Server(), Clock()
    reachable = Reachable(server, clock)
    clock.now_s += AWAY_S
    assert reachable.why_not_ready() == ""
    server.error = TransientError("connection refused")
    await reachable.ask()
    assert "for 10 s" in reachable.why_not_ready()


async def test_silence_is_bounded_and_probes_ask_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the question and never answers; however often readiness is asked."""
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    server, clock = Server(), Clock()
    server.is_silent = True
    reachable = Reachable(server, clock)
    await asyncio.wait_for(reachable.ask(), 5)
    clock.now_s += AWAY_S
    assert {reachable.why_not_ready() for _ in range(100)} == {
        "no answer from ClickHouse for 10 s, so there are no reports: silent for 0 s"
    }
    assert server.asked == 1


async def test_it_is_asked_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is cancelled."""
    monkeypatch.setattr(module, "EVERY_S", 0.001)
    server = Server()
    watching = asyncio.create_task(Reachable(server).watch())
    async with asyncio.timeout(5):
        while server.asked < 3:
            await asyncio.sleep(0.001)
    watching.cancel()
