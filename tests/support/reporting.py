"""The reports' application on a free port of this process, with a catalog in memory and a ClickHouse that does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import SecretStr

from reporting import sessions
from reporting.app import build_app
from reporting.connections import lane
from reporting.dashboard import links
from reporting.dashboard.attempts import Attempts
from reporting.kafka_search import Limits
from reporting.pipeline import PipelineWatch
from reporting.rte.desk import Desk
from reporting.rte.hub import Hub
from reporting.state import Dashboard, Exports, State, Traces
from reporting.turns import Turns
from shared.clickhouse import ClickHouse
from shared.http.fastlane import protocol_class
from shared.runtime import Runtime
from shared.secret_box import SecretBox
from shared.settings import (
    CatalogSettings,
    ClickHouseSettings,
    KafkaSettings,
    ReportingSettings,
    RuntimeSettings,
    SecretSettings,
)
from tests.support.api_service import Reply
from tests.support.catalog import MemoryCatalog, example_catalog, key_record

READER = "reports-secret-0123456789"
"""The secret of key `k2`, which may read reports."""
LOGIN_FAILURES_MAX = 5


@dataclass(frozen=True)
class ReportingService:
    """One that runs."""

    port: int
    catalog: MemoryCatalog
    runtime: Runtime

    def get(self, path: str, secret: str | None = READER, method: str = "GET") -> tuple[int, dict[str, Any]]:
        """Status and JSON of one request."""
        reply = self.ask(method, path, {"Authorization": f"Bearer {secret}"} if secret else {})
        assert reply.headers["content-type"].startswith("application/json")
        return reply.status, reply.json

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> Reply:
        """One request as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return Reply(response.status, {name.lower(): text for name, text in response.getheaders()}, response.read())


def make_state(catalog: MemoryCatalog, runtime: Runtime, folder: Path, secret: str = "") -> State:
    """What requests need."""
    nowhere = ClickHouseSettings(
        clickhouse_url=SecretStr("http://127.0.0.1:9/clickledger"), clickhouse_query_timeout_ms=1000
    )
    clickhouse = ClickHouse(nowhere)
    settings = SecretSettings(secret_key=SecretStr(secret))
    no_broker = KafkaSettings(kafka_bootstrap="127.0.0.1:9", kafka_request_timeout_ms=500)
    pipeline = PipelineWatch(clickhouse, no_broker, CatalogSettings(), catalog)
    login_links = links.LoginLinks(SecretBox(settings, links.PURPOSE), "node-1", folder)
    return State(
        catalog,
        clickhouse,
        runtime,
        Turns(1, 0),
        sessions.Sessions(SecretBox(settings, sessions.PURPOSE), 60_000),
        Dashboard(login_links, Attempts(LOGIN_FAILURES_MAX), pipeline),
        Exports(clickhouse, Turns(1, 0), "clicks.raw", 1_000, 4_096),
        Traces(no_broker, Turns(1, 0), Limits(100, 1_000)),
        Desk(Hub(no_broker, ReportingSettings(), catalog, clickhouse)),  # not running: no stream can be had
    )


@contextlib.contextmanager
def running(folder: Path, secret: str = "") -> Iterator[ReportingService]:
    """The application; `folder` keeps used login links."""
    catalog = example_catalog()
    catalog.put("key", "k2", key_record(READER, key_id="k2", grants=["reports"]))
    runtime = Runtime("reporting", RuntimeSettings())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        http_class = protocol_class(lane(10))
        app = build_app(make_state(catalog, runtime, folder, secret))
        server = uvicorn.Server(uvicorn.Config(app, http=http_class, log_config=None, access_log=False))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            yield ReportingService(listener.getsockname()[1], catalog, runtime)
        finally:
            server.should_exit = True
            thread.join()
