"""How an answer is shown to people."""

from __future__ import annotations

import pytest

from clickledger.sql_table import CELL_CHARS_MAX, show


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain é 世", "plain é 世"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("two\nlines\tand\r", "two\\nlines\\tand\\r"),
        ("\u202eturned", "\\u202eturned"),
        ([1, "a"], '[1,"a"]'),
        (True, "true"),
    ],
)
def test_nothing_of_a_cell_reaches_the_terminal_as_a_command(value: object, shown: str) -> None:
    """A user agent is what a stranger sent."""
    assert show(value) == shown


def test_a_long_cell_is_cut_with_a_mark() -> None:
    """At the bound it is whole, beyond it is not."""
    assert show("x" * CELL_CHARS_MAX) == "x" * CELL_CHARS_MAX
    assert show("x" * (CELL_CHARS_MAX + 1)) == "x" * (CELL_CHARS_MAX - 1) + "…"
