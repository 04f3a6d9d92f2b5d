"""`clickledger sql "SELECT …"`: one query as the read-only user."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from clickledger.located import DataOption, locate

_READ_ONLY = {"readonly": 2}  # may change settings of its own query, nothing else, whoever the user is

_ONE_SELECT = ": give one SELECT, spelt right, its format by --format and without SETTINGS"

_SERVER = "DB::Exception: "  # stands before what the server says is wrong with a query


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sql")(sql)


def sql(
    *,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A SELECT; '-' reads it from standard input.")],
    output_format: Annotated[
        str, typer.Option("--format", help="A ClickHouse format: PrettyCompact, JSONEachRow, CSVWithNames, TSV …")
    ] = "",
    data: DataOption = None,
) -> None:
    """Run a query on the tables and views (clicks, rte, edr, ctr_daily, promotions) as the read-only user.

    Without --format: a table on a terminal, tab-separated values with names in a pipe.

    Example: clickledger sql "SELECT browser, count() AS clicks FROM rte GROUP BY browser ORDER BY clicks DESC LIMIT 5"

    Example: clickledger sql --format CSVWithNames "SELECT * FROM ctr_daily" > ctr.csv
    """
    text = sys.stdin.read() if query == "-" else query
    fallback = "PrettyCompact" if sys.stdout.isatty() else "TSVWithNames"
    asyncio.run(_run(data, text.strip().rstrip(";"), output_format or fallback))


async def _run(data: Path | None, query: str, output_format: str) -> None:
    from shared.clickhouse import ClickHouse
    from shared.errors import ClickledgerError, OperatorError

    located = locate(data)
    settings = {} if located.stack else _READ_ONLY  # the stack's reader is read-only and may not say so again
    async with ClickHouse(located.reader) as clickhouse:
        try:
            answer = await clickhouse.raw_query(query, output_format, settings=settings)
        except ClickledgerError as exc:
            if _SERVER not in str(exc):
                raise
            raise OperatorError(_words_of_the_server(str(exc))) from exc
    sys.stdout.buffer.write(answer)
    sys.stdout.flush()


def _words_of_the_server(message: str) -> str:
    """Cut out what ClickHouse itself says: the query above it is on the screen already."""
    words = message.rpartition(_SERVER)[2].partition(" (version ")[0]
    return f"{words}{_ONE_SELECT}" if "(READONLY)" in words else words
