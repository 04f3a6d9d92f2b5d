"""How many statements run and wait: a bound per role, so that slow readers never stand in the sink's way. Pure asyncio."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from clickledger.clickhouse_server.errors import TOO_MANY_SIMULTANEOUS_QUERIES, refusal

_log: Final = logging.getLogger(__name__)


class _Share:
    """What one user has of the places."""

    def __init__(self, running_max: int) -> None:
        self.slots = asyncio.Semaphore(running_max)
        self.inside = 0


class Admission:
    """At most `running_max` at a time, at most `waiting_max` more in a queue, in order of arrival.

    With `shares` = 2 one user has at most half of either, so that the others always find a place.
    """

    def __init__(self, running_max: int, waiting_max: int, shares: int = 1) -> None:
        self.running_max = running_max
        self.waiting_max = waiting_max
        self._share_running = max(1, running_max // shares)
        self._share_inside = max(1, (running_max + waiting_max) // shares)
        self._slots = asyncio.Semaphore(running_max)
        self._shares: dict[str, _Share] = {}
        self._inside = 0
        self.refused: Counter[str] = Counter()
        """Statements refused, by reason: `full`, `share` (of one user)."""

    @property
    def inside(self) -> int:
        """Statements running or waiting."""
        return self._inside

    @asynccontextmanager
    async def enter(self, user: str = "") -> AsyncIterator[None]:
        """Wait for a slot and hold it; raises StatementError (202) at once when the queue or the user's share is full."""
        if self._inside >= self.running_max + self.waiting_max:
            self._refuse("full", self.running_max, self.waiting_max)
        share = self._shares.get(user) or _Share(self._share_running)
        if share.inside >= self._share_inside:
            self._refuse("share", self._share_running, self._share_inside - self._share_running)
        self._shares[user] = share
        self._inside += 1
        share.inside += 1
        try:
            async with share.slots, self._slots:
                yield
        finally:
            self._inside -= 1
            share.inside -= 1
            if not share.inside:
                del self._shares[user]

    def _refuse(self, reason: str, running: int, waiting: int) -> None:
        self.refused[reason] += 1
        count = self.refused[reason]
        if count & (count - 1) == 0:  # the 1st, 2nd, 4th, 8th …: whoever floods the server does not flood its log
            _log.warning("statements refused, reason %s: %d", reason, count)
        raise refusal(
            TOO_MANY_SIMULTANEOUS_QUERIES, f"Too many simultaneous queries. Maximum: {running}, waiting: {waiting}"
        )
