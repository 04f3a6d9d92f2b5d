"""Whether ClickHouse answers this process, for readiness: asked on a timer, so that a probe costs nothing and hears at once.

Only ClickHouse counts: without it there is no report, no export and no figure of the dashboard. Without Kafka all of these are
served, and event streams stand and go on by themselves; when the copy of the catalog is too old in the end, readiness says that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

from shared.errors import ClickledgerError
from shared.tasks import end

EVERY_S: Final = 2.0
PATIENCE_S: Final = 3.0
"""For one answer."""
AWAY_S: Final = 10.0
"""Of silence until it is away: a restart of the server, or one slow answer, takes no process from its balancer."""


class Asked(Protocol):
    """The part of `shared.clickhouse.ClickHouse` that is needed here."""

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a SELECT. Raises ClickledgerError."""


class Reachable:
    """One question at a time, each with a bound."""

    def __init__(self, clickhouse: Asked, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clickhouse, self._clock_s = clickhouse, clock_s
        self._answered_s = clock_s()
        self._trouble = ""

    def why_not_ready(self) -> str:
        """Since when ClickHouse does not answer, and how it refuses; empty while it does, and for a while afterwards."""
        silent_s = self._clock_s() - self._answered_s
        if not self._trouble or silent_s < AWAY_S:
            return ""
        return f"no answer from ClickHouse for {silent_s:.0f} s, so there are no reports: {self._trouble}"

    async def watch(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            await self.ask()
            await asyncio.sleep(EVERY_S)

    async def ask(self) -> None:
        """Ask once."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._clickhouse.query("SELECT 1")
        except ClickledgerError as exc:
            self._trouble = str(exc)
        except TimeoutError:
            self._trouble = f"silent for {PATIENCE_S:.0f} s"
        else:
            self._answered_s, self._trouble = self._clock_s(), ""


@asynccontextmanager
async def watched(reachable: Reachable) -> AsyncIterator[asyncio.Task[None]]:
    """Have it watch meanwhile; a watch that ended by a bug raises it at the end."""
    watching = asyncio.create_task(reachable.watch())
    try:
        yield watching
    finally:
        await end(watching)
    if not watching.cancelled():
        watching.result()
