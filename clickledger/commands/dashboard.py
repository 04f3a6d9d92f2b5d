"""`clickledger dashboard`: a login link to the running stack's dashboard."""

from __future__ import annotations

import os

import typer

from clickledger.located import DataOption


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("dashboard")(dashboard)


def dashboard(data: DataOption = None) -> None:
    """Print a link that logs a browser in to the running local stack's dashboard.

    It works once, within ten minutes; nobody can read the key from it. Where no local stack runs, open /dashboard at the
    reports' address and log in with a key that has the grant reports.

    Example: clickledger dashboard
    """
    from clickledger.login_link import make_login_link
    from clickledger.stack import ready

    typer.echo(make_login_link(ready.load(ready.data_folder(os.environ, data))))
