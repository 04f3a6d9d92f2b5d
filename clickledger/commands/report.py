"""`clickledger report ctr|breakdown`: the reports in the terminal."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clickledger.located import DataOption, locate

if TYPE_CHECKING:  # loaded when a report is made
    from reporting.dimensions import By
    from reporting.figures import Question

    Rows = tuple[str, Sequence[By], bool, int | None]
    """`by` as given, of which dimensions, whether with empty ones, and at most how many."""


class Format(StrEnum):
    """How a report is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


TenantOption = Annotated[str | None, typer.Option(help="Whose clicks [the running stack's tenant].")]
FirstOption = Annotated[
    str, typer.Option("--from", metavar="DATE", help="First day, or a moment 2026-05-01T10:00Z [29 days before].")
]
LastOption = Annotated[
    str, typer.Option("--to", metavar="DATE", help="Last day, included, or a moment, not included [today].")
]
ZoneOption = Annotated[str, typer.Option(help="IANA time zone of hours, days and weeks [the tenant's].")]
PromotionOption = Annotated[str, typer.Option(help="Only this promotion.")]
EmptyOption = Annotated[
    bool,
    typer.Option("--empty", help="Rows without a click too: by promotion, campaign, deployment, hour, day or week."),
]
LimitOption = Annotated[
    int | None, typer.Option(min=1, max=10_000, help="Only so many rows, those with the most clicks.")
]
FormatOption = Annotated[Format, typer.Option("--format", help="table, json (one object per line) or csv.")]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.callback()(lambda: None)
    group.command("ctr")(ctr)
    group.command("breakdown")(breakdown)
    app.add_typer(group, name="report", help="Reports: click-through, and clicks by any dimension.")


def ctr(
    *,
    tenant: TenantOption = None,
    first: FirstOption = "",
    last: LastOption = "",
    zone: ZoneOption = "",
    promotion: PromotionOption = "",
    by: Annotated[
        str,
        typer.Option(help="promotion, campaign, deployment, link, link_name, hour, day, week; several with commas."),
    ] = "promotion",
    daily: Annotated[bool, typer.Option("--daily", help="The same as --by promotion,day.")] = False,
    empty: EmptyOption = False,
    limit: LimitOption = None,
    output_format: FormatOption = Format.TABLE,
    data: DataOption = None,
) -> None:
    """Print clicks, different recipients and click-through rates; bots are counted apart.

    Example: clickledger report ctr

    Example: clickledger report ctr --by promotion --empty

    Example: clickledger report ctr --daily --from 2026-05-01 --to 2026-05-31 --format csv
    """
    from reporting.reports import CTR_BY

    given = (tenant, first, last, zone, promotion)
    _print(data, given, ("promotion,day" if daily else by, CTR_BY, empty, limit), output_format)


def breakdown(
    *,
    tenant: TenantOption = None,
    first: FirstOption = "",
    last: LastOption = "",
    zone: ZoneOption = "",
    promotion: PromotionOption = "",
    by: Annotated[
        str,
        typer.Option(
            help="browser, os, device, device_brand, device_type, resolution, country, bot_reason, source, or as ctr."
        ),
    ] = "browser",
    empty: EmptyOption = False,
    limit: LimitOption = None,
    output_format: FormatOption = Format.TABLE,
    data: DataOption = None,
) -> None:
    """Print clicks by browser, country or any other dimension.

    Example: clickledger report breakdown --by country,device_type --promotion spring-sale
    """
    from reporting.dimensions import By

    _print(data, (tenant, first, last, zone, promotion), (by, tuple(By), empty, limit), output_format)


def _print(data: Path | None, given: Sequence[str | None], rows_of: Rows, output_format: Format) -> None:
    from clickledger.reports import print_figures
    from reporting.figures import ROWS_MAX, TOO_MANY
    from reporting.tables import as_csv

    question, rows = asyncio.run(_read(data, given, rows_of))
    if len(rows) > ROWS_MAX:
        raise typer.BadParameter(TOO_MANY)
    match output_format:
        case Format.TABLE if not rows:
            typer.echo("no clicks: look at --tenant, --from, --to and --promotion", err=True)
        case Format.TABLE:
            print_figures(question, rows)
        case Format.JSON:
            for row in rows:
                typer.echo(json.dumps(row, ensure_ascii=False))
        case Format.CSV:
            sys.stdout.write(as_csv(question.columns, rows).decode())


async def _read(data: Path | None, given: Sequence[str | None], rows_of: Rows) -> tuple[Question, list[dict[str, Any]]]:
    from clickledger.known import refuse_unknown
    from clickledger.reports import tenant_zone
    from reporting.dimensions import OTHERS, check_empty, parse_by
    from reporting.figures import Question, read, says_nothing
    from reporting.periods import period_of, zone_of
    from shared.clickhouse import ClickHouse

    tenant, first, last, zone, promotion = given
    by, allowed, has_empty, limit = rows_of
    bounds = (first or "", last or "")
    try:
        dimensions = parse_by(by, allowed)
        if has_empty:
            check_empty(dimensions)
        period_of(*bounds, zone_of(zone or "UTC"), datetime.now(UTC))  # before anything is asked
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    found = locate(data)
    tenant = tenant or (found.stack.tenant if found.stack else None)
    if tenant is None:
        raise typer.BadParameter("whose report? give --tenant")
    async with ClickHouse(found.clickhouse) as clickhouse:
        period = period_of(*bounds, zone_of(zone) if zone else await tenant_zone(clickhouse, tenant), datetime.now(UTC))
        filters = {"promotion_id": promotion} if promotion else {}
        question = Question(tenant, period, dimensions, filters, has_empty=has_empty, limit=limit)
        rows = await read(clickhouse, question)
    if says_nothing(rows):
        await refuse_unknown(found, tenant, [promotion] if promotion and promotion != OTHERS else [])
    return question, rows
