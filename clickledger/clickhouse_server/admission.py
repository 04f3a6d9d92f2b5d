"""How many statements run and wait: a bound per role, so that slow readers never stand in the sink's way. Pure asyncio."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from clickledger.clickhouse_server.errors import TOO_MANY_SIMULTANEOUS_QUERIES, refusal


class Admission:
    """At most `running_max` at a time, at most `waiting_max` more in a queue, in order of arrival."""

    def __init__(self, running_max: int, waiting_max: int) -> None:
        self.running_max = running_max
        self.waiting_max = waiting_max
        self._slots = asyncio.Semaphore(running_max)
        self._inside = 0

    @property
    def inside(self) -> int:
        """Statements running or waiting."""
        return self._inside

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Wait for a slot and hold it; raises StatementError (202) at once when the queue is full."""
        if self._inside >= self.running_max + self.waiting_max:
            raise refusal(
                TOO_MANY_SIMULTANEOUS_QUERIES,
                f"Too many simultaneous queries. Maximum: {self.running_max}, waiting: {self.waiting_max}",
            )
        self._inside += 1
        try:
            async with self._slots:
                yield
        finally:
            self._inside -= 1
