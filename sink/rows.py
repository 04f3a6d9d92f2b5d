"""The rows of one partition, from when they are taken until they are stored: kept as columns.

Nearly every row is only counted and sent. So what was taken stands in runs, of which each column is one list, and a `Row` is made
only for one that is looked at by itself. A run is also what is joined for sending at once.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, NamedTuple, overload

RUN_ROWS: Final = 256
"""Rows of a run at most: some 300 kB, which stay in the processor's cache."""
ROW_OVERHEAD_BYTES: Final = 250
"""Python's own weight of a buffered row (its places in the columns, the key, the values' heads and what is lost between them), so
that bounds in bytes hold in memory; 180 for an ordinary row, the rest for a suspect."""


class Row(NamedTuple):
    """A taken enriched record: the bytes that become one row."""

    raw_offset: int
    kafka_offset: int
    timestamp_ms: int
    key: bytes
    value: bytes
    is_suspect: bool
    is_broken: bool
    """The value is not JSON: it becomes a `malformed` row without asking ClickHouse."""


@dataclass(slots=True)
class Run:
    """At most `RUN_ROWS` rows whose raw offsets go up by one from `raw_first`; the columns are equally long."""

    raw_first: int
    kafka_offsets: array[int]
    timestamps_ms: array[int]
    keys: list[bytes]
    values: list[bytes]
    suspects: set[int]
    """Raw offsets of possible copies."""
    broken: set[int]
    """Raw offsets of rows whose value is not JSON."""
    value_bytes: int = field(init=False)
    """Of all values together."""

    def __post_init__(self) -> None:
        self.value_bytes = sum(map(len, self.values))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def raw_offsets(self) -> range:
        """Of all its rows."""
        return range(self.raw_first, self.raw_first + len(self.values))

    @property
    def memory_bytes(self) -> int:
        """What it weighs in memory."""
        return self.value_bytes + len(self.values) * ROW_OVERHEAD_BYTES

    def row(self, at: int) -> Row:
        """The row at this place."""
        raw = self.raw_first + at
        columns = (self.kafka_offsets[at], self.timestamps_ms[at], self.keys[at], self.values[at])
        return Row(raw, *columns, raw in self.suspects, raw in self.broken)

    def values_with(self, replaced: Mapping[int, bytes]) -> list[bytes]:
        """The values, some replaced by others, by raw offset."""
        if not replaced:
            return self.values
        return [replaced.get(raw, value) for raw, value in zip(self.raw_offsets, self.values, strict=True)]

    def can_take(self, run: Run) -> bool:
        """Whether another run goes on where this one ends, and fits."""
        return run.raw_first == self.raw_first + len(self) and len(self) + len(run) <= RUN_ROWS

    def extend(self, run: Run) -> None:
        """Take the rows of another one, see `can_take`."""
        self.kafka_offsets.extend(run.kafka_offsets)
        self.timestamps_ms.extend(run.timestamps_ms)
        self.keys += run.keys
        self.values += run.values
        self.suspects |= run.suspects
        self.broken |= run.broken
        self.value_bytes += run.value_bytes

    def part(self, begin: int, end: int) -> Run:
        """The rows from one place up to another as a run of their own."""
        raws = self.raw_offsets[begin:end]
        return Run(
            raws.start,
            self.kafka_offsets[begin:end],
            self.timestamps_ms[begin:end],
            self.keys[begin:end],
            self.values[begin:end],
            {raw for raw in self.suspects if raw in raws},
            {raw for raw in self.broken if raw in raws},
        )


def run_of(row: Row) -> Run:
    """A single row."""
    raw = row.raw_offset
    marks = ({raw} if row.is_suspect else set(), {raw} if row.is_broken else set())
    return Run(raw, array("q", (row.kafka_offset,)), array("q", (row.timestamp_ms,)), [row.key], [row.value], *marks)


class Rows(Sequence[Row]):
    """Rows in order, as runs that no longer change."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self.runs = tuple(runs)
        self._count = sum(map(len, self.runs))

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Rows:
        """Of single rows."""
        buffer = Buffer()
        for row in rows:
            buffer.add(run_of(row))
        return buffer.pop(len(buffer))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Row]:
        return (run.row(at) for run in self.runs for at in range(len(run)))

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        """A row, or a list of some."""
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(self._count))]
        at = range(self._count)[index]
        for run in self.runs:
            if at < len(run):
                return run.row(at)
            at -= len(run)
        raise AssertionError("the runs have as many rows as were counted")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # equal rows in other runs are equal

    def keys(self) -> Iterator[bytes]:
        """Each row's key."""
        return chain.from_iterable(run.keys for run in self.runs)

    def with_keys(self, keys: Collection[bytes]) -> list[Row]:
        """The rows that have one of these keys."""
        return [run.row(at) for run in self.runs for at, key in enumerate(run.keys) if key in keys]

    def suspect_keys(self) -> list[bytes]:
        """The keys of possible copies, in order."""
        return [run.keys[raw - run.raw_first] for run in self.runs for raw in sorted(run.suspects)]

    def broken(self) -> list[Row]:
        """Those whose value is not JSON, in order."""
        return [run.row(raw - run.raw_first) for run in self.runs for raw in sorted(run.broken)]


class Buffer:
    """Rows that were taken and wait: added at the end, taken from the beginning."""

    def __init__(self) -> None:
        self._runs: deque[Run] = deque()
        self._count = 0
        self.memory_bytes = 0
        """What all weigh in memory."""

    def __len__(self) -> int:
        return self._count

    @property
    def room(self) -> int:
        """How many rows the run to come may have: those that fill the last one, else a whole one."""
        return RUN_ROWS - (len(self._runs[-1]) % RUN_ROWS if self._runs else 0)

    def clear(self) -> None:
        """Forget all."""
        self._runs.clear()
        self._count = self.memory_bytes = 0

    def add(self, run: Run) -> None:
        """Add rows behind all others."""
        self._count += len(run)
        self.memory_bytes += run.memory_bytes
        if self._runs and self._runs[-1].can_take(run):
            self._runs[-1].extend(run)
        else:
            self._runs.append(run)

    def pop(self, count: int) -> Rows:
        """Take so many rows from the beginning."""
        runs: list[Run] = []
        left = count
        while left:
            run = self._runs.popleft()
            if len(run) > left:
                self._runs.appendleft(run.part(left, len(run)))
                run = run.part(0, left)
            runs.append(run)
            left -= len(run)
        self._count -= count
        self.memory_bytes -= sum(run.memory_bytes for run in runs)
        return Rows(runs)

    def raw_offset(self, at: int) -> int:
        """The raw offset of the row at this place."""
        for run in self._runs:
            if at < len(run):
                return run.raw_first + at
            at -= len(run)
        raise IndexError(at)

    def count_within(self, rows_max: int, bytes_max: int) -> int:
        """How many rows from the beginning are within both limits; one at least."""
        if self.memory_bytes <= bytes_max:
            return min(self._count, rows_max)
        count = total = 0
        for run in self._runs:
            if total + run.memory_bytes > bytes_max:
                for value in run.values:
                    total += len(value) + ROW_OVERHEAD_BYTES
                    if total > bytes_max:
                        break
                    count += 1
                break
            total += run.memory_bytes
            count += len(run)
        return min(max(count, 1), rows_max)

    def count_up_to(self, kafka_offset: int) -> int:
        """How many rows stand at a Kafka offset or before it."""
        return sum(bisect_right(run.kafka_offsets, kafka_offset) for run in self._runs)
