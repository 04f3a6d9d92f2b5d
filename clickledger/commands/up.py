"""`clickledger up`: the whole stack on this machine."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from clickledger.exit_codes import ExitCode


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("up")(up)


def up(
    data: Annotated[
        Path | None, typer.Option(help="Folder for everything the stack stores [.clickledger, or CLICKLEDGER_DATA].")
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65_532, help="Port of the API; reports, ClickHouse and Kafka follow. 0 picks free ones."
        ),
    ] = 8080,
    brokers: Annotated[Literal["1", "3"], typer.Option(help="Kafka brokers; 3 to try a broker's death.")] = "1",
    demo: Annotated[
        bool, typer.Option("--demo", help="Load a demo tenant, send clicks, print report and audit.")
    ] = False,
    exit_after: Annotated[
        bool, typer.Option("--exit", help="With --demo: end after the audit, with its status.")
    ] = False,
    ready_file: Annotated[
        Path | None,
        typer.Option(help="Write addresses, keys and process ids here (mode 0600) when everything answers."),
    ] = None,
) -> None:
    """Run Kafka, ClickHouse and the services on this machine until Ctrl-C. Data survives a restart.

    Needs nothing but Python: Kafka's jars are downloaded once and checked against a lock.

    Example: clickledger up --demo

    Example: clickledger up --data /tmp/try --port 0 --ready-file /tmp/try.json
    """
    from clickledger.stack.layout import Options
    from clickledger.stack.output import Output
    from clickledger.stack.ready import data_folder
    from clickledger.stack.up import up as run_up

    if exit_after and not demo:
        raise typer.BadParameter("--exit goes with --demo")
    options = Options(
        data=data_folder(os.environ, data),
        port=port,
        brokers=int(brokers),
        ready_file=ready_file.absolute() if ready_file else None,
        is_demo=demo,
        is_exit=exit_after,
    )
    output = Output(colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    try:
        status = asyncio.run(run_up(options, os.environ, output))
    finally:
        output.close()
    raise typer.Exit(status or ExitCode.OK)
