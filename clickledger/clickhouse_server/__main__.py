"""The process: read arguments and environment, open the engine, serve until a signal."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from clickledger.clickhouse_server.options import Options
from shared.settings import CatalogSettings


def parse_options(arguments: list[str], environment: Mapping[str, str]) -> Options:
    """Options of the command line; passwords are taken from the environment only."""
    parser = argparse.ArgumentParser(
        "python -m clickledger.clickhouse_server", description="ClickHouse's HTTP interface on chDB."
    )
    parser.add_argument("--path", type=Path, required=True, help="data folder")
    parser.add_argument("--database", required=True, help="the project's database; made if missing")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8123, help="port to listen on; 0 picks a free one")
    parser.add_argument("--catalog", type=Path, help="folder of the catalog's copy, for tenants' keys; none without")
    parser.add_argument("--stop-seconds", type=float, default=10.0, help="how long a stop waits for running statements")
    parsed = parser.parse_args(arguments)
    return Options(
        path=parsed.path.resolve(),
        database=parsed.database,
        host=parsed.host,
        port=parsed.port,
        catalog=parsed.catalog.resolve() if parsed.catalog else None,
        catalog_settings=CatalogSettings(),
        stop_seconds=parsed.stop_seconds,
        password=environment.get("CLICKLEDGER_CLICKHOUSE_PASSWORD", ""),
        sink_password=environment.get("CLICKLEDGER_CLICKHOUSE_SINK_PASSWORD", ""),
        reporting_password=environment.get("CLICKLEDGER_CLICKHOUSE_REPORTING_PASSWORD", ""),
        reader_password=environment.get("CLICKLEDGER_CLICKHOUSE_READER_PASSWORD", ""),
        anonymous_reader=environment.get("CLICKLEDGER_CLICKHOUSE_ANONYMOUS_READER", "") == "1",
    )


def main() -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    options = parse_options(sys.argv[1:], os.environ)
    os.environ["TZ"] = "UTC"  # the engine takes its time zone from here
    from clickledger.clickhouse_server.server import serve

    return serve(options)


if __name__ == "__main__":
    raise SystemExit(main())
