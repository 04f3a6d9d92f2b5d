"""Where a webhook stands: per partition the next Kafka offset to look at and the next raw offset to give, without I/O.

Kafka offsets say where to read, raw offsets what was given: a record that the enricher wrote again lies at a new Kafka
offset with an old raw offset, and is passed over. A raw offset that was stepped over is remembered as a hole, so that it
is given when it is written later (`clickledger refill`). One `Progress` is one line of work: the live one of a webhook, or
a replay, which ends at given offsets and wants the clicks of a time range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

PROGRESS_VERSION: Final = 1
UNKNOWN: Final = -1
"""A raw offset that is not known: the next record says it."""
HOLES_MAX: Final = 16
"""Of one partition; the sink raises an alarm for each."""


class Mark(NamedTuple):
    """A place in one partition."""

    offset: int
    """Next Kafka offset of `clicks.enriched`."""
    raw: int = UNKNOWN
    """Next raw offset: lower ones were given, but for the holes."""
    holes: tuple[tuple[int, int], ...] = ()
    """Raw offsets, from and to, that were stepped over."""

    def step(self, offset: int, raw: int) -> tuple[Mark, bool]:
        """The place behind a record, and whether the record is to be given."""
        if self.raw in (UNKNOWN, raw):
            return Mark(offset + 1, raw + 1, self.holes), True
        if raw > self.raw:
            return Mark(offset + 1, raw + 1, (*self.holes, (self.raw, raw - 1))[-HOLES_MAX:]), True
        for number, (first, last) in enumerate(self.holes):
            if first <= raw <= last:
                rest = tuple(hole for hole in ((first, raw - 1), (raw + 1, last)) if hole[0] <= hole[1])
                return Mark(offset + 1, self.raw, self.holes[:number] + rest + self.holes[number + 1 :]), True
        return Mark(offset + 1, self.raw, self.holes), False


Marks = Mapping[int, Mark]


@dataclass(frozen=True, slots=True)
class Pending:
    """Events that were read and are being sent. The range is kept, not the events: they are read again for each attempt."""

    message_id: str
    until: Marks
    """Where the line of work stands when they are done."""
    events: int
    asked: str = ""
    """Digest of the filter and the batch's bounds that they were chosen by; with others they are chosen anew."""
    attempts: int = 0
    """Attempts that ended."""
    first_at_ms: int = 0
    next_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a replay that a live line does not have."""

    replay_id: str
    from_ms: int
    """Least `received_at`."""
    to_ms: int
    """`received_at` from here on is not wanted."""
    ends: Mapping[int, int]
    """Kafka offsets at which it ends."""
    delivered: int = 0
    """Events so far."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where one line of work stands; written to Kafka, never kept anywhere else."""

    stream: str
    marks: Marks
    reset: int = 0
    """Number of the start position that it began with; a user may ask for a new one."""
    pending: Pending | None = None
    failures: int = 0
    """Failed attempts since the last success."""
    skipped: int = 0
    """Events given up after the last attempt."""
    lost: int = 0
    """Kafka offsets that were gone before they were read."""
    window: Window | None = None

    def mark(self, partition: int) -> Mark:
        """The place in a partition; one that was made later is read from its beginning."""
        return self.marks.get(partition, Mark(0))

    def moved(self, marks: Marks, **changes: Any) -> Progress:
        """With other places in some partitions."""
        return replace(self, marks={**self.marks, **marks}, **changes)


def encode_marks(marks: Marks) -> dict[str, list[Any]]:
    """Marks in JSON."""
    return {str(partition): list(mark) for partition, mark in sorted(marks.items())}


def decode_marks(found: Mapping[str, Any]) -> dict[int, Mark]:
    """Marks from JSON."""
    return {
        int(partition): Mark(offset, raw, tuple((first, last) for first, last in holes))
        for partition, (offset, raw, holes) in found.items()
    }


def encode_progress(progress: Progress) -> dict[str, Any]:
    """The record of a line of work."""
    record: dict[str, Any] = {
        "v": PROGRESS_VERSION,
        "stream": progress.stream,
        "marks": encode_marks(progress.marks),
        "reset": progress.reset,
        "failures": progress.failures,
        "skipped": progress.skipped,
        "lost": progress.lost,
    }
    if (pending := progress.pending) is not None:
        record["pending"] = {
            "id": pending.message_id,
            "until": encode_marks(pending.until),
            "events": pending.events,
            "asked": pending.asked,
            "attempts": pending.attempts,
            "first_at": pending.first_at_ms,
            "next_at": pending.next_at_ms,
        }
    if (window := progress.window) is not None:
        record["window"] = {
            "id": window.replay_id,
            "from": window.from_ms,
            "to": window.to_ms,
            "ends": {str(partition): end for partition, end in window.ends.items()},
            "delivered": window.delivered,
        }
    return record


def decode_progress(record: Mapping[str, Any]) -> Progress:
    """Read what `encode_progress` wrote."""
    pending, window = record.get("pending"), record.get("window")
    return Progress(
        stream=record["stream"],
        marks=decode_marks(record["marks"]),
        reset=record["reset"],
        failures=record["failures"],
        skipped=record["skipped"],
        lost=record["lost"],
        pending=pending
        and Pending(
            pending["id"],
            decode_marks(pending["until"]),
            pending["events"],
            pending.get("asked", ""),
            pending["attempts"],
            pending["first_at"],
            pending["next_at"],
        ),
        window=window
        and Window(
            window["id"],
            window["from"],
            window["to"],
            {int(partition): end for partition, end in window["ends"].items()},
            window["delivered"],
        ),
    )
