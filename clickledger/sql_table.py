"""The answer of a query as a table for people: bounded in rows and in the width of a cell, safe for a terminal."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final

import orjson
import typer

from clickledger.output import print_table
from shared.clickhouse import ClickHouse
from shared.errors import OperatorError

CELL_CHARS_MAX: Final = 200
"""Characters of one cell; a user agent may have 2,048."""
ROW_BYTES_MAX: Final = 16 << 20
"""Bytes of one row as JSON; what is longer is no row for a table."""

_FORMAT: Final = "JSONCompactEachRowWithNames"
_SETTINGS: Final = {"output_format_json_quote_64bit_integers": 0, "output_format_json_quote_decimals": 0}


class _Digits(int):
    """A number that is shown without separators: it may be a year or an id."""


async def print_answer(clickhouse: ClickHouse, query: str, settings: Mapping[str, Any], rows_max: int) -> None:
    """Print the first `rows_max` rows; the rest is not fetched. Raises as ClickHouse does, OperatorError for a huge row."""
    rows: list[list[Any]] = []
    columns: list[str] = []
    is_cut = False
    pieces = clickhouse.stream(query, _FORMAT, settings={**settings, **_SETTINGS})
    async with aclosing(pieces), aclosing(_lines(pieces)) as lines:
        async for line in lines:
            values = orjson.loads(line)
            if not columns:
                columns = [show(value) for value in values]
                continue
            if is_cut := len(rows) == rows_max:
                break
            rows.append([_Digits(value) if type(value) is int else _cell(value) for value in values])
    if columns:
        print_table(columns, rows)
    if is_cut:
        typer.echo(
            f"the first {rows_max:,} rows; there are more: add LIMIT, or --rows, or --format and a file", err=True
        )


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line
        if len(rest) > ROW_BYTES_MAX:
            raise OperatorError(f"a row is larger than {ROW_BYTES_MAX:,} bytes: ask for less, or use --format")
    if rest:
        yield rest


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, float):
        return value
    return show(value)


def show(value: Any) -> str:
    """A value on one line, without anything that a terminal would obey, cut where it is long."""
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    if len(text) > CELL_CHARS_MAX:
        text = f"{text[: CELL_CHARS_MAX - 1]}…"
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
