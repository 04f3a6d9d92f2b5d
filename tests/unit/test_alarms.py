"""Kafka's silence is an alarm, and ends by itself."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from shared import alarms
from shared.alarms import SILENCE_S, Silence


class Alarm(StrEnum):
    """One reason."""

    STALLED = "stalled"


@pytest.fixture
async def silence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[tuple[Silence[Alarm], Path]]:
    """It looks all the time; it began to long ago."""
    monkeypatch.setattr(alarms, "LOOK_EVERY_S", 0.005)
    heard = tmp_path / "heard"
    made = Silence("tested", Alarm.STALLED, "broker:9092", logging.getLogger("tested"))
    with monkeypatch.context() as long_ago:
        now_s = time.time()
        long_ago.setattr(alarms.time, "time", lambda: now_s - 1_000)
        watching = asyncio.create_task(made.watch(heard))
        await asyncio.sleep(0)
    yield made, heard
    watching.cancel()


async def after(silence: tuple[Silence[Alarm], Path], age_s: float) -> str:
    """What stands when Kafka was heard of so long ago."""
    made, heard = silence
    heard.touch()
    os.utime(heard, (time.time() - age_s, time.time() - age_s))
    await asyncio.sleep(0.05)
    return made.why_not_ready()


async def test_silence_is_an_alarm(silence: tuple[Silence[Alarm], Path], caplog: pytest.LogCaptureFixture) -> None:
    """Told once with the address and its setting, counted, in readiness; and over when it is over."""
    labels = {"service": "tested", "reason": "stalled"}
    assert silence[0].why_not_ready() == ""  # no copy yet
    for _ in range(2):
        assert await after(silence, SILENCE_S - 5) == ""
        assert "broker:9092 (CLICKLEDGER_KAFKA_BOOTSTRAP)" in await after(silence, SILENCE_S + 5)
        assert REGISTRY.get_sample_value("clickledger_alarms", labels) == 1
        assert caplog.text.count("Kafka: alarm (stalled): for 30 s") == 1
        assert await after(silence, 0) == ""
        assert REGISTRY.get_sample_value("clickledger_alarms", labels) == 0
        assert "alarm (stalled) is over" in caplog.text
        caplog.clear()


def test_what_is_given_up_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """No alarm ends without a line: who reads this log would take it for one that stands."""
    labels = {"service": "tested", "reason": "stalled"}
    part = alarms.Alarms[Alarm]("tested", "partition 3", logging.getLogger("tested"))
    part.drop()
    assert not caplog.text
    part.raise_alarm(Alarm.STALLED, "no leader")
    part.drop()
    assert "partition 3: alarm (stalled) is not this member's any more" in caplog.text
    assert REGISTRY.get_sample_value("clickledger_alarms", labels) == 0
    assert not part.standing


async def test_a_start_is_no_silence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A copy of long ago, before it is followed again."""
    monkeypatch.setattr(alarms, "LOOK_EVERY_S", 0.005)
    heard = tmp_path / "heard"
    made = Silence("tested", Alarm.STALLED, "broker:9092", logging.getLogger("tested"))
    watching = asyncio.create_task(made.watch(heard))
    assert await after((made, heard), 86_400) == ""
    watching.cancel()
