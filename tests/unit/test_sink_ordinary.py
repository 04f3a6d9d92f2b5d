"""Rows taken many at once are the rows taken one by one; rows kept as columns are the rows that were put in."""

from __future__ import annotations

from typing import Any
from unittest import mock

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.enriched_fields import ENRICHED_NAMES
from shared.events import HEADER_RAW_OFFSET, HEADER_SUSPECT, Status, encode_raw_offset
from sink.blocks import Block, Intake, Limits, Range
from sink.rows import RUN_ROWS, Buffer, Row, Rows, run_of
from sink.watch import count_statuses
from tests.support.sink_model import Record

STREAM = "s1"
LIMITS = Limits(rows_max=7, bytes_max=4_000)


def value(raw_offset: int, **fields: Any) -> bytes:
    """An enriched record's bytes, as far as the sink looks at them."""
    return orjson.dumps({"v": 1, "stream": STREAM, "raw_partition": 2, "raw_offset": raw_offset} | fields)


def record(offset: int, raw_offset: int, **changes: Any) -> Record:
    """A record as the enricher writes it, but for `changes`."""
    headers = ((HEADER_RAW_OFFSET, encode_raw_offset(raw_offset)),)
    made = Record(
        offset, 1_700_000_000_000 + offset, b"k%d" % raw_offset, value(raw_offset, x="y" * (offset % 5)), headers
    )
    return made._replace(**changes)


