"""Queries take turns: so many at once, so many that wait, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from reporting.metrics import refused_total
from reporting.problems import Refused


class Turns:
    """Bounds what reports ask of ClickHouse; the sink needs it too."""

    def __init__(self, at_once: int, waiting_max: int) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._waiting_max = waiting_max
        self._waiting = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a turn. Raises Refused, 503, when too many wait already."""
        if self._free.locked() and self._waiting >= self._waiting_max:
            refused_total.labels("queries_full").inc()
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "Too many reports are being made. Try again.")
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()
