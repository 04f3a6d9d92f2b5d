"""What the commands that report share: a tenant's zone, and figures as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from zoneinfo import ZoneInfo

from clickledger.output import print_table
from reporting.figures import Question
from shared.clickhouse import ClickHouse

_ZONE: Final = "SELECT zone FROM tenants FINAL WHERE tenant = {tenant:String} AND NOT is_deleted"


async def tenant_zone(clickhouse: ClickHouse, tenant: str) -> ZoneInfo:
    """The time zone of a tenant's days, UTC for one that the table does not know yet. Raises as ClickHouse does."""
    rows = await clickhouse.query(_ZONE, {"tenant": tenant})
    return ZoneInfo(str(rows[0][0]) if rows and rows[0][0] else "UTC")


def print_figures(question: Question, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table in which rates are percentages; columns that say nothing in any row are left out."""
    columns = [column for column in question.columns if any(row[column] is not None for row in rows)]
    heads = [column.replace("ctr_", "ctr %_") if "ctr_" in column else column for column in columns]
    shown = [[_percent(row[column]) if "ctr_" in column else row[column] for column in columns] for row in rows]
    print_table([head.replace("_", " ") for head in heads], shown)


def _percent(rate: float | None) -> float | None:
    return None if rate is None else round(100 * rate, 2)
