"""`clickledger edr export|deliver`: event detail records into a file, or into a folder or bucket again and again."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clickledger.located import DataOption, Located, api_access, locate
from reporting.edr.columns import Compression, Format, Shape
from reporting.edr.selection import Clock
from shared.errors import TransientError

if TYPE_CHECKING:
    from clickledger.deliveries.deliver import Delivered, Deliverer, Order

_RETRY_S = 15.0


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.callback()(lambda: None)
    group.command("export")(export)
    group.command("deliver")(deliver)
    app.add_typer(group, name="edr", help="Event detail records: one row per report of a click, into files.")


def export(
    *,
    file: Annotated[Path, typer.Argument(help="File to write; its name says the format: .csv, .ndjson.gz, .parquet …")],
    first: Annotated[str, typer.Option("--from", metavar="TIME", help="First time, such as 2026-05-31T00:00Z.")] = "",
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="First time not wanted any more [now].")] = "",
    clock: Annotated[Clock, typer.Option("--time", help="What --from and --to are about.")] = Clock.RECEIVED_AT,
    cursor: Annotated[str, typer.Option(help="Instead of times: earliest, latest or what the last pull printed.")] = "",
    promotion: Annotated[str, typer.Option(help="Only this promotion.")] = "",
    link: Annotated[str, typer.Option(help="Only this link.")] = "",
    status: Annotated[str, typer.Option(help="Only these, separated by commas.")] = "",
    bots: Annotated[str, typer.Option(help="yes, no or any.")] = "any",
    form: Annotated[Format | None, typer.Option("--format", help="Format [by the file's name].")] = None,
    compression: Annotated[Compression | None, typer.Option(help="Compression [by the file's name].")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file when it is there.")] = False,
    url: Annotated[str | None, typer.Option(help="Address of the reports [the running stack's].")] = None,
    key: Annotated[
        str | None,
        typer.Option(envvar="CLICKLEDGER_REPORTS_KEY", help="Key with the grant reports [the running stack's]."),
    ] = None,
    data: DataOption = None,
) -> None:
    """Write an export to a file: whole, or not at all. A pull prints the cursor of the next one.

    Example: clickledger edr export --from 2026-05-01T00:00Z --to 2026-06-01T00:00Z may.csv.gz

    Example: clickledger edr export --cursor earliest --status accepted clicks.parquet
    """
    from clickledger.edr_export import ExportBar, fetch
    from clickledger.output import transfer

    if bool(first) == bool(cursor):
        raise typer.BadParameter("give --from or --cursor")
    if file.exists() and not force:
        raise typer.BadParameter(f"{file} is there already: --force replaces it")
    shape = _shape(file, form, compression)
    found_url, found_key, _ = api_access(data, url, key, grant="reports_key")
    asked = {
        "format": shape.format,
        "compression": shape.compression,
        "bots": bots,
        "from": first,
        "to": end,
        "time": "" if cursor else clock.value,
        "cursor": cursor,
        "promotion_id": promotion,
        "link": link,
        "status": status,
    }
    parameters = {name: text for name, text in asked.items() if text}
    with transfer() as bar:
        if not bar.disable:
            parameters["count"] = "true"
        headers = fetch(found_url, found_key, parameters, file, ExportBar(bar, shape))
    typer.echo(f"{file}: {file.stat().st_size:,} bytes")
    if cursor:
        typer.echo(f"next cursor: {headers['x-next-cursor']} ({int(headers['x-cursor-remaining']):,} behind it)")


def deliver(
    *,
    to: Annotated[str, typer.Option(metavar="PLACE", help="A folder, or s3://bucket/prefix.")],
    every: Annotated[
        str, typer.Option(help="Length of an interval: 15m, 1h, 1d. Intervals begin at full ones, UTC.")
    ] = "1h",
    once: Annotated[bool, typer.Option("--once", help="Deliver what is due, then end: for cron.")] = False,
    tenant: Annotated[str | None, typer.Option(help="Whose rows [the running stack's tenant].")] = None,
    form: Annotated[Format, typer.Option("--format", help="Format.")] = Format.CSV,
    compression: Annotated[Compression, typer.Option(help="Compression; inside of Parquet.")] = Compression.GZIP,
    file_rows: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="Raw offsets (of all tenants) of one file; sorted in memory.")
    ] = 200_000,
    start: Annotated[
        str, typer.Option(help="Where the first delivery begins: earliest, latest or a cursor.")
    ] = "earliest",
    data: DataOption = None,
) -> None:
    """Deliver each interval's rows as one complete set of files, each row in exactly one of them.

    A set is complete when its manifest.json is there. Killed at any moment, or run twice at once, it goes on or gives
    way; a file never changes; rows that are stored late are in the next set. Credentials of object stores come from their
    usual environment variables (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …).

    Example: clickledger edr deliver --every 1h --to /srv/clicks

    Example: clickledger edr deliver --every 1d --to s3://bucket/clicks --format parquet --compression zstd --once
    """
    from clickledger.deliveries.deliver import Order
    from clickledger.deliveries.records import seconds_of

    try:
        every_s = seconds_of(every)
    except ValueError as exc:
        raise typer.BadParameter(f"--every: {exc}") from exc
    found = locate(data)
    tenant = tenant or (found.stack.tenant if found.stack else None)
    if tenant is None:
        raise typer.BadParameter("whose rows? give --tenant")
    order = Order(tenant, every_s, Shape(form, compression), file_rows, start)
    asyncio.run(_deliver(found, to, order, once=once))


async def _deliver(found: Located, to: str, order: Order, *, once: bool) -> None:
    from clickledger.deliveries.deliver import Deliverer
    from clickledger.deliveries.target import open_target
    from clickledger.known import refuse_unknown
    from shared.clickhouse import ClickHouse

    is_known = False
    with open_target(to) as target:
        async with ClickHouse(found.clickhouse) as clickhouse:
            while True:
                try:
                    if not is_known:
                        await refuse_unknown(found, order.tenant)
                        is_known = True
                    done = await _deliver_due(found, Deliverer(clickhouse, target, order))
                except TransientError as exc:
                    if once:
                        raise
                    typer.echo(f"not delivered yet, trying again: {exc}", err=True)
                    await asyncio.sleep(min(_RETRY_S, order.every_s))
                    continue
                for delivered in done:
                    typer.echo(delivered.text)
                if once:
                    if not done:
                        typer.echo("delivered already")
                    return
                await asyncio.sleep(order.every_s - time.time() % order.every_s)


async def _deliver_due(found: Located, deliverer: Deliverer) -> list[Delivered]:
    from clickledger.audit_run import read_stream
    from shared.enriched import Stream

    record, _ = await read_stream(found)
    return await deliverer.deliver(Stream(record.stream, record.start_offsets))


def _shape(file: Path, form: Format | None, compression: Compression | None) -> Shape:
    from clickledger.edr_export import shape_of

    if form is not None:
        default = Compression.ZSTD if form is Format.PARQUET else Compression.NONE
        return Shape(form, compression or default)
    try:
        shape = shape_of(file)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    return Shape(shape.format, compression or shape.compression)
