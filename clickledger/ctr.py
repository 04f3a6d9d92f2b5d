"""Click-through by promotion over a period: the days of the daily report added up, recipients counted once."""

from __future__ import annotations

from typing import Any, Final

from reporting.ctr import Period
from shared.clickhouse import ClickHouse

COLUMNS: Final = ("promotion_id", "promotion", "sent", "delivered", "clicks", "recipients", "bot_clicks", "ctr_percent")

_ZONE: Final = "SELECT zone FROM tenants FINAL WHERE tenant = {tenant:String} AND NOT is_deleted"

_SQL: Final = """
SELECT c.promotion_id, if(any(p.name) = '', 'Others', any(p.name)), any(p.sent), any(p.delivered),
    countIf(NOT c.is_bot) AS clicks, uniqExactIf(c.recipient, NOT c.is_bot), countIf(c.is_bot),
    if(any(p.delivered) > 0, round(100 * clicks / any(p.delivered), 2), NULL)
FROM clicks AS c
LEFT JOIN (SELECT tenant, promotion_id, name, sent, delivered FROM promotions FINAL) AS p
    ON p.tenant = c.tenant AND p.promotion_id = c.promotion_id
WHERE c.tenant = {tenant:String} AND c.status = 'accepted'
    AND toDate(c.clicked_at, {zone:String}) BETWEEN {first:Date} AND {last:Date}
    AND ({promotion:String} = '' OR c.promotion_id = {promotion:String})
GROUP BY c.promotion_id
ORDER BY clicks DESC, c.promotion_id
LIMIT 10000
"""


async def zone_of(clickhouse: ClickHouse, tenant: str) -> str:
    """Give the time zone of a tenant's days, UTC for one that the table does not know yet. Raises as ClickHouse does."""
    rows = await clickhouse.query(_ZONE, {"tenant": tenant})
    return str(rows[0][0]) if rows and rows[0][0] else "UTC"


async def read(
    clickhouse: ClickHouse, tenant: str, period: Period, promotion_id: str, zone: str
) -> list[dict[str, Any]]:
    """Give one row per promotion that has clicks in the period, most clicks first. Raises as ClickHouse does."""
    params = {
        "tenant": tenant,
        "zone": zone,
        "first": period.first.isoformat(),
        "last": period.last.isoformat(),
        "promotion": promotion_id,
    }
    return [dict(zip(COLUMNS, row, strict=True)) for row in await clickhouse.query(_SQL, params)]
