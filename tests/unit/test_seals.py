"""Which range the next seal covers: a function of the stored blocks, the same for every owner at any time."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.seals import StoredBlock, due_range

EVERY, AGE = 1_000, 300


def due(blocks: list[StoredBlock], now_ms: int, rows_max: int = 100) -> int | None:
    """The end of the next seal with slots of a second."""
    return due_range(blocks, now_ms=now_ms, every_ms=EVERY, age_ms=AGE, rows_max=rows_max)


def blocks_of(*parts: tuple[int, int]) -> list[StoredBlock]:
    """Blocks of (rows, insert time) one behind the other."""
    found, first = [], 0
    for rows, inserted_at_ms in parts:
        found.append(StoredBlock(first, first + rows - 1, rows, inserted_at_ms))
        first += rows
    return found


@pytest.mark.parametrize(
    ("blocks", "now_ms", "last"),
    [
        ([], 10_000, None),
        ([(5, 1_200)], 2_299, None),
        ([(5, 1_200)], 2_300, 4),
        ([(5, 1_200), (5, 1_999)], 2_300, 9),
        ([(5, 1_200), (5, 2_000)], 2_300, 4),
        ([(5, 1_200), (5, 2_000)], 1_499, None),
        ([(60, 1_200), (50, 1_210)], 1_500, 59),
        ([(60, 1_200), (40, 1_210)], 1_510, None),
        ([(160, 1_200), (1, 1_300)], 1_500, 159),
        ([(5, 9_000), (5, 1_000)], 9_200, None),
    ],
)
def test_a_range_is_due(blocks: list[tuple[int, int]], now_ms: int, last: int | None) -> None:
    """When its slot is over long enough or it is full; whole blocks, at least one; never what is too young."""
    assert due(blocks_of(*blocks), now_ms) == last


@given(
    parts=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 700)), max_size=20),
    rows_max=st.integers(1, 100),
    looks=st.lists(st.integers(0, 20_000), min_size=2, max_size=2),
)
def test_every_owner_finds_the_same_range(parts: list[tuple[int, int]], rows_max: int, looks: list[int]) -> None:
    """However long after: two answers are equal, or the earlier one is that nothing is due yet."""
    times = itertools.accumulate(step for _, step in parts)
    blocks = blocks_of(*((rows, time) for (rows, _), time in zip(parts, times, strict=True)))
    early, late = (due([b for b in blocks if b.inserted_at_ms <= now], now, rows_max) for now in sorted(looks))
    assert early in (None, late)
