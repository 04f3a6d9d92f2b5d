"""`clickledger links load|list` and `clickledger promotions load`: links and promotions into the catalog, and links out of it."""

from __future__ import annotations

import csv
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clickledger.exit_codes import ExitCode
from clickledger.located import DataOption, api_access

if TYPE_CHECKING:
    from clickledger.lines import BadLine

_BAD_LINES_SHOWN = 100


class ListFormat(StrEnum):
    """How links are printed."""

    NDJSON = "ndjson"
    CSV = "csv"


_FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="CSV with a header line, or NDJSON; may be gzipped.")
]
_WaitOption = Annotated[bool, typer.Option("--wait", help="Return when the running API has all of it.")]
_UrlOption = Annotated[str | None, typer.Option(help="The API [the running stack's].")]
_KeyOption = Annotated[
    str | None,
    typer.Option(envvar="CLICKLEDGER_ADMIN_KEY", help="Key with the grant admin; its tenant owns what is loaded."),
]


def register(app: typer.Typer) -> None:
    """Add both command groups."""
    for name, load, others, what in (
        ("links", load_links, {"list": list_links}, "Links: load them from a file, list them."),
        ("promotions", load_promotions, {}, "Promotions: load them from a file."),
    ):
        group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
        group.callback()(lambda: None)
        group.command("load", epilog="Exit status: 0 all lines; 1 some were refused; 2 usage; 3 unreachable.")(load)
        for other, command in others.items():
            group.command(other)(command)
        app.add_typer(group, name=name, help=what)


def load_links(
    *, file: _FileArgument, wait: _WaitOption = False, url: _UrlOption = None, key: _KeyOption = None,
    data: DataOption = None,
) -> None:  # fmt: skip
    """Register or replace links.

    Fields: short_url, promotion_id (needed), recipient, link_name, long_url, sent_at, expires_at, disabled, match
    (exact or prefix). Lines that are refused are reported with number and reason; the others are loaded.

    Example: clickledger links load links.csv --wait
    """
    _load("/v1/links", file, wait=wait, url=url, key=key, data=data)


def list_links(
    *,
    promotion: Annotated[str | None, typer.Option(help="Only the links of this promotion.")] = None,
    output_format: Annotated[
        ListFormat, typer.Option("--format", help="ndjson, which `links load` takes again, or csv, for a spreadsheet.")
    ] = ListFormat.NDJSON,
    url: _UrlOption = None,
    key: _KeyOption = None,
    data: DataOption = None,
) -> None:
    """Print the links of the key's tenant, in the order of host and path.

    CSV has a ' in front of what a spreadsheet would take for a formula, such as the + of a phone number.

    Example: clickledger links list --promotion summer > summer.ndjson
    """
    import orjson

    from clickledger.listing import link_lines
    from clickledger.load.clicks import Target
    from reporting.tables import harmless
    from shared.links import LINK_FIELDS

    base, secret, _ = api_access(data, url, key, grant="admin_key")
    try:
        target = Target.of(base, secret)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    lines = link_lines(target, promotion)
    if output_format is ListFormat.NDJSON:
        for line in lines:
            sys.stdout.write(orjson.dumps(line).decode() + "\n")
        return
    rows = csv.DictWriter(sys.stdout, LINK_FIELDS)
    rows.writeheader()
    rows.writerows({name: harmless(value) for name, value in line.items()} for line in lines)


def load_promotions(
    *, file: _FileArgument, wait: _WaitOption = False, url: _UrlOption = None, key: _KeyOption = None,
    data: DataOption = None,
) -> None:  # fmt: skip
    """Register or replace promotions.

    Fields: promotion_id (needed), name, campaign_id, deployment_id, sent, delivered, sent_at.

    Example: clickledger promotions load promotions.ndjson
    """
    _load("/v1/promotions", file, wait=wait, url=url, key=key, data=data)


def _load(path: str, file: Path, *, wait: bool, url: str | None, key: str | None, data: Path | None) -> None:
    from clickledger import output, registration
    from clickledger.lines import FileProblem, check_header, count_lines, read_records
    from clickledger.load.clicks import Target
    from shared.links import LINK_FIELDS, PROMOTION_FIELDS

    is_links = path == "/v1/links"

    base, secret, _ = api_access(data, url, key, grant="admin_key")
    shown = 0

    def report(bad: BadLine) -> None:
        nonlocal shown
        shown += 1
        if shown <= _BAD_LINES_SHOWN:
            typer.echo(f"line {bad.number}: {bad.reason}", err=True)

    try:
        target = Target.of(base, secret)
        needed = ("short_url", "promotion_id") if is_links else ("promotion_id",)
        check_header(file, LINK_FIELDS if is_links else PROMOTION_FIELDS, needed)
        with output.progress() as bar:
            task = bar.add_task(f"loading {file.name}", total=count_lines(file))
            loaded = registration.load(target, path, read_records(file), report, lambda lines: bar.advance(task, lines))
    except (FileProblem, ValueError) as exc:
        raise typer.BadParameter(str(exc)) from exc
    if shown > _BAD_LINES_SHOWN:
        typer.echo(f"… and {shown - _BAD_LINES_SHOWN:,} more lines", err=True)
    if wait and loaded.accepted:
        registration.wait_until_seen(target, path, loaded.last)
    typer.echo(f"{loaded.accepted:,} loaded, {loaded.refused:,} refused")
    raise typer.Exit(ExitCode.FAILED if loaded.refused else ExitCode.OK)
