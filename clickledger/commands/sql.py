"""`clickledger sql "SELECT …"`: one query as the read-only user, or as a tenant that sees its own rows."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from clickledger.located import DataOption, Located, locate, tenant_reader

_READ_ONLY = {"readonly": 2}  # may change settings of its own query, nothing else, whoever the user is

_ONE_SELECT = ": give one SELECT, spelt right, its format by --format and without SETTINGS"

_SERVER = "DB::Exception: "  # stands before what the server says is wrong with a query

_TABLE = "table"
_PIPED = "TSVWithNames"


class _Asked(NamedTuple):
    query: str
    output_format: str
    rows_max: int
    tenant: str | None
    key: str | None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sql")(sql)


def sql(
    *,
    query: Annotated[
        str | None, typer.Argument(metavar="[QUERY]", help="A SELECT; '-', or none in a pipe: standard input.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the query from this file.")] = None,
    output_format: Annotated[
        str, typer.Option("--format", help="table, or a ClickHouse format: JSONEachRow, CSVWithNames, Parquet …")
    ] = "",
    rows: Annotated[int, typer.Option(min=1, max=100_000, help="Rows that a table shows at most.")] = 1_000,
    tenant: Annotated[str | None, typer.Option(help="Read as this tenant: its own rows and no others.")] = None,
    key: Annotated[
        str | None,
        typer.Option(help="The tenant's key with the grant reports [the local stack's].", show_default=False),
    ] = None,
    data: DataOption = None,
) -> None:
    """Run a query on the views rte, edr, ctr_daily, clicks_by_dimension, rejected, freshness (docs/sql.md), read-only.

    Without --format: a table on a terminal, tab-separated values with names in a pipe.

    Example: clickledger sql "SELECT browser, count() AS clicks FROM rte GROUP BY browser ORDER BY clicks DESC LIMIT 5"

    Example: clickledger sql --tenant demo --format CSVWithNames "SELECT * FROM ctr_daily" > ctr.csv
    """
    text = _text_of(query, file).strip().rstrip(";")
    if not text:
        raise typer.BadParameter("the query is empty")
    fallback = _TABLE if sys.stdout.isatty() else _PIPED
    asyncio.run(_run(locate(data), _Asked(text, output_format or fallback, rows, tenant, key)))


def _text_of(query: str | None, file: Path | None) -> str:
    """The query from where the user said."""
    if query is not None and file is not None:
        raise typer.BadParameter("give a query or --file, not both")
    try:
        if file is not None:
            return file.read_text(encoding="utf-8")
        if query == "-" or (query is None and not sys.stdin.isatty()):
            return sys.stdin.read()
    except (OSError, UnicodeDecodeError) as exc:
        raise typer.BadParameter(f"cannot read the query: {exc}") from exc
    if query is None:
        raise typer.BadParameter("give a query, --file or standard input")
    return query


async def _run(located: Located, asked: _Asked) -> None:
    from clickledger.sql_table import print_answer
    from shared.clickhouse import ClickHouse
    from shared.errors import ClickledgerError, OperatorError

    is_tenant = asked.tenant is not None or asked.key is not None
    reader = tenant_reader(located, asked.tenant, asked.key) if is_tenant else located.reader
    # The stack's reader and tenants are read-only and may not say so again.
    settings = {} if located.stack or is_tenant else _READ_ONLY
    async with ClickHouse(reader) as clickhouse:
        try:
            if asked.output_format == _TABLE:
                await print_answer(clickhouse, asked.query, settings, asked.rows_max)
                return
            async for piece in clickhouse.stream(asked.query, asked.output_format, settings=settings):
                sys.stdout.buffer.write(piece)
            sys.stdout.flush()
        except ClickledgerError as exc:
            if _SERVER not in str(exc):
                raise
            raise OperatorError(_words_of_the_server(str(exc))) from exc


def _words_of_the_server(message: str) -> str:
    """Cut out what ClickHouse itself says: the query above it is on the screen already."""
    words = message.rpartition(_SERVER)[2].partition(" (version ")[0]
    return f"{words}{_ONE_SELECT}" if "(READONLY)" in words else words
