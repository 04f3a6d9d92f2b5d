"""Taking records, cutting blocks, the bytes of an insert: pure."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events import HEADER_RAW_OFFSET, HEADER_SUSPECT, encode_raw_offset
from sink.blocks import (
    BLOCK_AT_MS_MAX,
    Block,
    Body,
    Gap,
    Intake,
    Limits,
    Range,
    Unbuildable,
    age_limit_ms,
    block_at_ms,
    dedup_token,
)
from sink.plans import Plan
from sink.rows import ROW_OVERHEAD_BYTES, RUN_ROWS, Row, Rows
from tests.support.sink_model import Record

NOW = 1_000
STREAM = "s1"


def value(raw_offset: int, **fields: Any) -> bytes:
    """An enriched record's bytes, as far as the sink looks at them."""
    return orjson.dumps({"v": 1, "stream": STREAM, "raw_partition": 2, "raw_offset": raw_offset, "x": "y"} | fields)


def record(offset: int, raw_offset: int, text: bytes | None = None, *, suspect: bool = False) -> Record:
    """A record with its header."""
    headers = [(HEADER_RAW_OFFSET, encode_raw_offset(raw_offset))] + ([(HEADER_SUSPECT, b"1")] if suspect else [])
    return Record(offset, 1_700_000_000_000, b"k", value(raw_offset) if text is None else text, tuple(headers))


def intake(taken: int = -1, position: int = 0, plan: Plan | None = None) -> Intake:
    """An intake that begins behind `taken`."""
    fresh = Intake(STREAM, 2)
    fresh.restart(position, taken, plan)
    return fresh


def cut_all(source: Intake, limits: Limits) -> list[Block]:
    """Every block that is due."""
    blocks = []
    while source.due_in_ms(limits, NOW + 10_000) == 0:
        block = source.cut(limits)
        assert isinstance(block, Block)
        blocks.append(block)
    return blocks


def raws(blocks: list[Block]) -> list[int]:
    """The raw offsets of blocks, in order."""
    return [row.raw_offset for block in blocks for row in block.rows]


class Counted(list[Record]):
    """Records, and how often one of them was looked up."""

    looked_up = 0

    def __getitem__(self, index: Any) -> Any:
        """One of them, or some."""
        found = super().__getitem__(index)
        self.looked_up += len(found) if isinstance(index, slice) else 1
        return found

    def __iter__(self) -> Any:
        """From the first one on: nothing that costs a walk over all may be needed for one."""
        raise AssertionError("walked from the start")


def test_a_fetch_of_copies_costs_no_more_than_its_records() -> None:
    """Records that the table has already are passed over: never a walk from the start for one of them."""
    copies = Counted(record(offset, offset % 50) for offset in range(20_000))
    source = intake(taken=49)
    source.offer(copies, NOW)
    assert source.counts.dropped == len(copies)
    assert copies.looked_up <= len(copies)


def test_the_first_copy_of_each_offset_makes_the_row() -> None:
    """Later copies, in any order, are dropped."""
    source = intake()
    source.offer([record(k, raw) for k, raw in enumerate([0, 1, 0, 1, 2, 1, 3, 3, 0])], NOW)
    (block,) = cut_all(source, Limits())
    assert [(row.raw_offset, row.kafka_offset) for row in block.rows] == [(0, 0), (1, 1), (2, 4), (3, 6)]
    assert block.plan == Plan(0, 6, -1, 3)
    assert source.counts.dropped == 5


@given(st.lists(st.integers(0, 6), max_size=30), st.integers(1, 4), st.integers(1, 5))
def test_any_interleaving_of_writers_gives_each_offset_once(starts: list[int], length: int, rows_max: int) -> None:
    """Writers that start where all lower offsets are written and go up: rows 0, 1, 2, … and plans that join."""
    written, log = 0, []
    for start in starts:
        begin = min(start, written)
        log += [record(len(log) + n, begin + n) for n in range(length)]
        written = max(written, begin + length)
    source = intake()
    for chunk in itertools.batched(log, 3) if hasattr(itertools, "batched") else [log]:
        source.offer(chunk, NOW)
    blocks = cut_all(source, Limits(rows_max=rows_max))
    assert raws(blocks) == list(range(written))
    for earlier, later in itertools.pairwise(blocks):
        assert later.plan.first == earlier.plan.next_offset
        assert later.plan.raw_before == earlier.plan.raw_last


def test_a_step_of_two_is_a_gap() -> None:
    """What stands before it is stored, nothing behind it is taken, its place is remembered."""
    source = intake()
    source.offer([record(0, 0), record(1, 2), record(2, 3)], NOW)
    assert source.gap == Gap(Range(1, 1), 1)
    assert raws(cut_all(source, Limits())) == [0]
    assert source.counts.awaiting == 2


def test_a_refilled_gap_closes_by_itself() -> None:
    """The awaited record comes later, and all behind it again."""
    source = intake()
    source.offer([record(0, 0), record(1, 2), record(2, 1), record(3, 2)], NOW)
    assert source.gap is None
    assert raws(cut_all(source, Limits())) == [0, 1, 2]


