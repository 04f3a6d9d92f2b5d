"""Exact blocks of one partition: which record becomes which row, when a block is due, and the bytes of its insert.

Pure: records and `now` go in, values come out. Theory of operation:

* An enriched record carries the offset of its raw record. Before any record of raw offset *o* stand all lower ones, so
  the first copy of each offset, taken in order, is the stream without holes. `Intake` drops copies at or below `taken`.
* A step of more than one is a gap. Reading goes on, but nothing is taken until the awaited offset arrives (refill) or
  the gap is accepted; then reading starts again at the first record behind it.
* A block is a run of taken rows, cut when it is due by rows, bytes or age, or exactly as a `Plan` says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import orjson

from shared.events import is_suspect, raw_offset_of
from sink.ordinary import EnrichedRecord, ordinary_run
from sink.plans import Plan
from sink.rows import Buffer, Row, Rows, run_of

BLOCK_AT_MS_MAX: Final = 4_102_444_800_000
"""2100-01-01: a first row from beyond it has a broken clock, and the record's Kafka timestamp is used instead."""


class Range(NamedTuple):
    """Raw offsets `first` to `last`, both included."""

    first: int
    last: int


class Gap(NamedTuple):
    """Raw offsets that are missing, and the Kafka offset of the first record behind them."""

    missing: Range
    kafka_offset: int


@dataclass(frozen=True, slots=True)
class Limits:
    """When a block is due and how much one block holds."""

    rows_max: int = 10_000
    bytes_max: int = 16 << 20
    age_ms: int = 500


def age_limit_ms(age_ms: int, partitions_total: int, inserts_per_second: float) -> int:
    """The age at which a partition's block is due, in ms: at least `age_ms`.

    A member's share of the table's insert budget is its share of the partitions, so owned / (budget x owned / total) =
    total / budget seconds between two blocks of a partition keep all members together within the budget.
    """
    return max(age_ms, round(1000 * partitions_total / inserts_per_second))


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one insert, in order of their raw offset."""

    plan: Plan
    rows: Rows


class Unbuildable(NamedTuple):
    """The records of a plan are no longer in Kafka as they were; `found` is the highest raw offset read instead."""

    plan: Plan
    found: int


def dedup_token(stream: str, partition: int, block: Block) -> str:
    """`<stream>-<partition>-<first raw>-<last raw>`, with `#<attempt>` after an acknowledged insert that left no rows."""
    token = f"{stream}-{partition}-{block.rows[0].raw_offset}-{block.rows[-1].raw_offset}"
    return f"{token}#{block.plan.attempt}" if block.plan.attempt else token


# --- taking records ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Counts:
    """What became of the records read."""

    taken: int = 0
    dropped: int = 0
    """Copies of offsets that were taken before."""
    foreign: int = 0
    """Records that are not this stream's enriched clicks."""
    awaiting: int = 0
    """Records read while a gap is open; they are read again or written again."""


