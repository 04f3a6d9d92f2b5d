"""`clickledger tail`: clicks as they are enriched, live in the terminal."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from clickledger.located import DataOption, locate


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("tail")(tail)


def tail(
    *,
    status: Annotated[
        list[str] | None, typer.Option(help="Only accepted, duplicate, rejected or malformed; may be repeated.")
    ] = None,
    promotion: Annotated[list[str] | None, typer.Option(help="Only this promotion; may be repeated.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="End after so many clicks; 0 = never.")] = 0,
    since: Annotated[str | None, typer.Option(help="Begin so long ago, as 10m or 1h, not now.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The enriched record of each click, one per line.")] = False,
    data: DataOption = None,
) -> None:
    """Print clicks as they are enriched: when, what, who, where. Ctrl-C ends it. Nothing is consumed: it only looks.

    The sink finds duplicates later than this, so a click shown as accepted here may be stored as a duplicate.

    Example: clickledger tail --promotion spring-sale

    Example: clickledger tail --status malformed --since 1h --json -n 10
    """
    from clickledger import keyring, live

    try:
        wanted = live.Filter.of(status or (), promotion or (), tenant)
        since_ms = None if since is None else keyring.parse_duration_ms(since)
    except (ValueError, keyring.KeyringUsage) as exc:
        raise typer.BadParameter(str(exc)) from exc
    asyncio.run(_tail(data, wanted, since_ms, count, as_json=as_json))


async def _tail(data: Path | None, wanted: object, since_ms: int | None, count: int, *, as_json: bool) -> None:
    from clickledger import live, output

    assert isinstance(wanted, live.Filter)
    out = output.console()
    shown = 0
    async for value, record in live.follow(locate(data).kafka, since_ms):
        if not wanted.matches(record):
            continue
        if as_json:
            typer.echo(value.decode("utf-8", "replace"))
        else:
            out.print(live.line_of(record), soft_wrap=True)
        shown += 1
        if count and shown >= count:
            return
