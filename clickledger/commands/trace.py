"""`clickledger trace ID`: what happened to one click."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clickledger.exit_codes import ExitCode
from clickledger.located import DataOption, locate

if TYPE_CHECKING:  # loaded when something is traced
    from reporting.tracing import Trace


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("trace")(trace)


def trace(
    transaction_id: Annotated[str, typer.Argument(help="The id that the app got with its 200.")],
    *,
    tenant: Annotated[str, typer.Option(help="Only clicks of this tenant [of every tenant].")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, as GET /v1/transactions/ID.")] = False,
    data: DataOption = None,
) -> None:
    """Tell when and by whom a click was accepted, where it is in Kafka, its row, its duplicates, and how long each step took.

    Exit status 1 when the id is unknown.

    Example: clickledger trace 01a20442-8510-7004-a887-7fccaebd11b5
    """
    from reporting.tracing import State, parse_id
    from reporting.transactions import as_json as answer

    try:
        wanted = parse_id(transaction_id)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    found = asyncio.run(_trace(data, tenant, wanted))
    told = answer(found, time.time_ns() // 1_000_000)
    if as_json:
        typer.echo(json.dumps(told, ensure_ascii=False))
    else:
        _print(told)
    if found.state is State.UNKNOWN:
        raise typer.Exit(ExitCode.FAILED)


async def _trace(data: Path | None, tenant: str, transaction_id: str) -> Trace:
    from clickledger.known import refuse_unknown
    from reporting.kafka_search import Limits
    from reporting.tracing import State
    from reporting.tracing import trace as find
    from shared.clickhouse import ClickHouse
    from shared.settings import ReportingSettings, load

    found, settings = locate(data), load(ReportingSettings)
    limits = Limits(settings.reporting_trace_records_max, settings.reporting_trace_ms_max)
    async with ClickHouse(found.clickhouse) as clickhouse:
        told = await find(clickhouse, found.kafka, limits, tenant, transaction_id)
    if told.state is State.UNKNOWN:
        await refuse_unknown(found, tenant)
    return told


def _print(told: dict[str, Any]) -> None:
    from clickledger.output import print_table

    typer.echo(f"{told['transaction_id']}: {told['state'].replace('_', ' ')}")
    for number, copy in enumerate(told["copies"], 1):
        known = [(name, value) for name, value in copy.items() if value not in (None, "", False)]
        print_table(("step", f"copy {number}"), [(name.replace("_", " "), str(value)) for name, value in known])
    if told["note"]:
        typer.echo(told["note"])
