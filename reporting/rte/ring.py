"""The newest events in memory, once for all clients. Pure.

Theory of operation. The hub reads Kafka and puts batches of clicks in a ring that is bounded in bytes. A client is a
number, that of the next batch it gets: that is all its buffer costs. Batches go out of the ring at the old end; a
client that needs one of those did not keep up.

All clients of the ring get events in the same order, so behind an event all stand at the same position, and the event's
bytes, id included, are made once, when the first client of its tenant wants them. A client that comes from another
position than the ring's (`mine`) has its own ids until it is level.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from reporting.metrics import rte_dropped_total
from reporting.rte import sse
from reporting.rte.sse import Closed
from shared.enriched import Taken
from shared.errors import DataError
from shared.events import decode_enriched
from shared.rte import Filter, Position, event_of

BATCH_EVENTS_MAX: Final = 500
"""Clicks of one batch: a few milliseconds of encoding, so that no other request waits long."""
PIECE_BYTES_MAX: Final = 64 << 10
"""Bytes that are handed to a connection at once, as many as it takes before it says that its client is slow."""
EVENT_BYTES: Final = 1_500
"""Python objects around one event, and what filters look at."""
VALUE_COPIES: Final = 2
"""A record is kept as it was read and, once a client wants it, as an event, which is about as long."""
PORTIONS: Final = 4
"""The ring is filled by this part at a time, so that a client has as many turns before it has fallen behind."""
FILTERS_CACHED_MAX: Final = 16
"""Filters of one tenant that share what they matched in the newest batch."""

_FILTERED: Final = ("tenant", "status", "promotion_id", "link", "short_url", "is_bot")


class Piece(NamedTuple):
    """Bytes for a client, with how many events."""

    data: bytes
    events: int


@dataclass(slots=True)
class Event:
    """A click as clients get it."""

    place: tuple[int, int]
    """Partition and raw offset."""
    filtered: dict[str, Any]
    """What filters look at."""
    frame: bytes
    """With the id that all clients of the ring have."""

    def framed(self, position: Position) -> bytes:
        """With another id."""
        return sse.frame(str(position), self.frame[self.frame.index(b"\n") + 1 :])


class Batch:
    """Clicks in the order in which everybody gets them, from one position to another."""

    def __init__(self, before: Position, taken: Sequence[Taken]) -> None:
        self.before = before
        self.taken = taken
        offsets = list(before.offsets)
        for partition, raw_offset, _ in taken:
            offsets[partition] = raw_offset + 1
        self.after = Position(before.stream, tuple(offsets))
        self.size = sum(map(size_of, taken))
        self._tenants: dict[str, list[int]] | None = None
        self._events: dict[str, list[Event]] = {}
        self._pieces: dict[Filter, list[Piece]] = {}
        self._is_newest = True

    def events(self, tenant: str) -> list[Event]:
        """A tenant's events."""
        if self._tenants is None:
            self._tenants = self._by_tenant()
        if tenant not in self._tenants:
            return []
        found = self._events.get(tenant)
        if found is None:
            found = self._events[tenant] = list(self._encoded(self._tenants[tenant]))
        return found

    def pieces(self, wanted: Filter) -> list[Piece]:
        """What a client of the ring gets of it."""
        found = self._pieces.get(wanted)
        if found is None:
            events = self.events(wanted.tenant or "")
            found = cut(event.frame for event in events if wanted.matches(event.filtered))
            if self._is_newest and len(self._pieces) < FILTERS_CACHED_MAX:
                self._pieces[wanted] = found
        return found

    def grow_old(self) -> None:
        """There is a newer batch: few are likely to want the same bytes again."""
        self._is_newest = False
        self._pieces.clear()

    def _by_tenant(self) -> dict[str, list[int]]:
        tenants: dict[str, list[int]] = {}
        for index, (_, _, value) in enumerate(self.taken):
            try:
                record = decode_enriched(value)
            except DataError:
                record = {}
            if record.get("stream") == self.before.stream:
                tenants.setdefault(record["tenant"], []).append(index)
            else:
                rte_dropped_total.labels("foreign").inc()
        return tenants

    def _encoded(self, indexes: Sequence[int]) -> Iterator[Event]:
        parts = [str(offset) for offset in self.before.offsets]
        done = 0
        for index in indexes:
            for partition, raw_offset, _ in self.taken[done : index + 1]:
                parts[partition] = str(raw_offset + 1)
            done = index + 1
            partition, raw_offset, value = self.taken[index]
            record = decode_enriched(value)
            frame = sse.frame(".".join((self.before.stream, *parts)), sse.body(event_of(record)))
            yield Event((partition, raw_offset), {name: record[name] for name in _FILTERED}, frame)


def size_of(taken: Taken) -> int:
    """Bytes that a click takes in the ring, about."""
    return VALUE_COPIES * len(taken.value) + EVENT_BYTES


