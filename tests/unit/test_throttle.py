"""Fixed windows over shared cells: limits, several workers, collisions, processes; and the failure limiter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.throttle import (
    COUNT_MAX,
    IDLE_MS,
    Cells,
    FailureLimiter,
    Taken,
    Throttle,
    WorkerSeat,
    failure_group,
    open_cells,
    take_units,
)
from shared.errors import OperatorError

NOW_MS = 1_760_000_000_000


def workers(count: int, *, slots: int = 64, window_ms: int = 1000) -> list[Throttle]:
    """Throttles of `count` workers over one memory."""
    first = Cells.in_memory(slots=slots, workers=count)
    return [Throttle(first.of_worker(worker), window_ms=window_ms) for worker in range(count)]


@pytest.mark.parametrize(("taken_before", "granted"), [(8, 1), (9, 1), (10, 0)])
def test_limit(taken_before: int, granted: int) -> None:
    """The last unit of a window is granted, the next one is not."""
    (throttle,) = workers(1)
    throttle.take("k", 10, taken_before, NOW_MS)
    assert throttle.take("k", 10, 1, NOW_MS) == Taken(granted, max(0, 10 - taken_before - 1), 1)


def test_next_window() -> None:
    """A window ends at its last millisecond, and what was not used is not kept."""
    (throttle,) = workers(1)
    assert throttle.take("k", 10, 10, NOW_MS).granted == 10
    assert throttle.take("k", 10, 1, NOW_MS + 999).granted == 0
    assert throttle.take("k", 10, 20, NOW_MS + 1000).granted == 10


@pytest.mark.parametrize(
    ("window_ms", "past_ms", "reset_s"),
    [(1000, 0, 1), (1000, 999, 1), (10_000, 0, 10), (10_000, 1, 10), (10_000, 9_000, 1), (1_500, 0, 2)],
)
def test_reset(window_ms: int, past_ms: int, reset_s: int) -> None:
    """The reset is in whole seconds, rounded up, so at least 1."""
    (throttle,) = workers(1, window_ms=window_ms)
    start = NOW_MS // window_ms * window_ms
    assert throttle.take("k", 10, 1, start + past_ms).reset_s == reset_s


def test_batch_takes_what_is_left() -> None:
    """A cost over the rest gets the rest; a cost of nothing only looks."""
    (throttle,) = workers(1)
    assert throttle.take("k", 10, 7, NOW_MS) == Taken(7, 3, 1)
    assert throttle.take("k", 10, 7, NOW_MS) == Taken(3, 0, 1)
    assert throttle.take("k", 10, 7, NOW_MS) == Taken(0, 0, 1)
    assert throttle.take("k", 11, 0, NOW_MS) == Taken(0, 1, 1)


def test_keys_are_apart() -> None:
    """One key's clicks never count against another's."""
    (throttle,) = workers(1)
    throttle.take("a", 10, 10, NOW_MS)
    assert throttle.take("b", 10, 1, NOW_MS).granted == 1


def test_lowered_limit() -> None:
    """A limit that was lowered within the window gives nothing more, and nothing below zero."""
    (throttle,) = workers(1)
    throttle.take("k", 10, 10, NOW_MS)
    assert throttle.take("k", 5, 1, NOW_MS) == Taken(0, 0, 1)


def test_clock_set_back() -> None:
    """A clock that goes back starts a window of its own instead of an error or a stop."""
    (throttle,) = workers(1)
    throttle.take("k", 10, 10, NOW_MS)
    assert throttle.take("k", 10, 1, NOW_MS - 5_000).granted == 1


def test_workers_share_one_count() -> None:
    """What one worker grants the others see, and one alone may grant everything."""
    first, second, third = workers(3)
    assert first.take("k", 10, 6, NOW_MS).granted == 6
    assert second.take("k", 10, 6, NOW_MS).granted == 4
    assert third.take("k", 10, 1, NOW_MS) == Taken(0, 0, 1)
    assert third.take("k", 10, 10, NOW_MS + 1000).granted == 10


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc"), st.integers(0, 7), st.integers(0, 400))))
def test_total_holds(takes: list[tuple[int, str, int, int]]) -> None:
    """In any order of takes by any workers, each key gets exactly up to its limit in each window."""
    throttles, now_ms = workers(4), NOW_MS
    granted: dict[tuple[str, int], int] = {}
    asked: dict[tuple[str, int], int] = {}
    for worker, key, cost, step_ms in takes:
        now_ms += step_ms
        where = (key, now_ms // 1000)
        taken = throttles[worker].take(key, 10, cost, now_ms)
        granted[where] = granted.get(where, 0) + taken.granted
        asked[where] = asked.get(where, 0) + cost
        assert taken.remaining == 10 - granted[where]
    assert granted == {where: min(10, cost) for where, cost in asked.items()}


@pytest.mark.parametrize("count", [COUNT_MAX - 1, COUNT_MAX])
def test_full_cell(count: int) -> None:
    """A cell never counts into its window number, whatever the limit."""
    cells = Cells.in_memory(slots=1)
    assert take_units(cells, 0, 1 << 40, count, 7) == (count, count)
    assert take_units(cells, 0, 1 << 40, 5, 7)[1] == COUNT_MAX - count
    assert take_units(cells, 0, 1 << 40, 5, 8) == (5, 5)


def test_more_keys_than_slots() -> None:
    """With every slot busy further keys are counted by each worker alone, against its share; nobody is mixed up."""
    first, second = workers(2, slots=4)
    for number in range(4):
        first.take(f"k{number}", 10, 10, NOW_MS)
    assert first.take("new", 10, 10, NOW_MS) == Taken(5, 0, 1)
    assert second.take("new", 10, 10, NOW_MS) == Taken(5, 0, 1)
    assert second.take("k0", 10, 1, NOW_MS).granted == 0
    assert first.take("new", 10, 10, NOW_MS + 1000).granted == 5


def test_idle_slot_is_given_away() -> None:
    """A slot that was idle for a minute goes to a new key, without its count, and every worker notices."""
    first, second = workers(2, slots=1)
    first.take("old", 10, 10, NOW_MS)
    second.take("old", 10, 0, NOW_MS)
    later_ms = NOW_MS + 1000 + IDLE_MS
    assert first.take("new", 10, 10, later_ms).granted == 5  # to the millisecond not idle yet: its own share
    assert first.take("new", 10, 10, later_ms + 1).granted == 10
    assert second.take("old", 10, 1, later_ms + 1) == Taken(1, 4, 1)
    assert first.take("new", 10, 1, later_ms + 1).granted == 0


def test_slot_of_a_clock_that_was_ahead_is_given_away() -> None:
    """A slot that was last used in what is now the future does not stay taken until then."""
    first, second = workers(2, slots=1)
    first.take("old", 10, 10, NOW_MS + 86_400_000)
    assert first.take("new", 10, 10, NOW_MS).granted == 10
    assert second.take("new", 10, 10, NOW_MS).granted == 0


def test_worker_number() -> None:
    """A worker that has no cell is a mistake, not a neighbour's cell."""
    with pytest.raises(ValueError, match="worker 2"):
        Cells.in_memory(slots=1, workers=2).of_worker(2)


