"""What keeps tenants apart: a filter on every table, set by the server, which no statement can undo. Pure.

`additional_table_filters` is evaluated where a table is read, through views, joins and subqueries too, and `readonly = 1`
keeps it. A filter alone hides rows but not what is in them: ClickHouse moves a query's own conditions to the reading of
the rows, before the filter, and a condition that fails (`throwIf(recipient = 'x')`) would tell of another tenant's row.
So a tenant's statements run as they are written: no moved conditions (`query_plan_enable_optimizations`), no PREWHERE,
no projections, whose rows are conditions and filter in one. The primary key, which begins with the tenant, is still used.
"""

from typing import Final

from clickledger.clickhouse_server.texts import quoted

VIEWS: Final = ("rte", "edr", "ctr_daily", "clicks_by_dimension", "rejected", "freshness")
"""What a tenant sees listed: the stable interface."""
TABLES: Final = ("clicks", "promotions", "tenants")
"""What the views read. A tenant may read them too, but finds no sizes: those are of all tenants together."""

_AS_WRITTEN: Final = {
    "query_plan_enable_optimizations": "0",
    "optimize_move_to_prewhere": "0",
    "optimize_move_to_prewhere_if_final": "0",
    "query_plan_optimize_prewhere": "0",
    "optimize_use_projections": "0",
    "optimize_use_implicit_projections": "0",
    "optimize_trivial_count_query": "0",
}
_QUIET: Final = {"output_format_write_statistics": "0"}
"""JSON and XML end with the rows and bytes that were read: they are those of all tenants."""


def grants(database: str) -> list[str]:
    """What the engine's role `tenant` may do; everything else is refused by the engine itself."""
    return [f"GRANT SELECT, SHOW ON {database}.{name}" for name in (*VIEWS, *TABLES)]


def settings_for(database: str, tenant: str) -> dict[str, str]:
    """The settings of a session that sees the rows of `tenant` only."""
    listed = ", ".join(map(quoted, VIEWS))
    filters = {f"{database}.{name}": f"tenant = {quoted(tenant)}" for name in TABLES}
    filters["system.tables"] = f"database != {quoted(database)} OR name IN ({listed})"
    filters["system.columns"] = f"database != {quoted(database)} OR table IN ({listed})"
    pairs = ", ".join(f"{quoted(name)}: {quoted(condition)}" for name, condition in filters.items())
    return {**_AS_WRITTEN, **_QUIET, "additional_table_filters": f"{{{pairs}}}"}
