"""`clickledger reprocess`: sends clicks that were not accepted through the pipeline again."""

from __future__ import annotations

import asyncio
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clickledger.exit_codes import ExitCode
from clickledger.located import DataOption, locate
from shared.events import Reason

if TYPE_CHECKING:
    from clickledger.reprocess_run import Outcome, Selection

EPILOG = """Exit status: 0 all were sent; 1 some can never be sent; 2 usage; 3 not all in Kafka is stored, or unreachable.
"""


class _Status(StrEnum):
    MALFORMED = "malformed"
    REJECTED = "rejected"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("reprocess", epilog=EPILOG)(reprocess)


def reprocess(
    *,
    status: Annotated[_Status, typer.Option(help="Which rows: malformed or rejected.")],
    reason: Annotated[
        list[Reason] | None, typer.Option(metavar="REASON", help="Only rows with this reason; may be repeated.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Only clicks received in the last 2h, 30d …")] = None,
    tenant: Annotated[str, typer.Option(help="Only this tenant's.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Send so many rows at most.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only, send nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait until all in Kafka is stored.")] = 120,
    data: DataOption = None,
) -> None:
    """Send stored clicks that are not accepted through the pipeline again, from their original bytes.

    For what was stored too early: a link, tenant or promotion that is registered by now, a bug that is mended. Each
    becomes a new row with the same transaction_id and received_at, and replay_of names the old one; links are looked
    up anew. A row is sent once only, however often and by how many this runs; a row that is rejected again can be.

    Example: clickledger reprocess --status rejected --reason unknown_link --dry-run

    Example: clickledger reprocess --status malformed --since 2d
    """
    from clickledger import keyring
    from clickledger.reprocess_run import Selection
    from shared.events import Status

    try:
        since_ms = 0 if since is None else max(0, time.time_ns() // 1_000_000 - keyring.parse_duration_ms(since))
    except keyring.KeyringUsage as exc:
        raise typer.BadParameter(str(exc)) from exc
    selection = Selection(Status(status), tuple(reason or ()), since_ms, tenant, limit)
    outcome = asyncio.run(_reprocess(data, selection, dry_run=dry_run, timeout_s=timeout))
    _print(outcome, dry_run=dry_run, as_json=as_json)
    raise typer.Exit(ExitCode.FAILED if outcome.unsendable else ExitCode.OK)


async def _reprocess(data: Path | None, selection: Selection, *, dry_run: bool, timeout_s: float) -> Outcome:
    from clickledger import output
    from clickledger.known import refuse_unknown
    from clickledger.reprocess_run import Outcome, reprocess

    outcome = Outcome()
    found = locate(data)
    with output.progress() as bar:
        task = bar.add_task("reprocessing", total=None)
        await reprocess(
            found,
            selection,
            outcome,
            dry_run=dry_run,
            timeout_s=timeout_s,
            begin=lambda rows: bar.update(task, total=rows),
            advance=lambda rows: bar.advance(task, rows),
        )
    if not (outcome.sent or outcome.replayed_before or outcome.unsendable):
        await refuse_unknown(found, selection.tenant)
    return outcome


def _print(outcome: Outcome, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        import json

        record = {
            "dry_run": dry_run,
            "sent": 0 if dry_run else outcome.sent,
            "would_send": outcome.sent if dry_run else 0,
            "replayed_before": outcome.replayed_before,
            "unsendable": dict(sorted(outcome.unsendable.items())),
        }
        typer.echo(json.dumps(record))
        return
    can_not = sum(outcome.unsendable.values())
    reasons = f" ({', '.join(f'{reason} {count:,}' for reason, count in sorted(outcome.unsendable.items()))})"
    typer.echo(
        f"{outcome.sent:,} {'to be sent' if dry_run else 'sent'}, "
        f"{outcome.replayed_before:,} replayed before, {can_not:,} can never be sent{reasons if can_not else ''}"
    )
    if outcome.sent and not dry_run:
        typer.echo(
            "see what becomes of them: clickledger audit --wait, then SELECT … FROM clicks WHERE replay_of != ''"
        )
