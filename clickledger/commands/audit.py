"""`clickledger audit`: proves that every 200 is exactly one row."""

from __future__ import annotations

import asyncio
import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clickledger.located import DataOption, locate
from shared.errors import ClickledgerError, OperatorError, TransientError

if TYPE_CHECKING:
    from clickledger.audit_run import AuditReport

EPILOG = """Exit status: 0 clean; 1 a gap, double or mismatch; 2 usage; 3 no verdict: not all stored in time, or unreachable.
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("audit", epilog=EPILOG)(audit)


def audit(
    *,
    wait: Annotated[bool, typer.Option("--wait", help="First wait until all that is in Kafka now is stored.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that --wait may take.")] = 120,
    seals: Annotated[
        bool, typer.Option("--seals", help="Also read every sealed row again and compare it with its seal.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    accept_gap: Annotated[
        str | None,
        typer.Option(metavar="P:FIRST-LAST", help="Accept that these raw offsets of partition P are lost; see above."),
    ] = None,
    reason: Annotated[str, typer.Option(help="With --accept-gap: why, for the record.")] = "",
    who: Annotated[str | None, typer.Option(help="With --accept-gap: who accepts it [your user name].")] = None,
    data: DataOption = None,
) -> None:
    """Prove the invariant: every record in Kafka is exactly one row, on every partition.

    Counts rows and distinct raw offsets from the last seal up, compares the number of rows below with the seals, and the
    seals with each other from the stream's first offset on; compares with Kafka's end offsets, and transaction-ids in
    Kafka and in the table at the last and at sampled positions. Nothing is changed but the table audits, where the
    outcome is noted.

    --seals finds rows that were deleted, added or altered after they were sealed, until they expire.

    --accept-gap is the one exception: it writes a row that says who gave up which offsets and why; the sink then goes
    on behind them and the audit no longer counts them. Try `clickledger refill` first.

    Example: clickledger audit --wait

    Example: clickledger audit --accept-gap 3:1200-1207 --reason "topic truncated by mistake, ticket 4711"
    """
    if accept_gap is not None:
        asyncio.run(_accept(data, accept_gap, who or getpass.getuser(), reason))
        return
    report = asyncio.run(_audit(data, wait=wait, timeout_s=timeout, check_seals=seals))
    from clickledger.audit_print import as_record, exit_code, print_report

    if as_json:
        import json

        typer.echo(json.dumps(as_record(report)))
    else:
        print_report(report)
    raise typer.Exit(exit_code(report))


async def _audit(data: Path | None, *, wait: bool, timeout_s: float, check_seals: bool) -> AuditReport:
    from clickledger.audit_record import record_audit
    from clickledger.audit_run import run_audit

    try:
        found = locate(data)
        report = await run_audit(found, wait=wait, timeout_s=timeout_s, check_seals=check_seals)
    except OperatorError as exc:  # status 1 is a verdict, and there is none
        raise TransientError(str(exc)) from exc
    try:
        await record_audit(found, report)
    except ClickledgerError as exc:  # as with a user who may only read
        typer.echo(f"clickledger: the outcome was not recorded: {exc}", err=True)
    return report


async def _accept(data: Path | None, text: str, who: str, reason: str) -> None:
    from clickledger.audit_gaps import accept_gap, parse_gap

    if not reason.strip():
        raise typer.BadParameter("--accept-gap needs --reason: why are these clicks given up?")
    try:
        partition, span = parse_gap(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    await accept_gap(locate(data), partition, span, who=who, reason=reason.strip())
    typer.echo(f"partition {partition}: raw offsets {span} accepted as lost by {who}: {reason.strip()}")