def headed(raw_offset: int, *more: tuple[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The header of a raw offset, and others behind it."""
    return ((HEADER_RAW_OFFSET, encode_raw_offset(raw_offset)), *more)


ODD = {
    "suspect": lambda raw: {"headers": headed(raw, (HEADER_SUSPECT, b"1"))},
    "suspect in front": lambda raw: {"headers": ((HEADER_SUSPECT, b"1"), *headed(raw))},
    "not suspect": lambda raw: {"headers": headed(raw, (HEADER_SUSPECT, b"0"))},
    "no header": lambda _raw: {"headers": ()},
    "null header": lambda _raw: {"headers": ((HEADER_RAW_OFFSET, None),)},
    "short header": lambda raw: {"headers": ((HEADER_RAW_OFFSET, encode_raw_offset(raw)[:7]),)},
    "long header": lambda raw: {"headers": ((HEADER_RAW_OFFSET, encode_raw_offset(raw) + b"\0"),)},
    "other header": lambda raw: {"headers": headed(raw + 1)},
    "other name": lambda raw: {"headers": (("offset", encode_raw_offset(raw)),)},
    "no key": lambda _raw: {"key": None},
    "empty": lambda _raw: {"value": b""},
    "tombstone": lambda _raw: {"value": None},
    "cut off": lambda raw: {"value": value(raw)[:-1]},
    "cut short": lambda raw: {"value": value(raw)[:30]},
    "only a beginning": lambda raw: {"value": value(raw)[:-1] + b","},
    "other stream": lambda raw: {"value": value(raw, stream="s2")},
    "other partition": lambda raw: {"value": value(raw, raw_partition=3)},
    "other raw offset": lambda raw: {"value": value(raw + 1)},
    "longer raw offset": lambda raw: {"value": value(raw * 10)},
    "other order": lambda raw: {"value": orjson.dumps(dict(reversed(orjson.loads(value(raw)).items())))},
}


def seen(source: Intake) -> tuple[Any, ...]:
    """All that can be seen of an intake."""
    counts = source.counts
    return (
        *(source.position, source.taken, source.gap, source.memory_bytes, len(source)),
        *(counts.taken, counts.dropped, counts.foreign, counts.awaiting, source.take_foreign()),
    )


def blocks(source: Intake) -> list[Block]:
    """All blocks, each checked: its bytes are those of its rows."""
    found = []
    while len(source):
        block = source.cut(LIMITS)
        assert isinstance(block, Block)
        found.append(block)
    assert source.memory_bytes == 0
    return found


STEPS = st.lists(
    st.tuples(
        st.sampled_from([1, 1, 1, 1, 1, 1, 0, -3, 2]),  # from the raw offset before
        st.sampled_from([1, 1, 1, 1, 1, 3, 0, -2]),  # from the Kafka offset before
        st.sampled_from([None] * 30 + list(ODD)),
    ),
    max_size=40,
)


@given(st.sampled_from([0, 7, 95, 2**40]), STEPS, st.integers(1, 9), st.integers(1, 12), st.booleans())
def test_many_at_once_are_the_same_as_one_by_one(
    first: int,
    steps: list[tuple[int, int, str | None]],
    a_fetch: int,
    run_rows: int,
    is_accepted: bool,
) -> None:
    """Rows, counts, position, gap, weight and blocks, whatever is among the records and however they are fetched."""
    log, raw, offset = [], first - 1, 0
    for raw_step, offset_step, odd in steps:
        raw, offset = max(0, raw + raw_step), max(0, offset + offset_step)
        log.append(record(offset, raw, **(ODD[odd](raw) if odd else {})))
    many, single = Intake(STREAM, 2), Intake(STREAM, 2)
    for source in (many, single):
        source.restart(0, first - 1)
        source.accepted = (Range(0, 2**50),) if is_accepted else ()
    with mock.patch("sink.rows.RUN_ROWS", run_rows):
        for begin in range(0, len(log), a_fetch):
            fetched = log[begin : begin + a_fetch]
            many.offer(fetched, begin)
            with mock.patch("sink.blocks.ordinary_run", return_value=None):
                single.offer(fetched, begin)
            assert seen(many) == seen(single)
            assert many.due_in_ms(LIMITS, begin) == single.due_in_ms(LIMITS, begin)
        assert blocks(many) == blocks(single)


@pytest.mark.parametrize("odd", [*ODD, None])
def test_what_is_not_ordinary_is_looked_at(odd: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only records as the enricher writes them, suspects too, are taken without a look."""
    looked_at = []
    look_at = Intake._look_at
    monkeypatch.setattr(Intake, "_look_at", lambda self, record: (looked_at.append(record), look_at(self, record)))
    source = Intake(STREAM, 2)
    source.restart(0, 99)
    source.offer([record(0, 100), record(1, 101, **(ODD[odd](101) if odd else {})), record(2, 102)], 0)
    is_ordinary = odd in (None, "suspect", "not suspect", "no key")
    assert bool(looked_at) is not is_ordinary


def test_a_run_ends_where_raw_offsets_become_longer() -> None:
    """99 and 100 are taken all the same."""
    source = Intake(STREAM, 2)
    source.restart(0, 97)
    source.offer([record(k, 98 + k) for k in range(4)], 0)
    assert [row.raw_offset for block in blocks(source) for row in block.rows] == [98, 99, 100, 101]


ROWS = st.lists(
    st.builds(
        Row,
        st.sampled_from([1, 1, 1, 1, 2]),
        st.integers(0, 2**63 - 1),
        st.integers(-1, 2**63 - 1),
        st.binary(max_size=3),
        st.binary(max_size=9),
        st.booleans(),
        st.booleans(),
    ),
    max_size=30,
)


@given(ROWS, st.integers(1, 5), st.lists(st.integers(0, 9)))
def test_columns_give_the_rows_that_were_put_in(steps: list[Row], run_rows: int, cuts: list[int]) -> None:
    """In order, each by its place, however they are cut; with their weight."""
    rows: list[Row] = []
    for step in steps:
        rows.append(step._replace(raw_offset=(rows[-1].raw_offset if rows else 5) + step.raw_offset))
    buffer = Buffer()
    with mock.patch("sink.rows.RUN_ROWS", run_rows):
        for row in rows:
            buffer.add(run_of(row))
        parts = []
        for count in cuts:
            parts.append(buffer.pop(min(count, len(buffer))))
            if buffer:
                assert buffer.raw_offset(0) == rows[sum(map(len, parts))].raw_offset
        parts.append(buffer.pop(len(buffer)))
    assert [row for part in parts for row in part] == rows
    assert buffer.memory_bytes == 0
    assert all(len(run) <= run_rows for part in parts for run in part.runs)
    whole = Rows.of(rows)
    assert [whole[at] for at in range(-len(rows), len(rows))] == rows + rows
    assert list(whole.keys()) == [row.key for row in rows]
    assert whole.suspect_keys() == [row.key for row in rows if row.is_suspect]
    assert whole.broken() == [row for row in rows if row.is_broken]
    assert whole.with_keys({b"", b"\0"}) == [row for row in rows if row.key in (b"", b"\0")]
    assert [run.value_bytes for run in whole.runs] == [sum(map(len, run.values)) for run in whole.runs]


def test_rows_are_looked_up_within_bounds() -> None:
    """As in any sequence."""
    rows = Rows.of(Row(n, n, 0, b"", b"", is_suspect=False, is_broken=False) for n in range(RUN_ROWS + 3))
    assert rows[-1].raw_offset == RUN_ROWS + 2
    assert [row.raw_offset for row in rows[RUN_ROWS - 1 : RUN_ROWS + 1]] == [RUN_ROWS - 1, RUN_ROWS]
    with pytest.raises(IndexError):
        rows[len(rows)]


TEXTS = st.sampled_from(["", "x", '"status":"accepted"', '\\"status":"accepted"', "é" * 40]) | st.text(max_size=20)


@given(st.lists(st.tuples(st.sampled_from(Status), st.integers(0, 10**12), TEXTS, TEXTS), min_size=1, max_size=20))
def test_statuses_are_counted_as_the_records_say(records: list[tuple[Status, int, str, str]]) -> None:
    """Whatever the strings before and behind the status hold."""
    values = []
    for status, raw_offset, transaction_id, text in records:
        known = {
            "v": 1,
            "raw_offset": raw_offset,
            "transaction_id": transaction_id,
            "status": status,
            "recipient": text,
        }
        values.append(orjson.dumps({name: known.get(name, "") for name in ENRICHED_NAMES}))
    said = [Status(orjson.loads(value)["status"]) for value in values]
    assert count_statuses(values) == {status: said.count(status) for status in said}
