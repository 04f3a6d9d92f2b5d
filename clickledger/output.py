"""How commands print: tables for people, JSON lines for programs, progress only on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

_WIDTH_MAX = 4096


def console(*, stderr: bool = False) -> Console:
    """A console that wraps nothing when piped: a line stays a line for grep."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, soft_wrap=not stream.isatty(), highlight=False)


def progress() -> Progress:
    """A progress bar on standard error; silent when that is no terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )


def transfer() -> Progress:
    """The same for a file whose size is not known before: the part of it that has come, where its rows are known."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(text_format_no_percentage=""),
        TextColumn("{task.fields[size]}"),
        TimeElapsedColumn(),
        console=console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )


def print_records(records: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print records as a table of `columns`, or whole as JSON lines."""
    if as_json:
        for record in records:
            typer.echo(json.dumps(record, ensure_ascii=False))
        return
    print_table(columns, [[record.get(column) for column in columns] for record in records])


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> None:
    """Print rows; numbers to the right, None and '' as nothing, text as it is (never read as markup)."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
    )
    for index, column in enumerate(columns):
        is_number = bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)
        name = column.replace(" ", "\n")
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True, vertical="bottom")
    for row in rows:
        table.add_row(*(_text(value) for value in row))
    out = console()
    if _width(table, out) > out.width:
        table.padding = 0  # one space between columns instead of two
    # As wide as its content, in a pipe and on a narrow terminal alike: a folded number is no number.
    out.width = max(out.width, _width(table, out))
    out.print(table, soft_wrap=True)


def _width(table: Table, out: Console) -> int:
    return out.measure(table, options=out.options.update_width(_WIDTH_MAX)).maximum


def _text(value: Any) -> Any:
    from rich.text import Text

    return Text("" if value is None else f"{value:,}" if type(value) is int else str(value))