def test_an_accepted_gap_is_read_again_from_its_far_side() -> None:
    """Acceptance may come in pieces; only the whole range opens the gap."""
    source = intake()
    source.offer([record(0, 0), record(1, 3)], NOW)
    source.accepted = (Range(1, 1),)
    assert source.reopen_gap() is None
    source.accepted = (Range(2, 2), Range(0, 1))
    assert source.reopen_gap() == 1
    source.offer([record(1, 3)], NOW)
    (block,) = cut_all(source, Limits())
    assert [row.raw_offset for row in block.rows] == [0, 3]
    assert dedup_token("s", 2, block) == "s-2-0-3"
    assert dedup_token("s", 2, Block(block.plan.with_attempt(1), block.rows)) == "s-2-0-3#1"


@pytest.mark.parametrize(
    ("foreign", "why"),
    [
        (Record(1, 0, b"k", b"hello", ()), "no JSON, no header"),
        (Record(1, 0, b"k", b"[1]", ()), "no object, no header"),
        (Record(1, 0, b"k", b'{"stream":"s1","raw_partition":2}', ()), "ours, but without a position"),
        (Record(1, 0, b"k", value(1, stream="old"), ()), "another stream"),
        (record(1, 1, value(1, stream="old")), "another stream, with a header"),
        (record(1, 1, value(1, raw_partition=3)), "another partition"),
        (Record(1, 0, None, None, ()), "a tombstone without header"),
        (Record(1, 0, b"k", value(-1), ()), "a negative position"),
    ],
)
def test_a_record_that_is_not_ours_makes_no_row(foreign: Record, why: str) -> None:
    """It is counted and reported; the offset it might have stood for is still awaited."""
    source = intake()
    source.offer([record(0, 0), foreign, record(2, 1)], NOW)
    assert source.take_foreign() == [1], why
    assert raws(cut_all(source, Limits())) == [0, 1]
    source.offer([record(3, 3)], NOW)
    assert source.gap is not None


def test_ours_in_another_form_is_a_row() -> None:
    """Without the header, or with its keys in another order, it is decoded once."""
    swapped = orjson.dumps({"raw_offset": 1, "raw_partition": 2, "stream": STREAM, "v": 1})
    source = intake()
    source.offer([Record(0, 0, b"k", value(0, suspect=True), ()), record(1, 1, swapped)], NOW)
    rows = [row for block in cut_all(source, Limits()) for row in block.rows]
    assert [(row.raw_offset, row.is_suspect, row.is_broken) for row in rows] == [(0, True, False), (1, False, False)]


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", value(7), b'"x"'])
def test_a_broken_value_under_our_header_keeps_its_place(text: bytes) -> None:
    """The header is the position; what the value says against it makes the row malformed."""
    source = intake()
    source.offer([record(0, 0), record(1, 1, text)], NOW)
    (block,) = cut_all(source, Limits())
    assert [row.is_broken for row in block.rows] == [False, True]


def test_a_block_is_due_by_rows_bytes_or_age() -> None:
    """At the limit, one below it, and after the time since the oldest row's arrival."""
    limits = Limits(rows_max=3, bytes_max=10_000, age_ms=500)
    source = intake()
    assert source.due_in_ms(limits, NOW) is None
    source.offer([record(0, 0), record(1, 1)], NOW)
    assert source.due_in_ms(limits, NOW + 499) == 1
    assert source.due_in_ms(limits, NOW + 500) == 0
    source.offer([record(2, 2)], NOW + 100)
    assert source.due_in_ms(limits, NOW + 100) == 0
    heavy = intake()
    heavy.offer([record(0, 0, value(0, pad="p" * (10_000 - ROW_OVERHEAD_BYTES)))], NOW)
    assert heavy.due_in_ms(limits, NOW) == 0


def test_the_age_counts_from_the_oldest_row_left() -> None:
    """Rows that stay behind a cut are as old as their own arrival."""
    limits = Limits(rows_max=2, age_ms=500)
    source = intake()
    source.offer([record(0, 0), record(1, 1)], NOW)
    source.offer([record(2, 2)], NOW + 300)
    source.cut(limits)
    assert source.due_in_ms(limits, NOW + 300) == 500


def test_a_block_holds_at_most_its_limits_and_at_least_a_row() -> None:
    """Bytes are bounded too, but a row larger than the bound still goes."""
    size = len(value(0)) + ROW_OVERHEAD_BYTES
    source = intake()
    source.offer([record(k, k) for k in range(5)], NOW)
    assert [len(b.rows) for b in cut_all(source, Limits(bytes_max=2 * size))] == [2, 2, 1]
    source.restart(0, -1)
    source.offer([record(k, k) for k in range(2)], NOW)
    assert [len(b.rows) for b in cut_all(source, Limits(bytes_max=1))] == [1, 1]
    assert source.memory_bytes == 0


