"""Retries, Retry-After, giving up and disabling, with a clock and a die of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reporting.webhooks.schedule import (
    Again,
    Attempt,
    Disable,
    GiveUp,
    Outcome,
    Stop,
    after_failure,
    outcome_of,
    read_retry_after,
)
from shared.settings import WebhookSettings

SETTINGS = WebhookSettings()
NOW_MS = 1_760_000_000_000
DAY_MS, HOUR_MS = 86_400_000, 3_600_000


def follows(
    outcome: Outcome = Outcome.STATUS,
    *,
    number: int = 1,
    failures: int = 1,
    first_at_ms: int = NOW_MS,
    retry_after_ms: int | None = None,
    die: float = 0.5,
) -> Again | GiveUp | Disable:
    """What follows at NOW_MS."""
    attempt = Attempt(outcome, 500, retry_after_ms)
    return after_failure(
        attempt, number=number, failures=failures, first_at_ms=first_at_ms, now_ms=NOW_MS, settings=SETTINGS, die=die
    )


def test_pauses_double_up_to_an_hour() -> None:
    """5 s, 10 s, 20 s … 1 h; the die moves a pause by a fifth at most."""
    pauses = [follows(number=number) for number in range(1, 13)]
    assert [(again.at_ms - NOW_MS) / 1_000 for again in pauses if isinstance(again, Again)] == [
        *(5, 10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 3_600, 3_600)
    ]
    assert follows(die=0) == Again(NOW_MS + 4_000)
    assert follows(die=1) == Again(NOW_MS + 6_000)


def test_attempts_of_a_day() -> None:
    """An endpoint that is away gets 33 or so attempts for the same events, the last one when the day is over."""
    now_ms, number, times = NOW_MS, 0, []
    while True:
        number += 1
        times.append(now_ms - NOW_MS)
        attempt = Attempt(Outcome.TIMEOUT)
        then = after_failure(
            attempt, number=number, failures=1, first_at_ms=NOW_MS, now_ms=now_ms, settings=SETTINGS, die=0.5
        )
        if not isinstance(then, Again):
            break
        now_ms = then.at_ms
    assert isinstance(then, GiveUp)
    assert times[-1] == DAY_MS
    assert 30 <= len(times) <= 36


def test_retry_after_is_respected_within_the_day() -> None:
    """A longer pause that the receiver asks for holds, a shorter one does not, and none goes beyond the last attempt."""
    assert follows(retry_after_ms=2 * HOUR_MS) == Again(NOW_MS + 2 * HOUR_MS)
    assert follows(retry_after_ms=1) == Again(NOW_MS + 5_000)
    assert follows(retry_after_ms=30 * DAY_MS) == Again(NOW_MS + DAY_MS)
    assert follows(first_at_ms=NOW_MS - DAY_MS + 1) == Again(NOW_MS + 1)


@pytest.mark.parametrize("outcome", [each for each in Outcome if each not in (Outcome.DELIVERED, Outcome.GONE)])
def test_every_other_failure_is_tried_again(outcome: Outcome) -> None:
    """Whatever the failure, until the day is over; then the events are skipped."""
    assert isinstance(follows(outcome), Again)
    assert follows(outcome, first_at_ms=NOW_MS - DAY_MS) == GiveUp()


def test_what_disables() -> None:
    """410 at once; otherwise the stated number of failures in a row, not one less."""
    assert follows(Outcome.GONE) == Disable(Stop.GONE)
    assert isinstance(follows(failures=SETTINGS.webhooks_failures_max - 1), Again)
    assert follows(failures=SETTINGS.webhooks_failures_max) == Disable(Stop.FAILING)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((200, Outcome.DELIVERED), (204, Outcome.DELIVERED), (299, Outcome.DELIVERED), (301, Outcome.STATUS)),
        *(
            (307, Outcome.STATUS),
            (400, Outcome.STATUS),
            (410, Outcome.GONE),
            (500, Outcome.STATUS),
            (199, Outcome.STATUS),
        ),
    ],
)
def test_only_2xx_is_success(status: int, outcome: Outcome) -> None:
    """A redirect is a failure."""
    assert outcome_of(status) is outcome


@pytest.mark.parametrize(
    ("text", "found"),
    [
        *((None, None), ("120", 120_000), (" 0 ", 0), ("-1", None), ("1.5", None), ("soon", None), ("", None)),
        *(("Thu, 09 Oct 2025 08:54:20 GMT", 60_000), ("Thu, 09 Oct 2025 08:00:00 GMT", 0), ("9" * 50, 999_999_999_000)),
    ],
)
def test_retry_after(text: str | None, found: int | None) -> None:
    """Seconds or a date; anything else is as if it were not there."""
    assert read_retry_after(text, NOW_MS) == found


@given(st.text())
def test_no_retry_after_breaks_it(text: str) -> None:
    """It comes from strangers."""
    assert (read_retry_after(text, NOW_MS) or 0) >= 0
