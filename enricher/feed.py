"""The records of one partition on their way from the consumer to its worker: in order, without holes.

A fetch that was on its way while the worker went back to an earlier offset arrives late and would make a hole. So what
is handed out must begin exactly at the expected offset; anything else is dropped and read again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from shared.errors import OffsetLost
from shared.kafka import Record

FETCHES_MAX: Final = 8
"""Fetches (at most 1 MiB each) that wait for the worker; a bound for bytes."""
BYTES_MAX: Final = 2 << 20
"""Bytes of values that are enough to wait when two fetches hold them."""
RECORDS_MAX: Final = 500
"""Records that are enough to wait when two fetches hold them: one to go on with at once, one behind it. Fewer would have the
whole consumer pause for a partition whose fetches are small, because its worker waits for a commit."""
TOGETHER_MAX: Final = 1_000
"""Records handed out at once when several fetches wait: then one batch and one commit carry them."""
MISSING_TRIES_MAX: Final = 5
"""Fetches in a row that begin above the expected offset before the offsets between are believed to be gone."""


class Feed:
    """Fetches waiting for a worker. `seek` and `resume` are the consumer's for this partition."""

    def __init__(self, topic: str, partition: int, seek: Callable[[int], None], resume: Callable[[], None]) -> None:
        self._topic = topic
        self._partition = partition
        self._seek = seek
        self._resume = resume
        self._fetches: deque[Sequence[Record]] = deque()
        self._lost: OffsetLost | None = None
        self._nudged = False
        self._arrived = asyncio.Event()
        self._expected = 0
        self._missing_tries = 0

    @property
    def is_full(self) -> bool:
        """Whether the consumer should hold the partition."""
        fetches = len(self._fetches)
        if fetches < 2:  # one to go on with at once, one behind it
            return False
        if fetches >= FETCHES_MAX or sum(map(len, self._fetches)) >= RECORDS_MAX:
            return True
        return sum(len(record.value or b"") for records in self._fetches for record in records) >= BYTES_MAX

    def put(self, records: Sequence[Record]) -> None:
        """A fetch arrived."""
        self._fetches.append(records)
        self._arrived.set()

    def fail(self, lost: OffsetLost) -> None:
        """The wanted offset is no longer in Kafka."""
        self._lost = lost
        self._arrived.set()

    def nudge(self) -> None:
        """Wake the worker: there may be a request for it."""
        self._nudged = True
        self._arrived.set()

    def restart(self, offset: int) -> None:
        """Drop what waits and read from `offset` on. Raises NotOwned after the revoke."""
        self._fetches.clear()
        self._lost = None
        self._expected = offset
        self._seek(offset)
        self._resume()

    async def wait_for_nudge(self) -> None:
        """Wait for a request only: the partition is stopped."""
        while not self._nudged:
            self._arrived.clear()
            await self._arrived.wait()
        self._nudged = False

    async def next(self) -> Sequence[Record]:
        """The next records, beginning at the expected offset and without a hole; empty when nudged.

        Raises OffsetLost when records are gone from Kafka.
        """
        while True:
            if self._lost is not None:
                raise self._lost
            if self._nudged:
                self._nudged = False
                return ()
            if self._fetches:
                taken = self._take_waiting()
                self._resume()
                if taken:
                    return taken
                continue
            self._arrived.clear()
            await self._arrived.wait()

    def _take_waiting(self) -> Sequence[Record]:
        """The first fetch, and those behind it as long as all are few; empty when none continues."""
        taken = self._take(self._fetches.popleft())
        while self._lost is None and self._fetches and len(taken) + len(self._fetches[0]) <= TOGETHER_MAX:
            taken = [*taken, *self._take(self._fetches.popleft())]
        return taken

    def _take(self, records: Sequence[Record]) -> Sequence[Record]:
        """The part of a fetch that continues what was handed out; empty, and read again, when none does."""
        taken = contiguous(records, self._expected)
        if taken:
            self._expected = taken[-1].offset + 1
            self._missing_tries = 0
        if len(taken) < len(records) and records[-1].offset >= self._expected:
            self._read_again(records)
        return taken

    def _read_again(self, records: Sequence[Record]) -> None:
        following = next(record.offset for record in records if record.offset >= self._expected)
        self._missing_tries += 1
        if self._missing_tries >= MISSING_TRIES_MAX:
            self._missing_tries = 0
            self._lost = OffsetLost(self._topic, self._partition, self._expected, following)
        else:
            self._fetches.clear()
            self._seek(self._expected)


def contiguous(records: Sequence[Record], expected: int) -> Sequence[Record]:
    """The longest run of records that begins at `expected` and has no hole."""
    if records[0].offset == expected and records[-1].offset - expected + 1 == len(records):
        return records
    run = []
    for record in records:
        if record.offset == expected:
            run.append(record)
            expected += 1
        elif record.offset > expected:
            break
    return run
