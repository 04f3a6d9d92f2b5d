"""What the enricher remembers: bounded in entries and bytes, and what is asked for stays."""

from __future__ import annotations

import sys

import pytest

from enricher.remembered import ENTRY_BYTES, Remembered


def fill(remembered: Remembered, first: int, count: int) -> None:
    """Ask for so many texts, as a parser does."""
    for number in range(first, first + count):
        text = f"text {number}"
        if remembered.get(text) is None:
            remembered.put(text, text.encode())


@pytest.mark.parametrize("count", [9, 10, 11, 1_000])
def test_no_more_entries_are_kept_than_allowed(count: int) -> None:
    """However many different texts come, the number of entries is bounded and recent ones are known."""
    remembered = Remembered(10, 1 << 20)
    fill(remembered, 0, count)
    assert len(remembered) <= 10
    assert remembered.get(f"text {count - 1}") == f"text {count - 1}".encode()
    assert (remembered.hits, remembered.misses) == (1, count)


def test_no_more_bytes_are_kept_than_allowed() -> None:
    """Long texts make fewer entries."""
    remembered = Remembered(1_000_000, 100_000)
    for number in range(500):
        text = f"{number:01000d}"
        remembered.put(text, b"x" * 1_000)
        assert len(remembered) * (sys.getsizeof(text) + sys.getsizeof(b"x" * 1_000) + ENTRY_BYTES) <= 100_000
    assert len(remembered) > 20


def test_an_answer_larger_than_a_generation_is_not_kept() -> None:
    """One huge text must not drive out all others."""
    remembered = Remembered(100, 10_000)
    fill(remembered, 0, 5)
    remembered.put("huge", b"x" * 6_000)
    assert remembered.get("huge") is None
    assert len(remembered) == 5


def test_what_is_asked_for_again_and_again_stays() -> None:
    """A text that comes now and then survives any number of others that come once."""
    remembered = Remembered(10, 1 << 20)
    fill(remembered, 0, 1)
    for first in range(1, 400, 4):
        fill(remembered, first, 4)
        assert remembered.get("text 0") == b"text 0"


def test_an_empty_answer_is_an_answer() -> None:
    """That a text is no agent is worth remembering, too."""
    remembered = Remembered(10, 1 << 20)
    remembered.put("-", b"")
    assert remembered.get("-") == b""