def cut(frames: Iterable[bytes]) -> list[Piece]:
    """Events in pieces of at most PIECE_BYTES_MAX, longer events by themselves."""
    pieces: list[Piece] = []
    collected: list[bytes] = []
    size = 0
    for frame in frames:
        if collected and size + len(frame) > PIECE_BYTES_MAX:
            pieces.append(Piece(b"".join(collected), len(collected)))
            collected, size = [], 0
        collected.append(frame)
        size += len(frame)
    if collected:
        pieces.append(Piece(b"".join(collected), len(collected)))
    return pieces


class Mine:
    """A client's own position beside the ring's: some partitions may be ahead of it, others behind."""

    def __init__(self, position: Position) -> None:
        self._stream = position.stream
        self._offsets = list(position.offsets)

    @property
    def position(self) -> Position:
        """Behind everything that the client has."""
        return Position(self._stream, tuple(self._offsets))

    def is_level(self, position: Position) -> bool:
        """Whether the ring's clients have exactly what this one has."""
        return tuple(self._offsets) == position.offsets

    def pieces(self, batch: Batch, wanted: Filter) -> list[Piece]:
        """What the client has not had yet of a batch."""
        # The client may know partitions that the ring does not know yet: there it is ahead.
        self._offsets += [0] * (len(batch.after.offsets) - len(self._offsets))
        if all(mine >= after for mine, after in zip(self._offsets, batch.after.offsets, strict=False)):
            return []
        return cut(list(self._frames(batch, wanted)))

    def _frames(self, batch: Batch, wanted: Filter) -> Iterator[bytes]:
        events = {event.place: event for event in batch.events(wanted.tenant or "")}
        for partition, raw_offset, _ in batch.taken:
            if raw_offset < self._offsets[partition]:
                continue
            self._offsets[partition] = raw_offset + 1
            event = events.get((partition, raw_offset))
            if event is not None and wanted.matches(event.filtered):
                yield event.framed(self.position)


class FellBehind(Exception):
    """The batch that a client needs is no longer in the ring."""


class Ring:
    """The newest batches of one reading of Kafka."""

    def __init__(self, position: Position, bytes_max: int) -> None:
        self.position = position
        """Behind the newest batch."""
        self.before = position
        """Before the oldest batch."""
        self.ended: Closed | None = None
        self._bytes_max = bytes_max
        self._batches: deque[Batch] = deque()
        self._first = 0
        self._size = 0
        self._news = asyncio.Event()

    @property
    def first(self) -> int:
        """The number of the oldest batch."""
        return self._first

    @property
    def next(self) -> int:
        """The number that the next batch will have."""
        return self._first + len(self._batches)

    def portions(self, taken: Sequence[Taken]) -> Iterator[Sequence[Taken]]:
        """Clicks in parts that leave most of the ring to clients that are still at earlier ones.

        One read can bring more than the whole ring: Kafka gives a batch of 1 MiB of each partition at once.
        """
        start = size = 0
        for index, each in enumerate(taken):
            size += size_of(each)
            if size > self._bytes_max // PORTIONS:
                yield taken[start : index + 1]
                start, size = index + 1, 0
        if start < len(taken):
            yield taken[start:]

    def add(self, taken: Sequence[Taken], partitions: int) -> None:
        """Put clicks behind all others, and wake who waits. `partitions`: how many the topic has by now."""
        grown = (0,) * (partitions - len(self.position.offsets))
        self.position = Position(self.position.stream, self.position.offsets + grown)
        for start in range(0, len(taken), BATCH_EVENTS_MAX):
            batch = Batch(self.position, taken[start : start + BATCH_EVENTS_MAX])
            if self._batches:
                self._batches[-1].grow_old()
            self._batches.append(batch)
            self._size += batch.size
            self.position = batch.after
        while self._size > self._bytes_max and len(self._batches) > 1:
            oldest = self._batches.popleft()
            self._first += 1
            self._size -= oldest.size
            self.before = oldest.after
        self._wake()

    def pass_gap(self, partition: int, raw_offset: int) -> None:
        """The next click of a partition is this one."""
        offsets = list(self.position.offsets)
        offsets[partition] = raw_offset
        self.position = Position(self.position.stream, tuple(offsets))

    def end(self, reason: Closed) -> None:
        """Nothing more will come; the first reason is the one."""
        self.ended = self.ended or reason
        self._wake()

    def get(self, number: int) -> Batch | None:
        """The batch of this number, None before it is there. Raises FellBehind."""
        if number < self._first:
            raise FellBehind
        return self._batches[number - self._first] if number < self.next else None

    def covers(self, position: Position) -> bool:
        """Whether a client at this position finds everything that it has not had here, or will."""
        return (
            position.stream == self.before.stream
            and len(position.offsets) <= len(self.position.offsets)  # else the ring does not know of a partition yet
            and all(position.offset(p) >= offset for p, offset in enumerate(self.before.offsets))
        )

    def is_behind(self, position: Position) -> bool:
        """Whether a position claims more than the ring has had, partitions too."""
        return len(position.offsets) > len(self.position.offsets) or any(
            offset > self.position.offset(p) for p, offset in enumerate(position.offsets)
        )

    async def news(self, number: int, timeout_s: float) -> None:
        """Wait until the batch of this number is there or the ring has ended, at most `timeout_s`."""
        if number >= self.next and self.ended is None:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
            except TimeoutError:
                return

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