class Intake:
    """The rows taken from one partition and not yet cut into a block."""

    def __init__(self, stream: str, partition: int) -> None:
        self.stream = stream
        self.partition = partition
        self.position = 0
        """Kafka offset of the next record to look at."""
        self.taken = -1
        """Highest raw offset taken."""
        self.gap: Gap | None = None
        self.accepted: tuple[Range, ...] = ()
        """Gaps that a human accepted."""
        self.counts = Counts()
        self.foreign: list[int] = []
        """Kafka offsets of foreign records, until they are taken."""
        self._prefix = b'{"v":1,"stream":%b,"raw_partition":%d,"raw_offset":' % (orjson.dumps(stream), partition)
        self._rows = Buffer()
        self._arrivals: deque[tuple[int, int]] = deque()
        self._cut_from = 0
        self._cut_raw = -1
        self._plan: Plan | None = None
        self._is_plan_lost = False

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def memory_bytes(self) -> int:
        """Memory of these rows."""
        return self._rows.memory_bytes

    @property
    def has_plan(self) -> bool:
        """Whether the next block is a planned one."""
        return self._plan is not None

    def take_foreign(self) -> list[int]:
        """The Kafka offsets of foreign records since the last call."""
        found, self.foreign = self.foreign, []
        return found

    def restart(self, position: int, taken: int, plan: Plan | None = None) -> None:
        """Forget everything and begin at a Kafka offset with `taken` already stored; `plan`: cut this very block first."""
        self.position = self._cut_from = position
        self.taken = self._cut_raw = taken
        self.gap = None
        self._plan = plan
        self._is_plan_lost = False
        self._rows.clear()
        self._arrivals.clear()

    def jump(self, position: int) -> None:
        """Go on at a Kafka offset because the wanted one is gone: by retention, or because the topic was made anew.

        Forward, rows not yet cut are kept, since they may be gone from Kafka; backward they are read again, since their
        Kafka offsets are others now. The raw offsets tell whether any are missing. A plan cannot be built any more.
        """
        if self._plan is not None:
            self._is_plan_lost = True
        elif position >= self.position:
            self.position = position
        else:
            self.restart(position, self._cut_raw)

    def reopen_gap(self) -> int | None:
        """Read again from the record behind the open gap when it is accepted by now: the Kafka offset to seek to."""
        if self.gap is None or not self._is_accepted(self.gap.missing):
            return None
        self.position, self.gap = self.gap.kafka_offset, None
        return self.position

    def offer(self, records: Sequence[EnrichedRecord], now_ms: int) -> None:
        """Look at fetched records, in order. `now_ms`: any monotonic clock, the one given to `due_in_ms`."""
        before, at = self.taken, 0
        while at < len(records):
            some = records[at : at + self._rows.room]
            at += len(some)
            if self.gap is None and (run := ordinary_run(some, self._prefix, self.taken + 1, self.position)):
                self.position, self.taken = run.kafka_offsets[-1] + 1, self.taken + len(run)
                self.counts.taken += len(run)
                self._rows.add(run)
                continue
            for record in some:
                if record.offset >= self.position:
                    self.position = record.offset + 1
                    self._look_at(record)
        if self.taken > before:
            self._arrivals.append((self.taken, now_ms))

    def _look_at(self, record: EnrichedRecord) -> None:
        value = record.value or b""
        raw_offset, is_broken = self._identify(record, value)
        if raw_offset is None:
            self.counts.foreign += 1
            self.foreign.append(record.offset)
            return
        if raw_offset <= self.taken:
            self.counts.dropped += 1
            return
        if raw_offset != self.taken + 1:
            missing = Range(self.taken + 1, raw_offset - 1)
            if not self._is_accepted(missing):
                self.gap = self.gap or Gap(missing, record.offset)
                self.counts.awaiting += 1
                return
        self.gap = None
        self.taken = raw_offset
        self.counts.taken += 1
        suspect = is_suspect(record.headers) or (not record.headers and b'"suspect":true' in value)
        row = Row(raw_offset, record.offset, record.timestamp, record.key or b"", value, suspect, is_broken)
        self._rows.add(run_of(row))

    def _identify(self, record: EnrichedRecord, value: bytes) -> tuple[int | None, bool]:
        """(raw offset, value is broken), or (None, …) for a record that is not an enriched click of our stream.

        The header decides and the value's first bytes must agree; nothing is decoded. Any other record is decoded once:
        ours in another key order or without the header, another stream's, or no JSON at all. A record without any raw
        offset cannot become a row: it is dropped. That hides no loss: had it been the one record of an offset, the next
        offset would be a step of two, a gap, and the partition would stop.
        """
        header = raw_offset_of(record.headers)
        if header is not None and value.startswith(self._prefix + b"%d," % header) and value.endswith(b"}"):
            return header, False
        try:
            decoded = orjson.loads(value)
        except orjson.JSONDecodeError:
            return header, True
        if not isinstance(decoded, dict):
            return header, True
        found = decoded.get("raw_offset")
        if decoded.get("stream") != self.stream or decoded.get("raw_partition") != self.partition:
            return None, False
        if type(found) is not int or found < 0 or (header is not None and header != found):
            return header, header is not None
        return found, False

    def _is_accepted(self, missing: Range) -> bool:
        """Whether accepted gaps, end to end, cover all missing offsets."""
        first = missing.first
        for gap in sorted(self.accepted):
            if gap.first <= first <= gap.last:
                first = gap.last + 1
        return first > missing.last

    def due_in_ms(self, limits: Limits, now_ms: int) -> int | None:
        """How long until a block is due: 0 when it is, None while there is nothing to wait for but records."""
        if self._plan is not None:
            return 0 if self._is_plan_lost or self.position > self._plan.last else None
        if not self._rows:
            return None
        if self.is_full(limits):
            return 0
        return max(0, self._arrivals[0][1] + limits.age_ms - now_ms)

    def is_full(self, limits: Limits) -> bool:
        """Whether a block has all that it may have."""
        return len(self._rows) >= limits.rows_max or self.memory_bytes >= limits.bytes_max

    def cut(self, limits: Limits) -> Block | Unbuildable:
        """Cut the next block: the planned one, else as many rows as fit the limits, at least one."""
        plan, self._plan = self._plan, None
        if plan is None:
            count = self._rows.count_within(limits.rows_max, limits.bytes_max)
        else:
            count = self._rows.count_up_to(plan.last)
            found = self._rows.raw_offset(count - 1) if count else self.taken
            if self._is_plan_lost or not count or found != plan.raw_last:
                return Unbuildable(plan, found)
        rows = self._rows.pop(count)
        last = rows[-1]
        cut = Plan(
            self._cut_from, last.kafka_offset, self._cut_raw, last.raw_offset, plan.attempt if plan is not None else 0
        )
        self._cut_from, self._cut_raw = cut.next_offset, cut.raw_last
        while self._arrivals and self._arrivals[0][0] <= cut.raw_last:
            self._arrivals.popleft()
        return Block(cut, rows)


