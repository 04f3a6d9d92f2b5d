"""Older records that were read from Kafka and are about to be asked for again: the next ones of who is behind. Pure.

A webhook without `batch` asks for one event after the other. Who has read a stretch for it keeps the beginning, within a
share of a bound in bytes, so that the next requests need no fetch; the one that nobody asked of for longest goes first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from reporting.webhooks.choosing import Entry, weight

SHARES: Final = 32
"""So many stretches are kept at least: of a few webhooks all partitions, 256 KiB or 150 events of each by default."""


class _Stretch(NamedTuple):
    end: int
    """The offset behind the last entry."""
    entries: Sequence[Entry]
    size: int


class Stretches:
    """Entries by partition and offset."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept: OrderedDict[tuple[int, int], _Stretch] = OrderedDict()
        """By partition and the offset that was asked for, the one that was used last at the end."""
        self.size = 0
        """Bytes of what is kept."""

    def read(self, partition: int, offset: int) -> Sequence[Entry]:
        """Entries from an offset on, without a hole in what Kafka had; none when they are not here."""
        for place, stretch in self._kept.items():
            if place[0] == partition and place[1] <= offset < stretch.end:
                self._kept.move_to_end(place)
                return stretch.entries[bisect_left(stretch.entries, offset, key=attrgetter("offset")) :]
        return ()

    def put(self, partition: int, offset: int, entries: Sequence[Entry]) -> None:
        """Keep the beginning of what Kafka gave for an offset."""
        count = size = 0
        for entry in entries:
            if count and size + weight(entry) > self._bytes_max // SHARES:
                break
            count, size = count + 1, size + weight(entry)
        former = self._kept.pop((partition, offset), None)
        self._kept[partition, offset] = _Stretch(entries[count - 1].offset + 1, entries[:count], size)
        self.size += size - (former.size if former else 0)
        while self.size > self._bytes_max:
            _, oldest = self._kept.popitem(last=False)
            self.size -= oldest.size
