"""The verdict of the audit: from numbers of Kafka and the table to findings.

The rule it checks, per stream and partition, from the expected first offset (never `min()`) to the highest stored one:

    count() = uniqExact(raw_offset) = max(raw_offset) - expected_first + 1

less accepted gaps. Pure: the shell (audit_run.py) reads the numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

EXAMPLES_MAX = 5
"""Ranges and positions named per finding; the numbers count all."""


class Problem(StrEnum):
    """What is wrong with a partition; each makes the audit fail."""

    MISSING = "missing"
    """raw offsets without a row, below the highest stored one"""
    TAIL_MISSING = "tail missing"
    """rows that the sink has stored and committed are gone"""
    DOUBLE = "double"
    """more than one row for a raw offset"""
    BEFORE_START = "before start"
    """rows below the stream's first offset"""
    BEYOND_END = "beyond end"
    """Kafka ends below the highest stored row: the topic was re-created or truncated"""
    LOST = "lost"
    """Kafka no longer holds records that are not stored: they can never be"""
    ID_MISMATCH = "id mismatch"
    """the same position has another transaction-id in Kafka than in the table"""
    UNKNOWN_PARTITION = "unknown partition"
    """rows of a partition that the topic does not have"""
    SEALED_MISSING = "sealed missing"
    """rows that were sealed are gone before they expire"""
    SEALED_ADDED = "sealed added"
    """rows were added to a sealed range"""
    SEALED_ALTERED = "sealed altered"
    """rows of a sealed range are not what they were"""
    CHAIN = "seal chain"
    """a hole or an overlap between seals"""


class Span(NamedTuple):
    """Raw offsets from `first` to `last`, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        """`17` or `17-20`."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    @property
    def size(self) -> int:
        """How many offsets."""
        return self.last - self.first + 1


class Sample(NamedTuple):
    """The ids found at one position; `in_kafka` None when the record is gone by retention, so nothing to compare."""

    offset: int
    in_kafka: str | None
    in_table: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sealed:
    """The seals of one partition."""

    last: int
    """last offset of the last one"""
    rows: int
    """of all of them, when they were sealed"""
    rows_kept: int
    """of those none of whose rows may be deleted yet"""
    breaks: Sequence[str] = ()
    """where one does not begin at the end of the one before it"""


class BrokenSeal(NamedTuple):
    """A seal that differs from its rows."""

    range: Span
    rows: int
    """sealed"""
    rows_now: int
    distinct_now: int

    @property
    def problem(self) -> Problem:
        """What became of the rows, as far as their number tells."""
        if self.rows_now > self.rows:
            return Problem.SEALED_ADDED
        if self.rows_now < self.rows:
            return Problem.SEALED_MISSING
        return Problem.SEALED_ALTERED

    @property
    def size(self) -> int:
        """Rows too many or too few; 1 where the number is right: how many were altered, a sum does not tell."""
        return abs(self.rows_now - self.rows) or 1

    def __str__(self) -> str:
        """For people."""
        if self.rows_now == self.rows:
            doubled = (
                f", {self.rows_now - self.distinct_now} of them doubles" if self.distinct_now < self.rows_now else ""
            )
            return f"raw offsets {self.range}: {self.rows:,} rows as sealed{doubled}, but with other content"
        return f"raw offsets {self.range}: sealed with {self.rows:,} rows, now {self.rows_now:,}"


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """What was read about one partition. Offsets are raw offsets."""

    partition: int
    start: int
    """the stream's first offset"""
    sealed: Sealed | None = None
    """what is sealed; None when nothing is"""
    rows: int = 0
    """from `expected_first` up, outside accepted gaps"""
    distinct: int = 0
    """offsets among them"""
    stored_last: int | None = None
    """highest offset among them"""
    rows_before: int = 0
    """rows below the stream's start"""
    rows_under_seals: tuple[int, int] | None = None
    """at least and at most so many rows lie under the seals (clicks arrive while it is counted); None: not counted"""
    statuses: Mapping[str, int] = field(default_factory=dict)
    accepted_gaps: Sequence[Span] = ()
    has_topic: bool = True
    """False for a former stream: nothing in Kafka to compare with"""
    kafka_first: int | None = None
    """first offset that Kafka still holds; None when the topic does not have the partition"""
    kafka_end: int | None = None
    """next offset Kafka will give"""
    enriched_last: int | None = None
    """raw offset of the last enriched record; None when there is none"""
    committed_last: int | None = None
    """highest raw offset that the sink has committed as stored; None when it has not"""
    missing: Sequence[Span] = ()
    """offsets without a row, the first few ranges, looked for only when the counts say that there are any"""
    doubles: Sequence[int] = ()
    samples: Sequence[Sample] = ()
    broken_seals: Sequence[BrokenSeal] = ()
    """seals that were compared with their rows and differ"""

    @property
    def expected_first(self) -> int:
        """The first offset whose rows are counted: what is sealed was counted before."""
        return self.start if self.sealed is None else self.sealed.last + 1


