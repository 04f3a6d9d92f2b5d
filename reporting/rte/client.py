"""One client's stream: first from the past with a reader of its own, then from the ring, without a gap or a repetition."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import Final, NamedTuple

from reporting import metrics
from reporting.rte import sse
from reporting.rte.hub import GAPS_S, READ_MS, Hub
from reporting.rte.ring import Batch, FellBehind, Mine, Piece, Ring
from reporting.rte.sse import Closed
from shared.enriched import Enriched, PositionLost
from shared.errors import ClickledgerError
from shared.rte import Filter, Position

log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
"""Seconds that a client without news waits before its key is looked at."""
_ALIVE: Final = "alive"
_AWAY: Final = "Kafka does not answer; the stream goes on when it does"
_GAP: Final = "a click is missing in Kafka; its partition waits for it"


class Ended(Exception):
    """The stream ends."""

    def __init__(self, reason: Closed) -> None:
        super().__init__(reason)
        self.reason = reason


class Past(NamedTuple):
    """What a stream needs to read from the past."""

    enriched: Enriched
    give_back: Callable[[], None]
    """Close the reader and let others read from the past."""


class Client:
    """A stream that is open. `pieces` gives its bytes; `close` is called once, whatever happened."""

    def __init__(
        self,
        hub: Hub,
        ring: Ring,
        wanted: Filter,
        *,
        past: Past | None,
        mine: Position | None,
        may_read: Callable[[], bool],
        on_close: Callable[[], None],
    ) -> None:
        """The stream begins where `past` does, else at `mine`, else with what comes next.

        `may_read` is asked before anything is sent.
        """
        self._hub, self._ring, self._wanted = hub, ring, wanted
        self._past = past
        self._mine = None if mine is None else Mine(mine)
        self._number = ring.next if mine is None else ring.first
        self._last = past.enriched.position if past is not None else mine or ring.position
        self._may_read, self._on_close = may_read, on_close
        self._heartbeat_s = hub.settings.reporting_rte_heartbeat_ms / 1000
        self._spoken_s = time.monotonic()
        self._next_gaps_s = 0.0
        self._reason = Closed.CLIENT

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The bytes of the stream, to its end."""
        yield sse.hello(str(self._last))
        try:
            async for piece in self._catch_up():
                yield piece
            async for piece in self._follow():
                yield piece
        except Ended as end:
            self._reason = end.reason
            yield sse.closed(end.reason, str(self._last))

    def close(self) -> None:
        """Give back what the stream held."""
        metrics.rte_closed_total.labels(self._reason).inc()
        self._on_close()
        self._leave_past()

    # From the past

    async def _catch_up(self) -> AsyncGenerator[bytes, None]:
        deadline_s = time.monotonic() + self._hub.settings.reporting_rte_catchup_ms_max / 1000
        while self._past is not None:
            past = self._past.enriched
            if self._ring.covers(past.position):
                self._last = past.position
                self._mine, self._number = Mine(self._last), self._ring.first
                self._leave_past()  # does not wait: the ring moves on meanwhile
                return
            if self._ring.ended is not None:
                raise Ended(self._ring.ended)
            if time.monotonic() > deadline_s:
                raise Ended(Closed.TURN_OVER)
            batch = await self._read_past(past)
            for piece in self._counted(batch.pieces(self._wanted)):
                yield piece
            self._last = past.position
            if (beat := self._heartbeat()) is not None:
                yield beat

    async def _read_past(self, past: Enriched) -> Batch:
        before = past.position
        try:
            taken = await past.read(READ_MS)
            if past.gaps and time.monotonic() >= self._next_gaps_s:
                self._next_gaps_s = time.monotonic() + GAPS_S
                await self._hub.pass_accepted_gaps(past)
        except PositionLost as exc:
            raise Ended(Closed.LOST) from exc
        except ClickledgerError as exc:
            log.warning("an event stream cannot read on from %s: %s", before, exc)
            raise Ended(Closed.KAFKA) from exc
        return Batch(before, taken)

    def _leave_past(self) -> None:
        if self._past is not None:
            past, self._past = self._past, None
            past.give_back()

    # From the ring

    async def _follow(self) -> AsyncGenerator[bytes, None]:
        while True:
            batch = self._next_batch()
            if batch is not None:
                for piece in self._counted(self._pieces_of(batch)):
                    yield piece
                self._number += 1
                self._last = batch.after if self._mine is None else self._mine.position
            if (beat := self._heartbeat()) is not None:
                yield beat
            if batch is None:
                await self._ring.news(self._number, min(self._heartbeat_s, _LOOK_S))

    def _next_batch(self) -> Batch | None:
        """The next batch, None while it is not there. Raises Ended."""
        if self._ring.ended is Closed.STOPPING:
            raise Ended(Closed.STOPPING)
        try:
            batch = self._ring.get(self._number)
        except FellBehind:
            raise Ended(Closed.SLOW) from None
        if batch is None and self._ring.ended is not None:
            raise Ended(self._ring.ended)
        return batch

    def _pieces_of(self, batch: Batch) -> list[Piece]:
        if self._mine is None:
            return batch.pieces(self._wanted)
        found = self._mine.pieces(batch, self._wanted)
        if self._mine.is_level(batch.after):
            self._mine = None
        return found

    # Both

    def _counted(self, pieces: Iterable[Piece]) -> Iterator[bytes]:
        for data, events in pieces:
            self._require_key()
            metrics.rte_events_total.inc(events)
            self._spoken_s = time.monotonic()
            yield data

    def _require_key(self) -> None:
        """Before anything is sent. Raises Ended when the key is no longer valid."""
        if not self._may_read():
            raise Ended(Closed.KEY)

    def _heartbeat(self) -> bytes | None:
        """A sign of life when it is time for one. Raises Ended when the key is no longer valid."""
        self._require_key()
        now_s = time.monotonic()
        if now_s - self._spoken_s < self._heartbeat_s:
            return None
        self._spoken_s = now_s
        remark = _AWAY if self._hub.is_away else _GAP if self._hub.has_gap else _ALIVE
        return sse.heartbeat(str(self._last), remark)
