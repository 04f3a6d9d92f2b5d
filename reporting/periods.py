"""The time that a report is about: days of a zone, or moments."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, available_timezones

DAYS_MAX: Final = 366
"""Days of one report; a year with its leap day."""
DAYS_DEFAULT: Final = 30
_YEARS: Final = range(2000, 2100)
"""Far beyond every retention, and within what ClickHouse's types hold."""
_QUARTER_S: Final = 900


class Period(NamedTuple):
    """From `begin` to before `end`, both aware and of the zone in which days and hours are counted."""

    begin: datetime
    end: datetime
    zone: ZoneInfo

    @property
    def first(self) -> date:
        """Its first day."""
        return self.begin.date()

    @property
    def last(self) -> date:
        """Its last day, perhaps not whole."""
        return (self.end.astimezone(UTC) - timedelta(microseconds=1)).astimezone(self.zone).date()

    @property
    def is_of_quarters(self) -> bool:
        """Whether it consists of whole quarters of an hour, UTC; days and hours of every zone do."""
        return all(moment.timestamp() % _QUARTER_S == 0 for moment in (self.begin, self.end))


def zone_of(name: str) -> ZoneInfo:
    """The zone of an IANA name. Raises ValueError."""
    if name not in _zones():
        raise ValueError(f"{name[:64]!r} is no IANA time zone: write it like Europe/Berlin")
    return ZoneInfo(name)


def period_of(first: str, last: str, zone: ZoneInfo, now: datetime) -> Period:
    """The period of two bounds as given, '' where one is not; the last 30 days without any. `now` is aware.

    A bound is a day of the zone (`2026-05-31`, to its end where it is the last) or a moment (`2026-05-31T10:00:00Z`).
    Raises ValueError, saying why, for what is neither, and when the period is empty or too long.
    """
    today = now.astimezone(zone).date()
    end = _moment(last, zone, is_last=True) if last else _midnight(today + timedelta(days=1), zone)
    period = Period(end, end, zone)
    begin = (
        _moment(first, zone, is_last=False)
        if first
        else _midnight(period.last - timedelta(days=DAYS_DEFAULT - 1), zone)
    )
    period = Period(begin, end, zone)
    days = (period.last - period.first).days + 1
    if begin.astimezone(UTC) >= end.astimezone(UTC):  # within one zone Python compares what the clocks on the wall show
        raise ValueError(f"from {first or period.first} to {last or period.last}: the end is not after the beginning")
    if days > DAYS_MAX:
        raise ValueError(f"from {period.first} to {period.last}: {days:,} days; a report has at most {DAYS_MAX}")
    return period


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first moment of a day. Where midnight is skipped, Python takes the offset before: that very moment."""
    return datetime.combine(day, time(), zone).astimezone(UTC).astimezone(zone)


def _moment(text: str, zone: ZoneInfo, *, is_last: bool) -> datetime:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text.upper())
        except ValueError as exc:
            raise ValueError(_neither(text)) from exc
        if moment.tzinfo is None:
            raise ValueError(_neither(text)) from None
        if moment.year not in _YEARS:
            raise ValueError(f"{text}: the years are {_YEARS[0]} to {_YEARS[-1]}") from None
        return moment.astimezone(zone)
    if day.year not in _YEARS:
        raise ValueError(f"{text}: the years are {_YEARS[0]} to {_YEARS[-1]}")
    return _midnight(day + timedelta(days=1) if is_last else day, zone)


def _neither(text: str) -> str:
    return (
        f"{text[:64]!r} is neither a day (2026-05-31) nor a time with its offset from UTC "
        "(2026-05-31T10:00:00Z; in a URL a + is written %2B)"
    )