# --- the bytes of an insert ----------------------------------------------------------------------------------------


def block_at_ms(row: Row) -> int:
    """The time that names the ClickHouse partition of a block, from its first row and never from a clock.

    A block that is built again must land in the same partition, because tokens are remembered per partition.
    """
    try:
        decoded = orjson.loads(row.value)
    except orjson.JSONDecodeError:
        decoded = None
    received_at = decoded.get("received_at") if isinstance(decoded, dict) else None
    for candidate in (received_at, row.timestamp_ms):
        if type(candidate) is int and 0 <= candidate < BLOCK_AT_MS_MAX:
            return candidate
    return 0


class Body:
    """The JSONEachRow bytes of an insert, made anew by each iteration, a piece at a time: nobody holds all of them.

    Each row's own bytes (or those in `replaced`, by raw offset) with `block_at` in front.
    """

    def __init__(self, rows: Rows, at_ms: int, replaced: Mapping[int, bytes]) -> None:
        self._rows, self._replaced = rows, replaced
        self._splice = b'{"block_at":%d,' % at_ms

    def __iter__(self) -> Iterator[bytes]:
        """Pieces of whole lines, in order."""
        splice, between = self._splice, b"\n" + self._splice
        for number, run in enumerate(self._rows.runs):
            values = [value[1:] for value in run.values_with(self._replaced)]
            if number:
                values.insert(0, b"")  # joined with what stands between, which copies the piece once and not twice
            else:
                values[0] = splice + values[0]
            yield between.join(values)

    def __len__(self) -> int:
        """All bytes."""
        if self._replaced:
            values = sum(sum(map(len, run.values_with(self._replaced))) for run in self._rows.runs)
        else:
            values = sum(run.value_bytes for run in self._rows.runs)
        return values + len(self._rows) * len(self._splice) - 1
