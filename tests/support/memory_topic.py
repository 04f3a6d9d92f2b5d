"""A topic in memory with the reader of `shared.kafka` in front of it, for what reads clicks.enriched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from shared.enriched import Enriched, Stream
from shared.errors import TransientError
from shared.events import HEADER_RAW_OFFSET, encode_raw_offset
from shared.settings import KafkaSettings


class MemoryRecord(NamedTuple):
    """A record as `shared.kafka` gives it."""

    offset: int
    headers: tuple[tuple[str, bytes], ...]
    value: bytes


@dataclass
class MemoryReader:
    """`shared.kafka.Reader` over raw offsets in lists."""

    written: dict[int, list[int]]
    """Raw offsets of each partition of clicks.enriched."""
    firsts: dict[int, int] = field(default_factory=dict)
    """What retention left."""
    raw_ends: dict[int, int] = field(default_factory=dict)
    nexts: dict[int, int] = field(default_factory=dict)
    """What the enricher committed, where it did."""
    failing: bool = False
    at: dict[int, int] = field(default_factory=dict)

    async def partitions(self, topic: str = "") -> list[int]:
        """All."""
        return sorted(self.written)

    async def begin_offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """What retention left."""
        if self.failing:
            raise TransientError("no answer")
        return {p: self.firsts.get(p, 0) for p in partitions}

    async def end_offsets(self, partitions: Iterable[int], topic: str = "") -> dict[int, int]:
        """The ends of either topic."""
        if topic == "clicks.raw":
            return {p: self.raw_ends.get(p, max(self.written[p], default=-1) + 1) for p in partitions}
        return {p: len(self.written[p]) for p in partitions}

    async def committed(self, group_id: str, topic: str, partitions: list[int]) -> dict[int, int]:
        """Of the enricher."""
        assert (group_id, topic) == ("clickledger-enricher-s", "clicks.raw")
        return {p: self.nexts[p] for p in partitions if p in self.nexts}

    def assign(self, positions: Mapping[int, int]) -> None:
        """Read from here on."""
        self.at = dict(positions)

    async def getmany(self, timeout_ms: int) -> dict[int, list[MemoryRecord]]:
        """A few records of each partition."""
        found = {}
        for partition, start in self.at.items():
            raw_offsets = self.written[partition][start : start + 7]
            if raw_offsets:
                found[partition] = [record(start + i, raw_offset) for i, raw_offset in enumerate(raw_offsets)]
                self.at[partition] = start + len(raw_offsets)
        return found

    async def close(self) -> None:
        """Nothing to close."""


def record(offset: int, raw_offset: int) -> MemoryRecord:
    """A record with nothing but its raw offset."""
    return MemoryRecord(offset, ((HEADER_RAW_OFFSET, encode_raw_offset(raw_offset)),), b"x")


def reading(reader: MemoryReader, starts: tuple[int, ...] = (0,)) -> Enriched:
    """A reader of stream `s` over it."""
    enriched = Enriched(KafkaSettings(), Stream("s", starts), "test", 1 << 20)
    enriched._reader = cast("Any", reader)
    return enriched
