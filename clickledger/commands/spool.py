"""`clickledger spool list|verify|replay|forget`."""

from __future__ import annotations

import asyncio
import getpass
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from clickledger.exit_codes import ExitCode
from clickledger.located import DataOption, locate

_JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per spool and line.")]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("list")(list_)
    group.command("verify")(verify)
    group.command("replay")(replay)
    group.command("forget")(forget)
    app.add_typer(group, name="spool", help="Clicks that the API keeps on disk while Kafka does not take them.")


def list_(as_json: _JsonOption = False, data: DataOption = None) -> None:
    """List every spool that the catalog knows, on any machine: what the audit looks at.

    Example: clickledger spool list
    """
    asyncio.run(_list(data, as_json=as_json))


def verify(
    folder: Annotated[Path | None, typer.Argument(help="A spool's folder [every one of this machine].")] = None,
    as_json: _JsonOption = False,
    data: DataOption = None,
) -> None:
    """Read every frame on disk and say what is there; needs no Kafka, changes nothing.

    A torn end is what a crash leaves of a write that was never answered. Damage, and files set aside, may be clicks that
    were answered 200: exit status 1.

    Example: clickledger spool verify .clickledger/api/spool/0
    """
    from clickledger.output import print_records
    from clickledger.spools import inspect, inspect_all, spool_root
    from clickledger.stack.ready import data_folder

    reports = [inspect(folder)] if folder else inspect_all(spool_root(data_folder(os.environ, data)))
    columns = ("folder", "segments", "bytes", "clicks", "oldest_at", "torn", "damaged", "set_aside")
    print_records([report.as_record() for report in reports], columns, as_json=as_json)
    raise typer.Exit(ExitCode.OK if all(report.is_whole for report in reports) else ExitCode.FAILED)


def replay(
    folder: Annotated[Path, typer.Argument(help="The folder; for example copied from a machine that is gone.")],
    data: DataOption = None,
) -> None:
    """Publish the clicks of a folder that no process holds; the API does it by itself for those on its machine.

    Clicks that Kafka has already become duplicates, so it may be given again after a failure.

    Example: clickledger spool replay /mnt/rescued/api/spool/0
    """
    from clickledger.spools import replay as replay_folder

    published, set_aside = asyncio.run(replay_folder(locate(data), folder))
    typer.echo(f"{published:,} clicks published, {set_aside:,} pieces set aside")
    raise typer.Exit(ExitCode.FAILED if set_aside else ExitCode.OK)


def forget(
    spool: Annotated[str, typer.Argument(metavar="SPOOL", help="As `spool list` shows it.")],
    reason: Annotated[str, typer.Option(help="Why it is given up, for the record.")] = "",
    data: DataOption = None,
) -> None:
    """Give up a spool whose disk is gone for good: the audit no longer asks for it. Clicks on it are lost.

    Example: clickledger spool forget api-3/0-5f0c2a91 --reason "disk lost, ticket 4711"
    """
    if not reason.strip():
        raise typer.BadParameter("--reason is needed: why is this spool given up?")
    from clickledger.spools import forget as forget_spool

    record = asyncio.run(forget_spool(locate(data), spool, who=getpass.getuser(), reason=reason.strip()))
    typer.echo(f"spool {spool} forgotten; it held {record.get('clicks', 0):,} clicks when it was last heard of")


async def _list(data: Any, *, as_json: bool) -> None:
    from clickledger.audit_spools import spool_id
    from clickledger.output import print_records
    from clickledger.spools import registered

    records = [{"spool": spool_id(record), **record} for record in await registered(locate(data))]
    columns = ("spool", "clicks", "bytes", "oldest_at", "set_aside", "heard_at", "folder")
    print_records(records, columns, as_json=as_json)
