"""`clickledger tail`: clicks as they are enriched, live in the terminal."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clickledger.located import DataOption, locate

if TYPE_CHECKING:  # imported where it is used: the command line starts in a moment
    from shared.rte import Filter, Position


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("tail")(tail)


def tail(
    *,
    status: Annotated[
        list[str] | None, typer.Option(help="Only accepted, rejected or malformed; may be repeated.")
    ] = None,
    promotion: Annotated[list[str] | None, typer.Option(help="Only this promotion; may be repeated.")] = None,
    link: Annotated[
        list[str] | None, typer.Option(help="Only this link: as sent, or host/path as registered; may be repeated.")
    ] = None,
    bots: Annotated[str, typer.Option(help="yes: bots only, no: no bots, any.")] = "any",
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="End after so many clicks; 0 = never.")] = 0,
    since: Annotated[str | None, typer.Option(help="Begin so long ago, as 10m or 1h, not now.")] = None,
    after: Annotated[
        str | None, typer.Option(help="Begin behind this position: the id of an event of /v1/rte, or an EDR cursor.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The enriched record of each click, one per line.")] = False,
    as_events: Annotated[bool, typer.Option("--events", help="The CloudEvent of each click, one per line.")] = False,
    data: DataOption = None,
) -> None:
    """Print clicks as they are enriched: when, what, who, where. Ctrl-C ends it. Nothing is consumed: it only looks.

    The sink finds duplicates later than this, so a click shown as accepted here may be stored as a duplicate.

    Example: clickledger tail --promotion spring-sale --bots no

    Example: clickledger tail --status malformed --since 1h --json -n 10
    """
    from clickledger import keyring
    from shared.rte import STREAMED, Filter, Position

    if sum((as_json, as_events)) > 1 or (since is not None and after is not None):
        raise typer.BadParameter("--json and --events, --since and --after: only one of each")
    try:
        wanted = Filter.of(
            statuses=status or (),
            promotions=promotion or (),
            links=link or (),
            bots=bots,
            tenant=tenant,
            known=STREAMED,
        )
        begin: int | Position | None = None if after is None else Position.parse(after)
        if since is not None:
            begin = time.time_ns() // 1_000_000 - keyring.parse_duration_ms(since)
    except (ValueError, keyring.KeyringUsage) as exc:
        raise typer.BadParameter(str(exc)) from exc
    form = "json" if as_json else "event" if as_events else "line"
    asyncio.run(_tail(data, wanted, begin, count, form))


async def _tail(data: Path | None, wanted: Filter, begin: int | Position | None, count: int, form: str) -> None:
    import orjson

    from clickledger import live, output
    from clickledger.known import refuse_unknown
    from shared.errors import OperatorError
    from shared.rte import event_of

    out = output.console()
    shown = 0
    found = locate(data)
    await refuse_unknown(found, wanted.tenant or "")
    try:
        await refuse_unknown(found, wanted.tenant or "", wanted.promotions, wanted.links)
    except OperatorError as exc:  # its first click may be what is waited for
        typer.echo(f"{exc}: waiting for one", err=True)
    async for taken, record in live.follow(found, begin):
        if not wanted.matches(record):
            continue
        match form:
            case "json":
                typer.echo(taken.value.decode("utf-8", "replace"))
            case "event":
                typer.echo(orjson.dumps(event_of(record)).decode())
            case _:
                out.print(live.line_of(record), soft_wrap=True)
        shown += 1
        if count and shown >= count:
            return
