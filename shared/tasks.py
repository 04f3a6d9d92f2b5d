"""Ending tasks for good."""

from __future__ import annotations

import asyncio
from typing import Any, Final

CANCEL_AGAIN_S: Final = 7.0
"""Longer than a task that was cancelled takes for its own ending, such as closing a connection to Kafka (6 s)."""


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they have ended; one that goes on is cancelled again.

    Before Python 3.12 `asyncio.wait_for` loses a cancellation that comes in the same turn of the loop as what it waited for, and
    aiokafka waits so for each answer of a broker: a task that reads from Kafka would go on for ever, and so would who waits for it.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
