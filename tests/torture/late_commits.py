"""A sink whose commits are slow on the wire: `python -m tests.torture.late_commits`.

Some commits reach the broker up to some seconds after they were begun, whatever became of the partition meanwhile: what
a client has given to its socket it cannot take back.
"""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Any, Final

from shared.kafka import Consumer
from sink import service

SHARE: Final = 0.3
LATE_S_MAX: Final = 4.0


def arm() -> None:
    """Put the delay between the decision to send and the sending."""
    send = Consumer._send_commit
    under_way: set[asyncio.Task[None]] = set()

    async def late(self: Consumer, request: Any) -> None:
        await asyncio.sleep(random.uniform(0, LATE_S_MAX))
        await send(self, request)

    async def send_or_late(self: Consumer, request: Any) -> None:
        if random.random() > SHARE:
            await send(self, request)
            return
        task = asyncio.ensure_future(late(self, request))
        under_way.add(task)
        task.add_done_callback(_forget(under_way))
        await asyncio.shield(task)

    Consumer._send_commit = send_or_late  # type: ignore[method-assign]


def _forget(under_way: set[asyncio.Task[None]]) -> Any:
    def forget(task: asyncio.Task[None]) -> None:
        under_way.discard(task)
        if not task.cancelled():
            task.exception()  # nobody waits for it any more

    return forget


if __name__ == "__main__":
    arm()
    sys.exit(service.main())
