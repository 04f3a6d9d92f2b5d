"""Places where clicks become durable, as coroutines of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from ingest_api.publish import Destination, Told
from ingest_api.share import Share

_running: set[asyncio.Task[None]] = set()


def begin(appending: Coroutine[Any, Any, None], told: Told) -> None:
    """Run it, and tell how it ended: `Destination.append` of a coroutine."""

    def ended(task: asyncio.Task[None]) -> None:
        _running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        assert error is None or isinstance(error, Exception)
        told(error)

    task = asyncio.get_running_loop().create_task(appending)
    _running.add(task)
    task.add_done_callback(ended)


async def append(destination: Destination, partition: int, shares: Sequence[Share]) -> None:
    """Append and wait for the outcome; raises what is told."""
    outcome: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    destination.append(partition, shares, outcome.set_result)
    assert not outcome.done()
    if (error := await outcome) is not None:
        raise error
