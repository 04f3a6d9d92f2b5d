"""Finds the records of one transaction-id in Kafka by looking at a bounded part of one partition.

An id carries its partition, and a version 7 id the time it was made, so its raw record stands near that time. Records
that came late (from a spool) and those of keyed ids stand anywhere, in flight most likely near the end: the end is
looked at too. What is looked at is bounded, so "not found" is a statement about that part only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, NamedTuple, Self

from shared.errors import TransientError
from shared.events import raw_offset_of
from shared.ids import created_at_ms, partition_of
from shared.kafka import Reader, Record
from shared.settings import KafkaSettings

_CLOCK_MS: Final = 1_000
"""How far the clocks of an id, or a row, and of its record may be apart."""
_READ_MS: Final = 200


class Limits(NamedTuple):
    """Of one search."""

    records: int
    """looked at from one place on"""
    ms: int
    """for all of it"""


class Found(NamedTuple):
    """The records of an id; None where the part that was looked at has none."""

    raw: Record | None
    enriched: Record | None
    is_whole: bool
    """Whether the part that is looked at for the raw record is all that Kafka keeps of the partition."""


class Place(NamedTuple):
    """Where and when an enriched record was written."""

    partition: int
    raw_offset: int
    written_ms: int


async def find_raw(kafka: KafkaSettings, limits: Limits, transaction_id: str) -> Found:
    """The raw record of an id, and its first enriched one. Raises TransientError, OperatorError."""
    partition, key = partition_of(transaction_id), transaction_id.encode()
    async with _bounded(limits):
        async with _Topic(kafka, kafka.topic_raw, partition) as topic:
            raw = await topic.find(lambda record: record.key == key, limits.records, created_at_ms(transaction_id))
            is_whole = topic.is_whole
        place = raw and Place(partition, raw.offset, raw.timestamp)
        return Found(raw, await _enriched(kafka, limits, key, place) if place else None, is_whole)


async def find_enriched(kafka: KafkaSettings, limits: Limits, transaction_id: str, place: Place) -> Record | None:
    """The enriched record of a raw offset. Raises TransientError, OperatorError."""
    async with _bounded(limits):
        return await _enriched(kafka, limits, transaction_id.encode(), place)


async def _enriched(kafka: KafkaSettings, limits: Limits, key: bytes, place: Place) -> Record | None:
    def is_wanted(record: Record) -> bool:
        return record.key == key and raw_offset_of(record.headers) == place.raw_offset

    async with _Topic(kafka, kafka.topic_enriched, place.partition) as topic:
        return await topic.find(is_wanted, limits.records, place.written_ms)


@asynccontextmanager
async def _bounded(limits: Limits) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limits.ms / 1000):
            yield
    except TimeoutError as exc:
        raise TransientError(f"Kafka was not searched within {limits.ms:,} ms") from exc


class _Topic:
    """One partition of a topic, with a reader of its own while it is entered."""

    def __init__(self, kafka: KafkaSettings, topic: str, partition: int) -> None:
        self._reader = Reader(kafka, topic, client_id="clickledger-trace")
        self._partition = partition
        self.is_whole = False
        """Whether the last search was of every record of the partition."""

    async def __aenter__(self) -> Self:
        await self._reader.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._reader.close()

    async def find(self, is_wanted: Callable[[Record], bool], count: int, time_ms: int | None) -> Record | None:
        """The first wanted record among `count` from a time on, else among the last `count`."""
        partition = self._partition
        self.is_whole = True
        if partition not in await self._reader.partitions():
            return None
        begin = (await self._reader.begin_offsets([partition]))[partition]
        end = (await self._reader.end_offsets([partition]))[partition]
        starts = [max(begin, end - count)]
        if time_ms is not None:
            at = (await self._reader.offsets_at(max(0, time_ms - _CLOCK_MS), [partition]))[partition]
            starts.insert(0, end if at is None else at)
        self.is_whole = starts[-1] == begin
        seen_to = begin
        for start in starts:
            found, seen_to = await self._scan(is_wanted, max(start, seen_to), min(end, start + count))
            if found is not None:
                return found
        return None

    async def _scan(self, is_wanted: Callable[[Record], bool], start: int, end: int) -> tuple[Record | None, int]:
        """Look at the offsets from `start` to before `end`: what was found, and up to where nothing was."""
        if start >= end:
            return None, start
        self._reader.assign({self._partition: start})
        while start < end:
            for record in (await self._reader.getmany(_READ_MS)).get(self._partition, ()):
                if record.offset < end and is_wanted(record):
                    return record, record.offset
            start = await self._reader.position(self._partition)
        return None, start
