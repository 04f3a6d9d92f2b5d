"""Ending tasks, those too that lose a cancellation."""

from __future__ import annotations

import asyncio

import pytest

from shared.tasks import end


async def test_a_task_that_loses_a_cancellation_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cancelled again, until it has ended; others have ended long before."""
    monkeypatch.setattr("shared.tasks.CANCEL_AGAIN_S", 0.05)
    lost = 0

    async def deaf() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if lost == 2:
                    raise
                lost += 1

    tasks = [asyncio.ensure_future(deaf()), asyncio.ensure_future(asyncio.sleep(60))]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await end(*tasks)
    assert lost == 2
    assert all(task.cancelled() for task in tasks)


async def test_a_task_is_left_to_its_own_ending() -> None:
    """One cancellation, and time to close what it has."""
    steps = []

    async def careful() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            steps.append("closed")

    task = asyncio.ensure_future(careful())
    await asyncio.sleep(0)
    await end(task)
    assert steps == ["closed"]


async def test_what_has_ended_and_nothing_at_all_end_at_once() -> None:
    """Also a task that failed; whoever wants its error asks it."""

    async def broken() -> None:
        raise ValueError("broken")

    task = asyncio.ensure_future(broken())
    await asyncio.wait([task])
    await end(task)
    await end()
    assert isinstance(task.exception(), ValueError)


async def test_whoever_waits_can_be_cancelled() -> None:
    """The task goes on, as it would."""
    waiting = asyncio.ensure_future(asyncio.sleep(60))
    ending = asyncio.ensure_future(end(waiting))
    ending.cancel()
    await asyncio.wait([ending])
    assert ending.cancelled()
    await end(waiting)
