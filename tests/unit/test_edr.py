"""Event detail records without a stack: pinned columns, ranges of times and positions, what pulls take."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from reporting.edr.columns import COLUMNS, NAMES, Compression, Format, Shape
from reporting.edr.pulls import Span, Spans, next_stream, take
from reporting.edr.selection import Clock, filter_params, time_range
from shared.errors import TransientError
from shared.rte import Filter, Position
from tests.unit.test_docs import table

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 5, 31, tzinfo=UTC)


def test_columns_are_only_ever_added_at_the_end() -> None:
    """The first columns are those of the first release, for ever: a file of names that only grows."""
    pinned = (ROOT / "tests/golden/edr-columns.txt").read_text(encoding="utf-8").split()
    assert list(NAMES[: len(pinned)]) == pinned
    assert len(pinned) == len(NAMES), "add the new columns to the file too"


def test_the_page_has_the_columns() -> None:
    """docs/edr.md lists name, kind and meaning of every column, in order."""
    page = (ROOT / "docs/edr.md").read_text(encoding="utf-8")
    assert table(page, "column") == [[f"`{column.name}`", str(column.kind), column.meaning] for column in COLUMNS]


def test_times_have_zones_and_an_order() -> None:
    """Times with offsets are the same moment in UTC; `to` defaults to now."""
    found = time_range(Clock.CLICKED_AT, "2026-05-30T02:00:00+02:00", "", NOW)
    assert (found.end_ms - found.first_ms, found.clock) == (86_400_000, "clicked_at")
    with pytest.raises(ValueError, match="must be before"):
        time_range(Clock.RECEIVED_AT, "2026-05-31T00:00:00Z", "", NOW)


def test_an_export_needs_a_tenant() -> None:
    """A filter without one would read everybody's clicks."""
    with pytest.raises(ValueError, match="tenant"):
        filter_params(Filter.of())


@pytest.mark.parametrize(
    ("after", "rows_max", "spans", "next_", "remaining"),
    [
        ("s.0.0", 100, ((0, 0, 10), (1, 5, 7)), "s.10.7", 0),
        ("s.3.9", 100, ((0, 3, 10),), "s.10.9", 0),
        ("s.3", 100, ((0, 3, 10), (1, 5, 7)), "s.10.7", 0),
        ("s.0.0", 4, ((0, 0, 2), (1, 5, 7)), "s.2.7", 8),
        ("s.0.0", 1, ((0, 0, 1), (1, 5, 6)), "s.1.6", 10),
        ("s.10.7", 100, (), "s.10.7", 0),
        ("s.99.99", 100, (), "s.99.99", 0),
    ],
)
def test_what_a_pull_takes(
    after: str, rows_max: int, spans: tuple[tuple[int, int, int], ...], next_: str, remaining: int
) -> None:
    """Between the cursor and the end of each partition, evenly, from the partition's start on, and never backwards."""
    found = take(Position.parse(after), (0, 5), (10, 7), rows_max)
    assert found.spans == Spans("s", tuple(Span(*span) for span in spans))
    assert (str(found.next), found.remaining) == (next_, remaining)


def test_an_error_is_never_a_row() -> None:
    """Releases that write an error as a last row, and end the body as if it were whole, are told not to."""
    assert all(Shape(form, Compression.NONE).settings["http_write_exception_in_output_format"] == 0 for form in Format)


def test_no_stream_is_stepped_over() -> None:
    """Behind each stream comes the next one, the current one last; a stream that is newer than the current one waits."""
    assert [next_stream(["a", "b", "c"], stream, "c") for stream in "ab"] == ["b", "c"]
    assert next_stream(["a", "b"], "b", "c") == "c"
    for known, current in ((["a", "b"], "a"), (["a"], "c")):
        with pytest.raises(TransientError, match="behind"):
            next_stream(known, "b", current)
