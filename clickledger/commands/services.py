"""`clickledger api|enricher|sink|reporting|deliverer`: one service in the foreground, configured by environment."""

from __future__ import annotations

import gc
import importlib

import typer

SERVICES = {
    "api": ("ingest_api.service", "Take clicks over HTTP and publish them."),
    "enricher": ("enricher.service", "Resolve, parse and flag clicks: clicks.raw to clicks.enriched."),
    "sink": ("sink.service", "Store enriched clicks in ClickHouse, each exactly once."),
    "reporting": ("reporting.service", "Serve RTE, EDR and CTR reports over HTTP."),
    "deliverer": ("reporting.webhooks.service", "Send webhooks: clicks.enriched to the tenants' URLs."),
}


def register(app: typer.Typer) -> None:
    """Add the service commands."""
    for name, (module, summary) in SERVICES.items():
        _register_one(app, name, module, summary)


def _register_one(app: typer.Typer, name: str, module: str, summary: str) -> None:
    text = f"""{summary}

    Settings are CLICKLEDGER_* environment variables (see: clickledger settings). Runs until SIGTERM or Ctrl-C.

    Example: CLICKLEDGER_KAFKA_BOOTSTRAP=kafka:9092 clickledger {name}
    """

    @app.command(name, help=text)
    def service() -> None:
        gc.disable()  # imports leave no cycles, and looking for them is a tenth of the start
        main = importlib.import_module(module).main
        gc.enable()
        raise typer.Exit(main() or 0)