@contextmanager
def opened(folder: Path, worker: int, count: int = 2) -> Iterator[Cells]:
    """Cells in a file, closed afterwards."""
    cells = open_cells(folder, "keys", slots=64, workers=count, worker=worker)
    try:
        yield cells
    finally:
        cells.close()


OTHER_PROCESS = f"""
import pathlib, sys
from ingest_api.throttle import Throttle, open_cells
cells = open_cells(pathlib.Path(sys.argv[1]), "keys", slots=64, workers=2, worker=1)
Throttle(cells, window_ms=1000).take("k", 100, 30, {NOW_MS})
"""


def test_processes_share_a_file(tmp_path: Path) -> None:
    """Another process's clicks are counted, and they stay when it ends."""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", OTHER_PROCESS, tmp_path], cwd=root, check=True)
    with opened(tmp_path, 0) as cells:
        assert Throttle(cells, window_ms=1000).take("k", 100, 100, NOW_MS).granted == 70
    with opened(tmp_path, 0, count=3) as other_shape:
        assert Throttle(other_shape, window_ms=1000).take("k", 100, 100, NOW_MS).granted == 100


def test_seats(tmp_path: Path) -> None:
    """Each process has a seat of its own; a freed one is taken again; too many processes are refused."""
    with ExitStack() as stack:
        seats = [WorkerSeat.claim(tmp_path, 2) for _ in range(2)]
        for seat in seats:
            stack.callback(seat.release)
        assert [seat.number for seat in seats] == [0, 1]
        with pytest.raises(OperatorError, match="2 worker seats"):
            WorkerSeat.claim(tmp_path, 2)
        seats[0].release()
        again = WorkerSeat.claim(tmp_path, 2)
        stack.callback(again.release)
        assert again.number == 0


@pytest.mark.parametrize(("failures", "allowed"), [(98, True), (99, True), (100, False)])
def test_failures(failures: int, allowed: bool) -> None:
    """The hundredth failed authentication of an address in a window is answered as such, the next is not."""
    limiter = FailureLimiter(Cells.in_memory(slots=1024), limit=100, window_ms=10_000)
    for _ in range(failures):
        assert limiter.allows("192.0.2.1", NOW_MS)
    assert limiter.allows("192.0.2.1", NOW_MS) is allowed
    assert limiter.allows("192.0.2.2", NOW_MS)
    assert limiter.allows("192.0.2.1", NOW_MS + 10_000)
    assert limiter.retry_after_s(NOW_MS) == 10


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "a socket", False),
    ],
)
def test_failure_group(one: str, other: str, same: bool) -> None:
    """Addresses of one customer are counted as one, others apart."""
    assert (failure_group(one) == failure_group(other)) is same
