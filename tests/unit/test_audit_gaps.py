"""How an accepted gap is written on the command line."""

from __future__ import annotations

import pytest

from clickledger.audit import Span
from clickledger.audit_gaps import parse_gap


@pytest.mark.parametrize(("text", "wanted"), [("3:7", (3, Span(7, 7))), ("0:10-19", (0, Span(10, 19)))])
def test_one_offset_or_a_range(text: str, wanted: tuple[int, Span]) -> None:
    """Both ends are included."""
    assert parse_gap(text) == wanted


@pytest.mark.parametrize("text", ["", "x", "1:", ":5", "1:5-3", "1-5", "1:5-", "1:-5", "99999:1"])
def test_anything_else_is_refused(text: str) -> None:
    """The message shows the form or the mistake."""
    with pytest.raises(ValueError, match=r"gap|ends before"):
        parse_gap(text)
