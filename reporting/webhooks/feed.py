"""The records of `clicks.enriched` for every webhook of the process: the newest in memory, older ones in turns.

One reader follows the topic from its end on and keeps what came last, within a bound in bytes; webhooks that keep up read
from there. One that is further behind (its endpoint was away, or it was started again) borrows one of a few readers for a
turn of a fetch, in the order of asking; the beginning of what it got is kept for its next requests, within a share of the
same bound. So whatever a webhook's endpoint does costs nobody else memory, and at most the time of some fetches.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from reporting.webhooks import metrics
from reporting.webhooks.choosing import Entry, weight
from reporting.webhooks.stretches import Stretches
from shared.errors import ClickledgerError, ClientBroken, OffsetLost, TransientError
from shared.kafka import Reader
from shared.settings import KafkaSettings

log = logging.getLogger(__name__)

OLDER_SHARE: Final = 4
"""One part in so many of the memory is for those who are behind, as far as they need it."""
GATHER_MS: Final = 50
"""What a webhook may wait for others: a request for every click or two is for Kafka alone."""
TURN_TRIES_MAX: Final = 20
"""Fetches of 500 ms that a turn waits for records that must be there."""
SLICE_MAX: Final = 2_000
"""Entries looked at between two turns of the event loop, about 10 ms."""


@dataclass(slots=True)
class _Kept:
    entries: deque[Entry] = field(default_factory=deque)
    end: int = 0
    """The offset behind the last entry."""

    @property
    def first(self) -> int:
        return self.end - len(self.entries)


class Feed:
    """Entries by partition and offset. `run` must run beside it."""

    def __init__(self, kafka: KafkaSettings, *, bytes_max: int, readers: int) -> None:
        self._new_reader: Callable[[int], Reader] = lambda gather_ms: Reader(
            kafka, kafka.topic_enriched, client_id="clickledger-deliverer", gather_ms=gather_ms
        )
        self._bytes_max = bytes_max
        self._bytes = 0
        self._kept: dict[int, _Kept] = {}
        self._older = Stretches(bytes_max // OLDER_SHARE)
        self.listeners: set[asyncio.Event] = set()
        """Set at each arrival."""
        self._free: list[Reader] = []
        self._turns = asyncio.Semaphore(readers)

    @property
    def partitions(self) -> Sequence[int]:
        """Partitions of the topic; none before the first contact."""
        return sorted(self._kept)

    def end(self, partition: int) -> int:
        """The offset behind the last record that was read from a partition."""
        return self._kept[partition].end

    async def run(self) -> None:
        """Follow the topic until it fails. Raises TransientError, OperatorError (OffsetLost: begin anew)."""
        reader = self._new_reader(GATHER_MS)
        try:
            await reader.start()
            partitions = await reader.partitions()
            ends = await reader.end_offsets(partitions)
            self._kept = {partition: _Kept(end=ends[partition]) for partition in partitions}
            self._bytes = 0
            reader.assign(ends)
            self._wake()
            while True:
                for partition, records in (await reader.getmany(timeout_ms=200)).items():
                    self._put(partition, [Entry.of(record) for record in records])
                if len(await reader.partitions()) > len(partitions):
                    raise TransientError("the topic has grown")
        finally:
            await reader.close()

    def _put(self, partition: int, entries: Sequence[Entry]) -> None:
        kept = self._kept[partition]
        if kept.end != entries[0].offset:  # the broker left offsets out: what is kept has no holes
            self._bytes -= sum(map(weight, kept.entries))
            kept.entries.clear()
        for entry in entries:
            if kept.entries and entry.offset != kept.entries[-1].offset + 1:
                self._bytes -= sum(map(weight, kept.entries))
                kept.entries.clear()
            kept.entries.append(entry)
            self._bytes += weight(entry)
        kept.end = entries[-1].offset + 1
        self._trim()
        self._wake()

    def _trim(self) -> None:
        while self._bytes + self._older.size > self._bytes_max:
            longest = max(self._kept.values(), key=lambda each: len(each.entries))
            self._bytes -= weight(longest.entries.popleft())

    def _wake(self) -> None:
        for listener in self.listeners:
            listener.set()

    async def read(self, partition: int, offset: int) -> Sequence[Entry]:
        """Entries from an offset on, without a hole in what Kafka has; none at the end.

        Raises OffsetLost when they are gone from Kafka, TransientError, OperatorError.
        """
        kept = self._kept[partition]
        if offset == kept.end:
            return ()
        if kept.first <= offset < kept.end:
            start = offset - kept.first
            return list(islice(kept.entries, start, start + SLICE_MAX))
        return self._older.read(partition, offset) or await self._turn(partition, offset)

    async def earliest(self, partition: int) -> int:
        """The offset of the first record that Kafka has. Raises TransientError, OperatorError."""
        async with self._borrowed() as reader:
            return (await reader.begin_offsets([partition]))[partition]

    async def _turn(self, partition: int, offset: int) -> Sequence[Entry]:
        async with self._borrowed() as reader:
            if found := self._older.read(partition, offset):  # another webhook has read it meanwhile
                return found
            metrics.turns.inc()
            bounds = (
                (await reader.begin_offsets([partition]))[partition],
                (await reader.end_offsets([partition]))[partition],
            )
            if not bounds[0] <= offset <= bounds[1]:
                raise OffsetLost(reader.topic, partition, offset, bounds[0])
            if offset == bounds[1]:
                return ()
            reader.assign({partition: offset})
            for _ in range(TURN_TRIES_MAX):
                if records := (await reader.getmany(timeout_ms=500)).get(partition):
                    reader.rest()
                    entries = [Entry.of(record) for record in records[:SLICE_MAX]]
                    self._older.put(partition, offset, entries)
                    self._trim()
                    return entries
        raise TransientError(f"no record at {partition}/{offset} in time")

    @asynccontextmanager
    async def _borrowed(self) -> AsyncIterator[Reader]:
        async with self._turns:
            reader = self._free.pop() if self._free else None
            if reader is None:
                reader = self._new_reader(0)  # what a turn reads is there already: nothing to wait for
                await reader.start()
            try:
                yield reader
            except (ClickledgerError, asyncio.CancelledError) as exc:
                if isinstance(exc, OffsetLost) and not isinstance(exc, ClientBroken):
                    self._free.append(reader)
                else:
                    await reader.close(1)
                raise
            self._free.append(reader)

    async def close(self) -> None:
        """Disconnect."""
        readers, self._free = self._free, []
        await asyncio.gather(*(reader.close(2) for reader in readers))
