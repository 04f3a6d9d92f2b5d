"""`clickledger refill`: enrich raw clicks again where enriched records are missing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from clickledger.located import DataOption, locate


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("refill")(refill)


def refill(
    *,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="P:OFFSET", help="Partition and raw offset to go back to; may be repeated."),
    ] = None,
    accept_lost: Annotated[
        bool,
        typer.Option("--accept-lost", help="Go forward to OFFSET: raw records before it are gone from Kafka for good."),
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for the enricher.")] = 60,
    data: DataOption = None,
) -> None:
    """Heal a gap: the enricher goes back to the first raw offset that is not stored and writes from there again.

    Without --at, every partition with clicks that are not rows yet goes back to the offset after its last row; for
    clicks that were merely under way this does no harm. Rows that are stored are never stored twice: the sink drops
    copies. After --accept-lost, accept the gap too: clickledger audit --accept-gap.

    Example: clickledger refill

    Example: clickledger refill --at 3:1200
    """
    if accept_lost and not at:
        raise typer.BadParameter("--accept-lost needs --at: which offset to go on from")
    try:
        offsets = dict(parse_place(text) for text in at or ())
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    asyncio.run(_refill(data, offsets, accept_lost=accept_lost, timeout_s=timeout))


def parse_place(text: str) -> tuple[int, int]:
    """Read `partition:offset`. Raises ValueError that shows the form."""
    partition, colon, offset = text.partition(":")
    if not (colon and partition.isdecimal() and offset.isdecimal()):
        raise ValueError(f"{text!r} is no place: write partition:offset, for example 3:1200")
    return int(partition), int(offset)


async def _refill(data: Path | None, offsets: dict[int, int], *, accept_lost: bool, timeout_s: float) -> None:
    from clickledger.audit_run import read_stream, run_audit
    from enricher.refill import request
    from shared.kafka import Admin

    found = locate(data)
    record, _ = await read_stream(found)
    async with Admin(found.kafka) as admin:
        partitions = (await admin.topics()).get(found.kafka.topic_raw, 0)
    if unknown := [partition for partition in offsets if partition >= partitions]:
        raise typer.BadParameter(
            f"--at: {found.kafka.topic_raw} has no partition {unknown[0]}, only 0 to {partitions - 1}"
        )
    if not offsets:
        report = await run_audit(found, wait=False, timeout_s=timeout_s)
        offsets = {each.facts.partition: each.stored_next for each in report.current.partitions if each.in_flight}
    if not offsets:
        typer.echo("nothing to refill: everything in Kafka is stored")
        return
    outcomes = await request(found.kafka, record.stream, offsets, accept_lost=accept_lost, timeout_s=timeout_s)
    for outcome in outcomes:
        typer.echo(f"partition {outcome.partition}: enriching from raw offset {offsets[outcome.partition]} on")
    typer.echo("see it arrive: clickledger audit --wait")
