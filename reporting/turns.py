"""Queries take turns: so many at once, so many that wait, and no more; no tenant takes all of it.

A tenant that runs half of what may run leaves one free place to others, and has half of the waiting places at most. A
place that becomes free is for the tenant that runs least, among those for the one that waits longest.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import NamedTuple

from reporting.metrics import refused_total
from reporting.problems import Refused


class _Waiting(NamedTuple):
    tenant: str
    granted: asyncio.Future[None]


class Turns:
    """Bounds what reports ask of ClickHouse; the sink needs it too."""

    def __init__(self, at_once: int, waiting_max: int) -> None:
        self._free = at_once
        self._share = max(1, at_once // 2)
        self._waiting_max = waiting_max
        self._waiting_share = max(1, waiting_max // 2)
        self._running: Counter[str] = Counter()
        self._waiting: list[_Waiting] = []

    @asynccontextmanager
    async def one(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a turn. Raises Refused, 503, when too many wait already."""
        if self._may_run(tenant):
            self._begin(tenant)
        else:
            await self._wait(tenant)
        try:
            yield
        finally:
            self._end(tenant)

    def _may_run(self, tenant: str) -> bool:
        return self._free > (1 if self._running[tenant] >= self._share else 0)

    def _begin(self, tenant: str) -> None:
        self._free -= 1
        self._running[tenant] += 1

    def _end(self, tenant: str) -> None:
        self._free += 1
        self._running[tenant] -= 1
        self._running += Counter()  # forgets who runs nothing
        while waiting := [each for each in self._waiting if not each.granted.done()]:
            first = min(waiting, key=lambda each: self._running[each.tenant])
            if not self._may_run(first.tenant):
                return
            self._waiting.remove(first)
            self._begin(first.tenant)
            first.granted.set_result(None)

    async def _wait(self, tenant: str) -> None:
        if sum(each.tenant == tenant for each in self._waiting) >= self._waiting_share:
            refused_total.labels("queries_tenant_full").inc()
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "Too many reports of this tenant are being made. Try again.")
        if len(self._waiting) >= self._waiting_max:
            refused_total.labels("queries_full").inc()
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "Too many reports are being made. Try again.")
        place = _Waiting(tenant, asyncio.get_running_loop().create_future())
        self._waiting.append(place)
        try:
            await place.granted
        except asyncio.CancelledError:
            if place.granted.cancelled():
                self._waiting.remove(place)
            else:
                self._end(tenant)
            raise