def test_a_planned_block_is_built_again_as_it_was() -> None:
    """Whatever the limits are now, and although more has arrived since."""
    log = [record(k, raw) for k, raw in enumerate([0, 1, 0, 2, 1, 2, 3, 4])]
    first = intake()
    first.offer(log[:6], NOW)
    (block,) = cut_all(first, Limits())
    again = intake(-1, 0, block.plan)
    again.offer(log[:3], NOW)
    assert again.due_in_ms(Limits(), NOW + 10_000) is None
    again.offer(log[3:], NOW)
    assert again.has_plan
    assert again.cut(Limits(rows_max=1)) == block
    assert raws(cut_all(again, Limits())) == [3, 4]


def test_a_plan_whose_records_are_gone_is_told_apart() -> None:
    """By another end, by nothing at all, or because the log begins behind it."""
    plan = Plan(0, 3, -1, 3)
    other = intake(-1, 0, plan)
    other.offer([record(0, 0), record(1, 1), record(5, 2)], NOW)
    assert other.cut(Limits()) == Unbuildable(plan, 1)
    trimmed = intake(-1, 0, plan)
    trimmed.jump(50)
    assert trimmed.due_in_ms(Limits(), NOW) == 0
    assert isinstance(trimmed.cut(Limits()), Unbuildable)


def test_a_jump_forward_keeps_what_was_read() -> None:
    """Rows in memory may be the last copies; what was deleted behind them shows as a gap with its raw range."""
    source = intake(4, 1_000)
    source.offer([record(1_000, 5), record(1_001, 6)], NOW)
    source.jump(1_050)
    source.offer([record(1_049, 7), record(1_050, 9)], NOW)
    assert raws(cut_all(source, Limits())) == [5, 6]
    assert source.gap == Gap(Range(7, 8), 1_050)


def test_a_jump_backward_reads_again_what_was_not_cut() -> None:
    """The topic was made anew, so Kafka offsets are others; raw offsets decide about gaps."""
    source = intake(4, 1_000)
    source.offer([record(1_000, 5), record(1_001, 6)], NOW)
    source.cut(Limits(rows_max=1))
    source.jump(0)
    source.offer([record(0, 4), record(1, 5), record(2, 6)], NOW)
    (block,) = cut_all(source, Limits())
    assert (block.plan, raws([block])) == (Plan(0, 2, 5, 6), [6])


def test_the_age_grows_with_the_partitions() -> None:
    """A table's budget is shared by all its partitions."""
    assert age_limit_ms(500, 6, 20) == 500
    assert age_limit_ms(500, 10, 20) == 500
    assert age_limit_ms(500, 11, 20) == 550
    assert age_limit_ms(500, 4_096, 20) == 204_800


def row(text: bytes, timestamp_ms: int = 7) -> Row:
    """A row with this value."""
    return Row(0, 0, timestamp_ms, b"k", text, is_suspect=False, is_broken=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"received_at":5}', 5),
        (b'{"received_at":"x"}', 7),
        (b'{"received_at":true}', 7),
        (b'{"received_at":-1}', 7),
        (b'{"received_at":%d}' % (BLOCK_AT_MS_MAX - 1), BLOCK_AT_MS_MAX - 1),
        (b'{"received_at":%d}' % BLOCK_AT_MS_MAX, 7),
        (b"[]", 7),
        (b"{", 7),
    ],
)
def test_the_block_time_comes_from_the_first_row(text: bytes, expected: int) -> None:
    """Its received_at, else its Kafka timestamp, else 0; never a clock."""
    assert block_at_ms(row(text)) == expected
    assert block_at_ms(row(b"{", -1)) == 0


def test_the_body_is_joined_and_not_encoded() -> None:
    """`block_at` in front of each row's own bytes; a replaced row instead of its bytes."""
    rows = Rows.of([row(b'{"a": 1}'), row(b'{"b":2}')._replace(raw_offset=1)])
    plain, replaced = Body(rows, 9, {}), Body(rows, 9, {1: b'{"ccc":3}'})
    assert b"".join(plain) == b'{"block_at":9,"a": 1}\n{"block_at":9,"b":2}'
    assert b"".join(replaced) == b'{"block_at":9,"a": 1}\n{"block_at":9,"ccc":3}'
    assert [len(body) for body in (plain, replaced)] == [len(b"".join(body)) for body in (plain, replaced)]


@pytest.mark.parametrize("count", [RUN_ROWS - 1, RUN_ROWS, RUN_ROWS + 1, 2 * RUN_ROWS])
def test_pieces_join_to_one_line_for_each_row(count: int) -> None:
    """However many pieces, and each time the body is asked for."""
    body = Body(Rows.of(row(b'{"a":%d}' % n)._replace(raw_offset=n) for n in range(count)), 9, {})
    assert len(list(body)) == -(-count // RUN_ROWS)
    for _ in range(2):
        assert [orjson.loads(line)["a"] for line in b"".join(body).splitlines()] == list(range(count))
    assert len(body) == len(b"".join(body))