class Finding(NamedTuple):
    """One problem of one partition."""

    partition: int
    problem: Problem
    size: int
    detail: str


@dataclass(frozen=True, slots=True)
class PartitionVerdict:
    """One line of the audit's table."""

    facts: PartitionFacts
    stored_next: int
    """the next raw offset to be stored"""
    missing: int
    double: int
    in_flight: int
    """records in Kafka that are not stored yet"""
    enriched_lag: int
    """records in Kafka that are not enriched yet"""
    findings: tuple[Finding, ...]

    @property
    def rows(self) -> int:
        """Rows that are sealed or counted."""
        return self.facts.rows + self.rows_sealed

    @property
    def rows_sealed(self) -> int:
        """Rows that were counted when they were sealed."""
        return self.facts.sealed.rows if self.facts.sealed else 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The audit of one stream."""

    stream: str
    partitions: tuple[PartitionVerdict, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every problem, in order of the partitions."""
        return tuple(finding for partition in self.partitions for finding in partition.findings)

    @property
    def is_clean(self) -> bool:
        """Whether every 200 so far is exactly one row, or still on its way."""
        return not self.findings

    @property
    def in_flight(self) -> int:
        """Records of all partitions that are not stored yet."""
        return sum(partition.in_flight for partition in self.partitions)

    @property
    def rows(self) -> int:
        """Rows of all partitions, those that are sealed included, though they may have expired."""
        return sum(partition.rows for partition in self.partitions)


def judge(stream: str, facts: Iterable[PartitionFacts]) -> Verdict:
    """Judge every partition of a stream, in order of their numbers."""
    ordered = sorted(facts, key=lambda each: each.partition)
    return Verdict(stream, tuple(judge_partition(each) for each in ordered))


def judge_partition(facts: PartitionFacts) -> PartitionVerdict:
    """Apply the rule to one partition."""
    stored_next, accepted = _stored_next(facts)
    missing = stored_next - facts.expected_first - accepted - facts.distinct
    double = facts.rows - facts.distinct
    end = stored_next if facts.kafka_end is None else facts.kafka_end
    enriched_next = max(stored_next, -1 if facts.enriched_last is None else facts.enriched_last + 1)
    findings = _findings(facts, missing=missing, double=double, stored_next=stored_next)
    return PartitionVerdict(
        facts,
        stored_next,
        missing,
        double,
        max(0, end - stored_next),
        max(0, end - enriched_next),
        tuple(findings),
    )


def _stored_next(facts: PartitionFacts) -> tuple[int, int]:
    """Return the next offset to be stored, and how many offsets below it lie in accepted gaps (overlaps count once).

    A gap right behind the last row counts as passed: the sink goes on after it.
    """
    stored_next = facts.expected_first if facts.stored_last is None else facts.stored_last + 1
    accepted, done = 0, facts.expected_first
    for gap in sorted(facts.accepted_gaps):
        if gap.first <= stored_next <= gap.last:
            stored_next = gap.last + 1
        first, last = max(gap.first, done), min(gap.last, stored_next - 1)
        if first <= last:
            accepted += last - first + 1
            done = last + 1
    return stored_next, accepted


