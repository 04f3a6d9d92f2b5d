"""Opens streams: where each begins, and whether there is room for it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Final, Literal

from reporting import metrics
from reporting.problems import Refused
from reporting.rte.client import Client, Past
from reporting.rte.hub import Hub
from reporting.rte.ring import Ring
from shared.enriched import Enriched, PositionLost
from shared.errors import ClickledgerError
from shared.rte import Filter, Position

log = logging.getLogger(__name__)

Start = Position | int | Literal["latest", "earliest"]
"""A position, milliseconds since the epoch, the end or the beginning."""

_AWAY: Final = "Events are not available at the moment. Try again."
_FULL: Final = "Too many event streams are open. Try again."
_CATCHUPS_FULL: Final = "Too many event streams read from the past. Try again."


class Desk:
    """Counts the streams of the process and hands them out."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._clients: Counter[str] = Counter()
        """Streams that are open, by tenant."""
        self._past: Counter[str] = Counter()
        """Streams that read from the past, by tenant."""
        self._closing: set[asyncio.Task[None]] = set()

    async def open(self, wanted: Filter, start: Start, may_read: Callable[[], bool]) -> Client:
        """A stream of a tenant's clicks. Raises Refused: 503 without room or Kafka, 410 for a position that is gone."""
        ring = self.hub.ring
        if ring is None or ring.ended is not None or self.hub.is_away:
            raise self._refuse("rte_away", _AWAY)
        tenant = wanted.tenant or ""
        if self._clients.total() >= self.hub.settings.reporting_rte_clients_max:
            raise self._refuse("rte_clients_full", _FULL)
        if self._clients[tenant] >= self.hub.settings.reporting_rte_tenant_clients_max:
            raise self._refuse("rte_tenant_full", _FULL)
        self._count(tenant, 1)
        try:
            past, mine = await self._where(ring, tenant, start)
        except BaseException:  # a cancellation, too, gives the place back
            self._count(tenant, -1)
            raise
        on_close = partial(self._count, tenant, -1)
        return Client(self.hub, ring, wanted, past=past, mine=mine, may_read=may_read, on_close=on_close)

    async def _where(self, ring: Ring, tenant: str, start: Start) -> tuple[Past | None, Position | None]:
        """A reader of its own, or the position in the ring; neither for the end."""
        if start == "latest":
            return None, None
        if isinstance(start, Position) and ring.covers(start) and not ring.is_behind(start):
            return None, start
        return await self._open_past(tenant, start), None

    async def _open_past(self, tenant: str, start: Start) -> Past:
        places = self.hub.settings.reporting_rte_catchups_max
        if self._past.total() >= places or self._past[tenant] >= max(1, places // 2):
            raise self._refuse("rte_catchups_full", _CATCHUPS_FULL)
        self._count_past(tenant, 1)
        enriched = None
        try:
            enriched = self.hub.reader("rte-past")
            await enriched.open()
            await _begin(enriched, start)
        except BaseException as exc:  # as above
            self._count_past(tenant, -1)
            if enriched is not None:
                await enriched.close()
            if isinstance(exc, PositionLost):
                metrics.refused_total.labels("rte_lost").inc()
                raise Refused(HTTPStatus.GONE, f"Cannot resume: {exc}", more={"earliest": str(exc.earliest)}) from exc
            if isinstance(exc, ClickledgerError):
                log.warning("an event stream cannot begin at %s: %s", start, exc)
                raise self._refuse("rte_away", _AWAY) from exc
            raise
        return Past(enriched, lambda: self._give_back(tenant, enriched))

    def _give_back(self, tenant: str, enriched: Enriched) -> None:
        """Close a reader in the background; its place is free when that is done."""
        closing = asyncio.ensure_future(enriched.close())
        self._closing.add(closing)

        def closed(task: asyncio.Task[None]) -> None:
            self._closing.discard(task)
            self._count_past(tenant, -1)

        closing.add_done_callback(closed)

    def _refuse(self, reason: str, text: str) -> Refused:
        metrics.refused_total.labels(reason).inc()
        return Refused(HTTPStatus.SERVICE_UNAVAILABLE, text)

    def _count(self, tenant: str, change: int) -> None:
        self._clients[tenant] += change
        if not self._clients[tenant]:
            del self._clients[tenant]
        metrics.rte_clients.set(self._clients.total())

    def _count_past(self, tenant: str, change: int) -> None:
        self._past[tenant] += change
        if not self._past[tenant]:
            del self._past[tenant]
        metrics.rte_catchups.set(self._past.total())


async def _begin(enriched: Enriched, start: Start) -> None:
    match start:
        case Position():
            await enriched.begin(start)
        case int():
            await enriched.begin_at(start)
        case "earliest":
            await enriched.begin_earliest()
        case "latest":
            await enriched.begin_latest()
