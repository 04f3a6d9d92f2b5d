"""The click-through report: accepted clicks by promotion and day of the tenant's zone, bots apart."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from shared.clickhouse import ClickHouse

DAYS_MAX: Final = 366
"""Days of one report; a year with its leap day."""
DAYS_DEFAULT: Final = 30
ROWS_MAX: Final = 10_000
"""Rows of one answer (about 2 MB); a request for more is refused, never cut in silence."""
ATTRIBUTION: Final = {"text": "IP Geolocation by DB-IP", "url": "https://db-ip.com"}
"""Asked for by the licence of the country database (CC BY 4.0)."""

COLUMNS: Final = (
    "day",
    "promotion_id",
    "promotion",
    "campaign_id",
    "clicks",
    "recipients",
    "bot_clicks",
    "sent",
    "delivered",
    "ctr_percent",
)

SQL: Final = """
SELECT day, promotion_id, promotion, campaign_id, clicks, recipients, bot_clicks, sent, delivered, ctr_percent
FROM ctr_daily
WHERE tenant = {tenant:String} AND day >= {first:Date} AND day <= {last:Date}
    AND ({promotion:String} = '' OR promotion_id = {promotion:String})
ORDER BY day, promotion_id
LIMIT {limit:UInt32}
"""
"""Its columns are `COLUMNS`, in that order."""


class Period(NamedTuple):
    """Days of the tenant's zone, both included."""

    first: date
    last: date

    @property
    def days(self) -> int:
        """How many."""
        return (self.last - self.first).days + 1


def period_of(first: date | None, last: date | None, zone: str, now: datetime) -> Period:
    """The asked period; the last 30 days where a bound is not given. `now` is aware.

    Raises ValueError, saying why, when the period is empty or too long.
    """
    last = last or now.astimezone(ZoneInfo(zone)).date()
    first = first or last - timedelta(days=DAYS_DEFAULT - 1)
    period = Period(first, last)
    if not 1 <= period.days <= DAYS_MAX:
        raise ValueError(f"from {first} to {last}: a report has 1 to {DAYS_MAX} days")
    return period


async def read(clickhouse: ClickHouse, tenant: str, period: Period, promotion_id: str = "") -> list[dict[str, Any]]:
    """The report's rows, at most one more than ROWS_MAX. Raises as ClickHouse does."""
    params = {
        "tenant": tenant,
        "first": period.first.isoformat(),
        "last": period.last.isoformat(),
        "promotion": promotion_id,
        "limit": ROWS_MAX + 1,
    }
    return [_row(values) for values in await clickhouse.query(SQL, params)]


def _row(values: Sequence[Any]) -> dict[str, Any]:
    row = dict(zip(COLUMNS, values, strict=True))
    row["day"] = str(row["day"])
    return row
