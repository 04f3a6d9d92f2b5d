"""From records to the events of one webhook: which are wanted, how many fit, where that leaves its line of work. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson

from reporting.webhooks.places import Mark, Progress
from shared.errors import DataError
from shared.events import ENRICHED_VERSION, decode_enriched, raw_offset_of
from shared.kafka import Record
from shared.rte import Filter, event_of

ENTRY_OVERHEAD_BYTES: Final = 500
"""Python's own weight of an entry, so that a bound in bytes holds in memory."""
_TENANT: Final = re.compile(rb'"tenant":("(?:[^"\\]|\\.)*")')


@dataclass(slots=True)
class Entry:
    """One record, taken apart as far as somebody asked."""

    offset: int
    raw: int | None
    """None for a record that no enricher wrote."""
    tenant: bytes
    """In JSON."""
    value: bytes

    @classmethod
    def of(cls, record: Record) -> Entry:
        """From Kafka."""
        value = record.value or b""
        found = _TENANT.search(value)
        return cls(record.offset, raw_offset_of(record.headers), found[1] if found else b"", value)


def weight(entry: Entry) -> int:
    """Bytes that an entry takes in memory, about."""
    return len(entry.value) + ENTRY_OVERHEAD_BYTES


class Event(NamedTuple):
    """A wanted click."""

    event_id: str
    body: bytes
    """The CloudEvent in JSON."""


@dataclass(slots=True)
class _Click:
    """A decoded record, as an event once somebody wants it: to make one takes longer than to see that nobody does."""

    record: dict[str, Any]
    _event: Event | None = None

    @property
    def event(self) -> Event:
        """The click as an event."""
        if self._event is None:
            self._event = Event(self.record["transaction_id"], orjson.dumps(event_of(self.record)))
        return self._event


class Wanted(NamedTuple):
    """What one line of work wants, and of how much at once."""

    prefix: bytes
    """How the records of the stream begin."""
    tenant: bytes
    """In JSON, as it stands in records."""
    filter: Filter
    events_max: int
    bytes_max: int
    from_ms: int | None = None
    to_ms: int | None = None

    def event(self, entry: Entry) -> Event | None:
        """The entry as an event, None when it is not wanted."""
        if entry.tenant != self.tenant:
            return None
        click = _decoded(entry.value)
        return click.event if click is not None and self._matches(click.record) else None

    def _matches(self, record: dict[str, Any]) -> bool:
        if self.from_ms is not None and record["received_at"] < self.from_ms:
            return False
        if self.to_ms is not None and record["received_at"] >= self.to_ms:
            return False
        return self.filter.matches(record)


def prefix_of(stream: str) -> bytes:
    """How the records of a stream begin: version and stream are their first fields."""
    return b'{"v":%d,"stream":%b,' % (ENRICHED_VERSION, orjson.dumps(stream))


@lru_cache(maxsize=1_024)  # webhooks of a tenant that keep up look at the same records at the same time
def _decoded(value: bytes) -> _Click | None:
    try:
        return _Click(decode_enriched(value))
    except DataError:
        return None


@dataclass
class Choice:
    """Events chosen so far for one request, over all partitions."""

    wanted: Wanted
    chosen: dict[int, list[Event]] = field(default_factory=dict)
    """By partition."""
    count: int = 0
    size: int = 0
    marks: dict[int, Mark] = field(default_factory=dict)
    """Where the partitions stand behind what was chosen or not wanted."""
    is_full: bool = False

    @property
    def events(self) -> list[Event]:
        """In the order in which they are sent."""
        return [event for _, events in sorted(self.chosen.items()) for event in events]

    def take(self, partition: int, mark: Mark, entries: Iterable[Entry], end: int | None = None) -> None:
        """Choose from a partition's entries, which go on at `mark`; none at Kafka offset `end` or behind it."""
        for entry in entries:
            if end is not None and entry.offset >= end:
                mark = mark._replace(offset=max(mark.offset, end))  # Kafka left out what stood before it
                break
            if entry.raw is None or not entry.value.startswith(self.wanted.prefix):
                mark = mark._replace(offset=entry.offset + 1)
                continue
            behind, is_new = mark.step(entry.offset, entry.raw)
            event = self.wanted.event(entry) if is_new else None
            if event is not None and not self._fits(partition, event):
                break
            mark = behind
            if self.is_full:
                break
        self.marks[partition] = mark

    def _fits(self, partition: int, event: Event) -> bool:
        """Add an event, unless it is too much beside others."""
        if self.count and self.size + len(event.body) > self.wanted.bytes_max:
            self.is_full = True
            return False
        self.chosen.setdefault(partition, []).append(event)
        self.count += 1
        self.size += len(event.body)
        self.is_full = self.count >= self.wanted.events_max
        return True


def is_over(progress: Progress) -> bool:
    """Whether a replay has read all that it was to read."""
    return progress.window is not None and all(
        progress.mark(partition).offset >= end for partition, end in progress.window.ends.items()
    )
