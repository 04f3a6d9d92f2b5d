"""What reports are divided by and narrowed to: dimensions, their columns and how their values are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any, Final

OTHERS: Final = "Others"
"""What a missing or unparsable value is called."""
BY_MAX: Final = 4
"""Dimensions of one report."""


class By(StrEnum):
    """What a report is divided by."""

    PROMOTION = "promotion"
    CAMPAIGN = "campaign"
    DEPLOYMENT = "deployment"
    LINK = "link"
    LINK_NAME = "link_name"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    BROWSER = "browser"
    OS = "os"
    DEVICE = "device"
    DEVICE_BRAND = "device_brand"
    DEVICE_TYPE = "device_type"
    RESOLUTION = "resolution"
    COUNTRY = "country"
    BOT_REASON = "bot_reason"
    SOURCE = "source"


TIMES: Final = (By.HOUR, By.DAY, By.WEEK)
OWNERS: Final = (By.PROMOTION, By.CAMPAIGN, By.DEPLOYMENT)
"""Those that name promotions, whose denominators are known."""
KNOWN: Final = (*OWNERS, *TIMES)
"""Those whose groups are known without a click: promotions are registered, and time passes."""
COLUMNS: Final[Mapping[By, str]] = {by: f"{by}_id" if by in OWNERS else by.value for by in By}
"""Column of the report and, times apart, of the table `clicks`; owners are columns of `promotions` too."""
BESIDE: Final[Mapping[By, str]] = {By.PROMOTION: "promotion", By.LINK: "link_name"}
"""Names that are shown beside an id."""
FILTERS: Final = tuple(COLUMNS[by] for by in By if by not in TIMES)
"""Columns that a report can be narrowed to one value of."""


def parse_by(text: str, allowed: Sequence[By]) -> tuple[By, ...]:
    """Dimensions written `a,b`, none for ''. Raises ValueError."""
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    if wrong := [name for name in names if name not in allowed]:
        raise ValueError(f"by: {wrong[0][:64]!r} is not one of {', '.join(allowed)}")
    if len(set(names)) < len(names):
        raise ValueError("by: a dimension is named twice")
    if len(names) > BY_MAX:
        raise ValueError(f"by: {len(names)} dimensions; {BY_MAX} are the most")
    return tuple(By(name) for name in names)


def check_empty(by: Sequence[By]) -> None:
    """Raise ValueError where it is not known which groups have no click."""
    if len(by) > 1 or not set(KNOWN).issuperset(by):
        raise ValueError(f"empty: groups without a click are known by one of {', '.join(KNOWN)}, not by {','.join(by)}")


def stored(value: str) -> list[str]:
    """What stands in the table where a report shows `value`."""
    return [value, ""] if value == OTHERS else [value]


def key_of(by: By, moment: str) -> str:
    """The expression that rows are grouped by; `moment` is the column with the time of the click."""
    local = f"toTimeZone({moment}, {{zone:String}})"
    match by:
        case (
            By.HOUR
        ):  # of the clock on the wall, and how far that is from UTC: an hour that is shown twice is two hours
            seconds = f"(toInt64(toUnixTimestamp({moment})) + timezoneOffset({local}))"
            return f"(intDiv({seconds}, 3600) * 3600 - timezoneOffset({local}), timezoneOffset({local}))"
        case By.DAY:
            return f"toDate({local})"
        case By.WEEK:
            return f"toMonday({local})"
    return f"if(empty({COLUMNS[by]}), '{OTHERS}', toString({COLUMNS[by]}))"


def show(by: By, value: Any) -> str:
    """A group's value as reports show it."""
    match by, value:
        case By.HOUR, (int() as seconds, int() as offset):
            zone = timezone(timedelta(seconds=offset))
            return datetime.fromtimestamp(seconds, UTC).astimezone(zone).isoformat(timespec="minutes")
        case By.DAY, date():
            return value.isoformat()
        case By.WEEK, date():
            year, week, _ = value.isocalendar()
            return f"{year}-W{week:02}"
    return str(value)
