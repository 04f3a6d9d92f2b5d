"""`clickledger report ctr`: the click-through report in the terminal."""

from __future__ import annotations

import asyncio
import csv
import json
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from clickledger.located import DataOption, locate


class Format(StrEnum):
    """How a report is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.callback()(lambda: None)
    group.command("ctr")(ctr)
    app.add_typer(group, name="report", help="Reports: click-through by promotion and day.")


def ctr(
    *,
    tenant: Annotated[str | None, typer.Option(help="Whose clicks [the running stack's tenant].")] = None,
    first: Annotated[str | None, typer.Option("--from", metavar="DATE", help="First day [29 days before].")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="DATE", help="Last day [today].")] = None,
    promotion: Annotated[str, typer.Option(help="Only this promotion.")] = "",
    daily: Annotated[bool, typer.Option("--daily", help="One line per promotion and day, not per promotion.")] = False,
    output_format: Annotated[
        Format, typer.Option("--format", help="table, json (one object per line) or csv.")
    ] = Format.TABLE,
    data: DataOption = None,
) -> None:
    """Print clicks, recipients and click-through rate by promotion; days are the tenant's. Bots are counted apart.

    Example: clickledger report ctr

    Example: clickledger report ctr --daily --from 2026-05-01 --to 2026-05-31 --format csv
    """
    try:
        days = tuple(None if text is None else date.fromisoformat(text) for text in (first, last))
    except ValueError as exc:
        raise typer.BadParameter(f"{exc}: write a day as 2026-05-31") from exc
    columns, rows = asyncio.run(_read(data, tenant, days, promotion, daily=daily))
    print_rows(columns, rows, output_format)


def print_rows(columns: Sequence[str], rows: Sequence[dict[str, Any]], output_format: Format) -> None:
    """Print rows in a format."""
    from clickledger.output import print_table

    match output_format:
        case Format.TABLE if not rows:
            typer.echo("no clicks: look at --tenant, --from, --to and --promotion", err=True)
        case Format.TABLE:
            print_table(columns, [[row[column] for column in columns] for row in rows])
        case Format.JSON:
            for row in rows:
                typer.echo(json.dumps(row, ensure_ascii=False))
        case Format.CSV:
            writer = csv.writer(sys.stdout)
            writer.writerow(columns)
            writer.writerows([row[column] for column in columns] for row in rows)


async def _read(
    data: Path | None, tenant: str | None, days: tuple[date | None, ...], promotion: str, *, daily: bool
) -> tuple[Sequence[str], list[dict[str, Any]]]:
    from clickledger import ctr as totals
    from reporting import ctr as report
    from shared.clickhouse import ClickHouse

    found = locate(data)
    tenant = tenant or (found.stack.tenant if found.stack else None)
    if tenant is None:
        raise typer.BadParameter("whose report? give --tenant")
    async with ClickHouse(found.clickhouse) as clickhouse:
        zone = await totals.zone_of(clickhouse, tenant)
        try:
            period = report.period_of(days[0], days[1], zone, datetime.now(UTC))
        except ValueError as exc:
            raise typer.BadParameter(str(exc)) from exc
        if daily:
            return report.COLUMNS, await report.read(clickhouse, tenant, period, promotion)
        return totals.COLUMNS, await totals.read(clickhouse, tenant, period, promotion, zone)
