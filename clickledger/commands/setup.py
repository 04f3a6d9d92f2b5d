"""`clickledger setup`: topics, stream and table."""

from __future__ import annotations

import asyncio

import typer

from clickledger.located import DataOption, locate
from shared.errors import OperatorError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("setup")(setup)


def setup(data: DataOption = None) -> None:
    """Make or check topics, the stream id and the table. Safe to run again at any time.

    Run it once before the services start, and again to add partitions (CLICKLEDGER_PARTITIONS). It refuses what would
    lose or mix clicks: compacted topics, unclean leader election, too few in-sync replicas, a topic with records whose
    stream is unknown; tables, views and columns that are missing or of another engine or type: each is named with its
    cure. Other queries, keys and defaults, a TTL of your own and topics that differ without harm are only told.

    Example: CLICKLEDGER_PARTITIONS=12 clickledger setup
    """
    from clickledger.setup import SetupSettings, set_up

    found = locate(data)
    if not asyncio.run(set_up(SetupSettings(found.kafka, found.clickhouse, found.catalog), typer.echo)):
        raise OperatorError("tables or views are not as set-up left them: what differs and its cure is above")
