"""When the phone clicked: the forms of the field `clicked-at`. The API judges its bounds, the enricher stores it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_CHARS_MAX: Final = 40
"""The longest ISO 8601 form with zone and nanoseconds has 35 characters."""


def clicked_at_ms(value: object) -> int | None:
    """Milliseconds since the epoch of a `clicked-at`: ISO 8601 with zone, or epoch milliseconds as number or digits.

    None for everything else, a time without zone included; the caller then ignores the field and says so.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if not isinstance(value, str) or len(value) > _CHARS_MAX:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        return None
    return None if moment.tzinfo is None else (moment - _EPOCH) // _MILLISECOND
