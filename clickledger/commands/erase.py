"""`clickledger erase`: forget who a recipient is, and keep the proof."""

from __future__ import annotations

import asyncio
import getpass
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from clickledger.exit_codes import ExitCode
from clickledger.located import DataOption, Located, locate
from shared.errors import OperatorError

if TYPE_CHECKING:
    from clickledger.erase import Outcome
    from shared.clickhouse import ClickHouse


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("erase")(erase)


def erase(
    *,
    tenant: Annotated[str | None, typer.Option(help="Whose recipient it is.")] = None,
    recipient: Annotated[
        str | None, typer.Option(help="The recipient; `-` reads it from standard input, out of sight of `ps`.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for the record; must not name the recipient.")] = "",
    delete_links: Annotated[
        bool, typer.Option("--delete-links", help="Also delete the recipient's links from the catalog.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Only finish erasures that were cut off; needs no recipient.")
    ] = False,
    who: Annotated[str | None, typer.Option(help="Who asks for it [your user name].")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one statement.")] = 3_600,
    data: DataOption = None,
) -> None:
    """Overwrite everything personal in a recipient's rows; positions stay, so the audit stays clean.

    Emptied: recipient, short_url, link, long_url, user_agent, ip, region, city, asn, click_digest, raw. Time, promotion,
    country and kind of device stay. Seals of these rows are checked before and get a new version with the reason after;
    a change of anything else is not covered up. Cut off at any moment, the same command finishes it.

    Example: clickledger erase --tenant acme --recipient 4917000001 --reason "request 4711" --delete-links

    Example: clickledger erase --finish
    """
    if finish and (tenant or recipient):
        raise typer.BadParameter("--finish goes alone: it finishes every erasure that was cut off")
    if recipient == "-":
        recipient = sys.stdin.readline().strip()
    if not finish and not (tenant and recipient):
        raise typer.BadParameter("give --tenant and --recipient, or --finish")
    if recipient and recipient in reason:
        raise typer.BadParameter("--reason names the recipient, and it is kept for ever: say it without")
    status = asyncio.run(
        _erase(
            *(locate(data), tenant or "", recipient or "", reason.strip(), who or getpass.getuser()),
            delete_links=delete_links,
            dry_run=dry_run,
            timeout_s=timeout,
        )
    )
    raise typer.Exit(status)


async def _erase(
    found: Located,
    tenant: str,
    recipient: str,
    reason: str,
    who: str,
    *,
    delete_links: bool,
    dry_run: bool,
    timeout_s: float,
) -> int:
    from shared.clickhouse import ClickHouse

    settings = found.clickhouse.model_copy(update={"clickhouse_query_timeout_ms": round(timeout_s * 1000)})
    async with ClickHouse(settings) as clickhouse:
        if dry_run:
            has_rows = await _preview(clickhouse, tenant, recipient) > 0
            outcomes: list[Outcome] = []
        else:
            outcomes = await _rows(clickhouse, tenant, recipient, reason, who)
            has_rows = bool(outcomes)
    if recipient:
        await _others(found, tenant, recipient, delete=delete_links and not dry_run, has_rows=has_rows)
    return ExitCode.FAILED if any(outcome.refused for outcome in outcomes) else ExitCode.OK


async def _preview(clickhouse: ClickHouse, tenant: str, recipient: str) -> int:
    """Say what would be done; to how many rows."""
    from clickledger.erase import find_rows, touched_seals

    rows = await find_rows(clickhouse, tenant, recipient)
    seals = await touched_seals(clickhouse, rows)
    typer.echo(f"would overwrite {len(rows):,} rows and renew {len(seals):,} seals")
    return len(rows)


async def _rows(clickhouse: ClickHouse, tenant: str, recipient: str, reason: str, who: str) -> list[Outcome]:
    """Finish what was cut off, then erase; a recipient with very many rows in several goes."""
    from clickledger.erase import begin, find_rows, finish
    from shared.erasures import unfinished

    outcomes = []
    for cut_off in await unfinished(clickhouse):
        outcomes.append(await finish(clickhouse, cut_off))
        _print(outcomes[-1], "finished what was cut off")
    while recipient and (rows := await find_rows(clickhouse, tenant, recipient)):
        erasure = await begin(clickhouse, tenant, rows, reason, who)
        outcomes.append(await finish(clickhouse, erasure.id))
        _print(outcomes[-1], "erased")
    if not outcomes:
        typer.echo("no rows" if recipient else "nothing was cut off")
    return outcomes


def _print(outcome: Outcome, what: str) -> None:
    typer.echo(
        f"{what} ({outcome.erasure.id}): {outcome.erasure.rows:,} rows overwritten, {outcome.renewed:,} seals renewed"
    )
    for seal in outcome.refused:
        typer.echo(f"NOT renewed, because more than this was changed: {seal}: see clickledger audit --seals")


async def _others(found: Located, tenant: str, recipient: str, *, delete: bool, has_rows: bool) -> None:
    """Say what else knows the recipient. Raises OperatorError when nothing knows the tenant."""
    from clickledger.erase_links import links_of, remove_links

    links = await links_of(found, tenant, recipient)
    if links is None and not has_rows:
        raise OperatorError(
            f"no tenant {tenant}, and nothing of one: nothing was erased; see: clickledger tenants list"
        )
    if links and delete:
        await remove_links(found, links)
        typer.echo(f"links deleted: {len(links):,}; the catalog topic forgets them when it is compacted")
    elif links:
        typer.echo(f"links that name the recipient: {len(links):,}, for one {links[0]}: add --delete-links")
    typer.echo(
        f"Kafka keeps its records for {found.kafka.retention_hours} hours (CLICKLEDGER_RETENTION_HOURS). Clicks that were "
        "still on their way are stored as they came: run this again when `clickledger audit --wait` has returned. "
        "Backups are yours."
    )
