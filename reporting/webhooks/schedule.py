"""What an attempt's end means and when the next one is due. Pure: the clock and the die are arguments."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

from shared.settings import WebhookSettings

_JITTER: Final = 0.2
"""Of a pause, up or down, so that endpoints of one machine are not all called at the same moment."""


class Outcome(StrEnum):
    """How an attempt ended: what the log and the metrics say."""

    DELIVERED = "delivered"
    STATUS = "status"
    """An answer that is neither 2xx nor 410; a redirect is one too."""
    GONE = "gone"
    """410: the receiver wants no more."""
    TIMEOUT = "timeout"
    REFUSED_ADDRESS = "refused_address"
    """The name leads to an address that may not be reached."""
    NAME = "name"
    """The name has no address."""
    TLS = "tls"
    CONNECTION = "connection"
    """Refused, reset, or an answer that is not HTTP."""


class Stop(StrEnum):
    """Why a webhook is disabled."""

    GONE = "gone"
    FAILING = "failing"
    BY_USER = "by_user"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request and its end."""

    outcome: Outcome
    status: int | None = None
    retry_after_ms: int | None = None
    duration_ms: int = 0


@dataclass(frozen=True, slots=True)
class Again:
    """Send the same again at this time."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Skip these events: they were tried for as long as is promised."""


@dataclass(frozen=True, slots=True)
class Disable:
    """Send nothing any more until somebody enables the webhook again."""

    reason: Stop


def after_failure(
    attempt: Attempt,
    *,
    number: int,
    failures: int,
    first_at_ms: int,
    now_ms: int,
    settings: WebhookSettings,
    die: float,
) -> Again | GiveUp | Disable:
    """What follows a failed attempt.

    `number` counts the attempts for these events from 1, `failures` those in a row for the webhook; `die` is 0 to 1. The
    last attempt is made when the time is up, however long the pause before it would have been.
    """
    if attempt.outcome is Outcome.GONE:
        return Disable(Stop.GONE)
    if failures >= settings.webhooks_failures_max:
        return Disable(Stop.FAILING)
    end_ms = first_at_ms + settings.webhooks_retry_ms
    if now_ms >= end_ms:
        return GiveUp()
    pause_ms = min(settings.webhooks_backoff_ms * 2.0 ** min(number - 1, 40), settings.webhooks_backoff_ms_max)
    pause_ms *= 1 + _JITTER * (2 * die - 1)
    if attempt.retry_after_ms is not None:
        pause_ms = max(pause_ms, attempt.retry_after_ms)
    return Again(min(now_ms + int(pause_ms), end_ms))


def outcome_of(status: int) -> Outcome:
    """What an HTTP status says."""
    if 200 <= status < 300:
        return Outcome.DELIVERED
    return Outcome.GONE if status == 410 else Outcome.STATUS


def read_retry_after(text: str | None, now_ms: int) -> int | None:
    """Milliseconds of a Retry-After field, seconds or a date; None for none and for what is neither."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return int(text[:9]) * 1_000
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, IndexError):
        return None
    return max(0, int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1_000) - now_ms)
