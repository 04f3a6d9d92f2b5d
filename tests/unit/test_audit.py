"""The audit's verdict, by table: every problem is found, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickledger.audit import (
    BrokenSeal,
    PartitionFacts,
    Problem,
    Sample,
    Sealed,
    Span,
    judge,
    judge_partition,
    sample_offsets,
)

_CLEAN = PartitionFacts(
    partition=0,
    start=0,
    rows=100,
    distinct=100,
    stored_last=99,
    statuses={"accepted": 98, "duplicate": 2},
    kafka_first=0,
    kafka_end=100,
    enriched_last=99,
    committed_last=99,
    samples=(Sample(99, "a", ("a",)),),
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kafka_end": 150, "enriched_last": 120},
        {"kafka_first": 100},
        {"start": 40, "rows": 60, "distinct": 60},
        {"sealed": Sealed(39, 40, 30), "rows": 60, "distinct": 60, "rows_under_seals": (35, 40)},
        {"sealed": Sealed(99, 100, 100), "rows": 0, "distinct": 0, "stored_last": None, "rows_under_seals": (100, 100)},
        {"sealed": Sealed(99, 100, 0), "rows": 0, "distinct": 0, "stored_last": None, "rows_under_seals": (0, 0)},
        {"rows": 90, "distinct": 90, "accepted_gaps": [Span(10, 19)]},
        {"rows": 90, "distinct": 90, "accepted_gaps": [Span(10, 19), Span(12, 15)]},
        {"rows": 90, "distinct": 90, "stored_last": 89, "accepted_gaps": [Span(90, 99)]},
        {"samples": (Sample(3, None, ("x",)),)},
        {"committed_last": None},
        {"kafka_first": None, "kafka_end": None, "has_topic": False},
    ],
)
def test_what_is_in_order_has_no_findings(changes: dict[str, Any]) -> None:
    """In flight, sealed, accepted gaps and records gone by retention are no problems."""
    assert judge_partition(replace(_CLEAN, **changes)).findings == ()


_SEALED = {"sealed": Sealed(39, 40, 40), "rows": 60, "distinct": 60, "rows_under_seals": (40, 40)}
_EMPTY = PartitionFacts(partition=3, start=0, kafka_first=0, kafka_end=0)


def test_an_empty_partition_is_clean_and_listed() -> None:
    """No rows and no records: nothing missing."""
    verdict = judge("s", [_EMPTY])
    assert verdict.is_clean
    assert len(verdict.partitions) == 1


@pytest.mark.parametrize(
    ("changes", "problem", "count"),
    [
        ({"rows": 90, "distinct": 90, "missing": [Span(0, 9)]}, Problem.MISSING, 10),
        ({"rows": 90, "distinct": 90, "missing": [Span(50, 59)]}, Problem.MISSING, 10),
        ({"rows": 101}, Problem.DOUBLE, 1),
        ({"rows_before": 2, "start": 0}, Problem.BEFORE_START, 2),
        ({"rows": 90, "distinct": 90, "stored_last": 89}, Problem.TAIL_MISSING, 10),
        ({"kafka_end": 99, "samples": ()}, Problem.BEYOND_END, 1),
        ({"kafka_first": 105, "kafka_end": 110}, Problem.LOST, 5),
        ({"samples": (Sample(1, "a", ("b",)), Sample(99, "c", ("c",)))}, Problem.ID_MISMATCH, 1),
        ({"kafka_first": None, "kafka_end": None}, Problem.UNKNOWN_PARTITION, 100),
        (_SEALED | {"rows_under_seals": (37, 38)}, Problem.SEALED_MISSING, 2),
        (_SEALED | {"rows_under_seals": (43, 44)}, Problem.SEALED_ADDED, 3),
        (_SEALED | {"broken_seals": [BrokenSeal(Span(0, 9), 10, 7, 7)]}, Problem.SEALED_MISSING, 3),
        (_SEALED | {"broken_seals": [BrokenSeal(Span(0, 9), 10, 11, 10)]}, Problem.SEALED_ADDED, 1),
        (_SEALED | {"broken_seals": [BrokenSeal(Span(0, 9), 10, 10, 9)]}, Problem.SEALED_ALTERED, 1),
        (_SEALED | {"sealed": Sealed(39, 40, 40, ["hole"])}, Problem.CHAIN, 1),
    ],
)
def test_each_problem_is_found_with_its_number(changes: dict[str, Any], problem: Problem, count: int) -> None:
    """One finding, of the right kind and size, named with its partition."""
    (finding,) = judge_partition(replace(_CLEAN, **changes)).findings
    assert (finding.partition, finding.problem, finding.size) == (0, problem, count)


def test_the_table_of_problems_covers_every_one() -> None:
    """A new problem must get its case above."""
    marks = test_each_problem_is_found_with_its_number.pytestmark
    assert {case[1] for case in marks[0].args[1]} == set(Problem)


def test_a_table_that_lost_every_row_is_reported() -> None:
    """Without any row there is no maximum: the commit and the end still tell."""
    verdict = judge_partition(replace(_CLEAN, rows=0, distinct=0, stored_last=None, samples=()))
    assert [finding.problem for finding in verdict.findings] == [Problem.TAIL_MISSING]
    assert verdict.in_flight == 100


def test_gap_and_double_that_cancel_in_the_count_are_both_found() -> None:
    """count() alone would be fooled."""
    verdict = judge_partition(replace(_CLEAN, rows=100, distinct=99))
    assert {finding.problem for finding in verdict.findings} == {Problem.MISSING, Problem.DOUBLE}


def test_lags_are_counted_from_the_end() -> None:
    """In flight = not stored, enriched lag = not even enriched."""
    verdict = judge("s", [replace(_CLEAN, kafka_end=150, enriched_last=120), replace(_EMPTY, kafka_end=7)])
    assert [(each.in_flight, each.enriched_lag) for each in verdict.partitions] == [(50, 29), (7, 7)]
    assert (verdict.in_flight, verdict.rows) == (57, 100)


@given(
    stored=st.sets(st.integers(0, 60)),
    doubled=st.sets(st.integers(0, 60)),
    start=st.integers(0, 20),
    gaps=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5)), max_size=3),
)
def test_missing_is_what_a_naive_count_says(
    stored: set[int], doubled: set[int], start: int, gaps: list[tuple[int, int]]
) -> None:
    """Against the definition, offset by offset. Rows in an accepted gap are left out: the audit never makes both."""
    spans = [Span(first, first + length) for first, length in gaps]
    in_gap = {offset for span in spans for offset in range(span.first, span.last + 1)}
    inside = {offset for offset in stored if offset >= start and offset not in in_gap}
    following = max(inside, default=start - 1) + 1
    while following in in_gap:
        following += 1
    facts = PartitionFacts(
        0,
        start,
        rows=len(inside) + len(doubled & inside),
        distinct=len(inside),
        stored_last=max(inside, default=None),
        accepted_gaps=spans,
        kafka_first=0,
        kafka_end=70,
    )
    verdict = judge_partition(facts)
    assert verdict.missing == len(set(range(start, following)) - in_gap - inside)
    assert verdict.double == len(doubled & inside)
    assert verdict.in_flight == 70 - following


@given(first=st.integers(0, 100), length=st.integers(0, 1000), count=st.integers(0, 50))
def test_samples_are_bounded_inside_and_include_the_last(first: int, length: int, count: int) -> None:
    """The newest row is always compared."""
    facts = replace(_CLEAN, start=first, stored_last=first + length, kafka_end=first + length + 1)
    offsets = sample_offsets(facts, count)
    assert offsets[-1] == first + length
    assert len(offsets) <= count + 1
    assert all(first <= offset <= first + length for offset in offsets)


def test_nothing_is_sampled_where_only_one_side_has_records() -> None:
    """Rows whose records are gone by retention cannot be compared."""
    assert sample_offsets(replace(_CLEAN, kafka_first=100, kafka_end=100), 5) == []
    assert sample_offsets(_EMPTY, 5) == []
