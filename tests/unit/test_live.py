"""Lines of `clickledger tail`."""

from __future__ import annotations

from typing import Any

from clickledger.live import line_of

_RECORD: dict[str, Any] = {
    "status": "accepted",
    "received_at": 1_760_000_000_007,
    "promotion_id": "spring",
    "short_url": "http://s/a",
    "browser": "Chrome",
    "os": "Android",
    "country": "IN",
    "is_bot": False,
    "tenant": "t",
}


def test_a_click_is_one_line() -> None:
    """When, what, who, where."""
    assert line_of(_RECORD).plain.rstrip() == "08:53:20.007 accepted  spring http://s/a Chrome on Android IN"


def test_missing_dimensions_and_bots() -> None:
    """An unknown agent is `Others`, a bot says by which rule, a refusal why."""
    record = {"status": "rejected", "received_at": 0, "is_bot": True, "bot_reason": "crawler", "reason": "unknown_link"}
    assert line_of(record).plain.rstrip() == "00:00:00.000 rejected  - - Others bot:crawler unknown_link"


def test_an_ignored_time_is_shown() -> None:
    """A phone whose clock is wrong is seen as its clicks come."""
    assert line_of(_RECORD | {"clicked_at_ignored": True}).plain.rstrip().endswith(" IN clicked-at ignored")


def test_a_stranger_cannot_drive_the_terminal() -> None:
    """Control characters and markup are shown, not obeyed."""
    line = line_of(_RECORD | {"short_url": "http://s/\x1b[2J\n[red]"}).plain
    assert "http://s/?[2J?[red]" in line
