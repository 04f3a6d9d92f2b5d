"""An export that runs ends when its key does and when its reader is too slow, without a last chunk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from reporting.edr import answer
from reporting.edr.answer import PATIENCE_S, ExportAnswer, Pace, Planned
from reporting.turns import Turns


def test_the_pace_of_a_reader() -> None:
    """It may be too slow for a minute in all, wins that back by being fast, and saves no more than a minute."""
    pace = Pace(1_000)
    assert pace.allowed_s(10_000) == PATIENCE_S + 10
    pace.took(1 << 30, 1)
    assert pace.allowed_s(0) == PATIENCE_S
    pace.took(10_000, 50)
    assert pace.allowed_s(0) == PATIENCE_S - 40
    pace.took(10_000, 1_000)
    assert pace.allowed_s(0) == 0


async def export(may_read: Any, send: Any, bytes_per_s_min: int) -> int:
    """Send an export of endless bytes; how many turns are free then."""

    async def endless(*_: Any, **__: Any) -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100

    async def planned() -> Planned:
        query: Any = SimpleNamespace(sql="", format="", params={}, settings={}, encoding="")
        return Planned(query, {})

    async def receive() -> Any:
        await asyncio.Event().wait()

    turns = Turns(1, 0)
    exports: Any = SimpleNamespace(
        turns=turns, bytes_per_s_min=bytes_per_s_min, clickhouse=SimpleNamespace(stream=endless)
    )
    await ExportAnswer(exports, "acme", may_read, planned)({}, receive, send)
    return turns._free


async def test_a_revoked_key_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The body has no last chunk, and the turn is free."""
    monkeypatch.setattr(answer, "KEY_CHECK_S", 0.01)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        await asyncio.sleep(0)

    assert await export(lambda: len(sent) < 50, send, 1) == 1
    assert all(message.get("more_body", True) for message in sent)


async def test_a_reader_that_takes_too_little_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the connection itself would wait."""
    monkeypatch.setattr(answer, "PATIENCE_S", 0.01)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    assert await export(lambda: True, send, 1 << 20) == 1