def _findings(facts: PartitionFacts, *, missing: int, double: int, stored_next: int) -> Iterable[Finding]:
    def found(problem: Problem, size: int, detail: str) -> Finding:
        return Finding(facts.partition, problem, size, detail)

    if missing:
        yield found(Problem.MISSING, missing, f"no row for raw offsets {_examples(facts.missing)}")
    if double:
        yield found(Problem.DOUBLE, double, f"more than one row for raw offsets {_examples(facts.doubles)}")
    if facts.rows_before:
        detail = f"rows below raw offset {facts.start}, where the stream begins"
        yield found(Problem.BEFORE_START, facts.rows_before, detail)
    if facts.committed_last is not None and facts.committed_last >= stored_next:
        span = Span(stored_next, facts.committed_last)
        yield found(
            Problem.TAIL_MISSING, span.size, f"the sink stored raw offsets {span}, the table no longer has them"
        )
    yield from _seal_findings(facts)
    yield from _kafka_findings(facts, stored_next)
    wrong = [sample for sample in facts.samples if _differs(sample)]
    if wrong:
        detail = "; ".join(
            f"raw offset {sample.offset}: Kafka has {sample.in_kafka}, the table {', '.join(sample.in_table) or 'none'}"
            for sample in wrong[:EXAMPLES_MAX]
        )
        yield found(Problem.ID_MISMATCH, len(wrong), f"{detail}: the topic was re-created or rows were changed")


def _seal_findings(facts: PartitionFacts) -> Iterable[Finding]:
    if facts.sealed is None:
        return
    if facts.sealed.breaks:
        yield Finding(facts.partition, Problem.CHAIN, len(facts.sealed.breaks), _examples(facts.sealed.breaks))
    for problem in (Problem.SEALED_MISSING, Problem.SEALED_ADDED, Problem.SEALED_ALTERED):
        broken = [each for each in facts.broken_seals if each.problem is problem]
        if broken:
            yield Finding(facts.partition, problem, sum(each.size for each in broken), _examples(broken))
    if facts.rows_under_seals is None or facts.broken_seals:
        return
    least, most = facts.rows_under_seals
    advice = f"up to raw offset {facts.sealed.last}: which seals, `clickledger audit --seals` tells"
    if most < facts.sealed.rows_kept:
        yield Finding(facts.partition, Problem.SEALED_MISSING, facts.sealed.rows_kept - most, advice)
    if least > facts.sealed.rows:
        yield Finding(facts.partition, Problem.SEALED_ADDED, least - facts.sealed.rows, advice)


def _kafka_findings(facts: PartitionFacts, stored_next: int) -> Iterable[Finding]:
    if facts.kafka_first is None or facts.kafka_end is None:
        rows = facts.rows + (facts.sealed.rows if facts.sealed else 0)
        if facts.has_topic and rows:
            detail = "the topic does not have this partition: it was re-created with fewer"
            yield Finding(facts.partition, Problem.UNKNOWN_PARTITION, rows, detail)
        return
    if facts.kafka_end < stored_next:
        detail = f"Kafka ends at {facts.kafka_end}, the table at {stored_next}: the topic was re-created or truncated"
        yield Finding(facts.partition, Problem.BEYOND_END, stored_next - facts.kafka_end, detail)
    elif facts.kafka_first > stored_next:
        span = Span(stored_next, facts.kafka_first - 1)
        detail = f"raw offsets {span} left Kafka by retention before they were stored"
        yield Finding(facts.partition, Problem.LOST, span.size, detail)


def _differs(sample: Sample) -> bool:
    """Whether the table has other ids than Kafka; a position without a row is counted as missing, not here."""
    return sample.in_kafka is not None and any(found != sample.in_kafka for found in sample.in_table)


def _examples(items: Sequence[Any]) -> str:
    shown = ", ".join(str(item) for item in items[:EXAMPLES_MAX])
    return shown + (", …" if len(items) > EXAMPLES_MAX else "")


def sample_offsets(facts: PartitionFacts, sample_count: int) -> list[int]:
    """The stored positions whose ids are compared: the last one, and at most `sample_count` more.

    They are spread evenly over what both Kafka and the table hold; the same numbers always give the same positions.
    """
    stored_last = facts.expected_first - 1 if facts.stored_last is None else facts.stored_last
    if facts.kafka_first is None or facts.kafka_end is None:
        return []
    first = max(facts.start, facts.kafka_first)
    last = min(stored_last, facts.kafka_end - 1)
    if first > last:
        return []
    step = max(1, (last - first) // max(1, sample_count))
    return sorted({last, *range(first, last, step)})[-sample_count - 1 :]
