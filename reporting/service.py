"""The process `clickledger reporting`: its own copy of keys and tenants, one HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator

import uvicorn

from reporting.app import build_app
from reporting.connections import lane
from reporting.dashboard.attempts import Attempts
from reporting.dashboard.links import PURPOSE as LINK_PURPOSE
from reporting.dashboard.links import LoginLinks
from reporting.kafka_search import Limits
from reporting.pipeline import PipelineWatch
from reporting.reachable import Reachable, watched
from reporting.rte.desk import Desk
from reporting.rte.hub import Hub
from reporting.sessions import PURPOSE as SESSION_PURPOSE
from reporting.sessions import Sessions
from reporting.state import Dashboard, Exports, State, Traces
from reporting.turns import Turns
from reporting.webhooks.keys import refuse_without_key
from reporting.webhooks.model import PURPOSE as WEBHOOKS_PURPOSE
from reporting.webhooks.serving import serving_webhooks
from shared.catalog import Catalog, CatalogFollower, Kind
from shared.clickhouse import ClickHouse
from shared.http.fastlane import protocol_class
from shared.http.files import raise_file_limit
from shared.http.lane import Lane
from shared.runtime import Runtime, run_service
from shared.secret_box import SecretBox
from shared.settings import (
    CatalogSettings,
    ClickHouseSettings,
    KafkaSettings,
    ReportingSettings,
    RuntimeSettings,
    SecretSettings,
    WebhookSettings,
    load,
)
from shared.tasks import end

_KINDS = (Kind.KEY, Kind.TENANT, Kind.STREAM, Kind.SPOOL, Kind.WEBHOOK)
_REFRESH_S = 0.25  # how often readiness looks at the catalog; requests look for themselves


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the runtime's."""
        yield


async def serve(
    runtime: Runtime,
    settings: ReportingSettings,
    kafka: KafkaSettings,
    clickhouse_settings: ClickHouseSettings,
    catalog_settings: CatalogSettings,
    secret: SecretSettings,
    webhooks: WebhookSettings,
) -> None:
    """Serve reports until the runtime stops. Raises KeyMissing when there are webhooks and no key."""
    raise_file_limit(settings.reporting_connections_max)
    folder = runtime.settings.data / "reporting-catalog"
    catalog = Catalog(catalog_settings, folder)
    runtime.checks.append(lambda: "" if catalog.is_ready else "no catalog yet")
    follower = asyncio.create_task(CatalogFollower(catalog_settings, kafka, folder, _KINDS).run())
    box = SecretBox(secret, WEBHOOKS_PURPOSE)
    try:
        async with (
            ClickHouse(clickhouse_settings) as clickhouse,
            ClickHouse(_patient(clickhouse_settings, settings)) as patient,
            serving_webhooks(runtime, kafka, catalog_settings, webhooks, box, catalog) as registry,
            Hub(kafka, settings, catalog, clickhouse) as hub,
            watched(reachable := Reachable(clickhouse)) as watching,
        ):
            runtime.checks.append(reachable.why_not_ready)
            turns = Turns(settings.reporting_queries_max, settings.reporting_waiting_max)
            sessions = Sessions(SecretBox(secret, SESSION_PURPOSE), settings.reporting_session_minutes * 60_000)
            pipeline = PipelineWatch(clickhouse, kafka, catalog_settings, catalog)
            dashboard = _dashboard(runtime, settings, secret, pipeline)
            connections = lane(settings.reporting_connections_max)
            exports = _exports(settings, kafka, patient)
            state = State(
                catalog,
                clickhouse,
                runtime,
                turns,
                sessions,
                dashboard,
                exports,
                _traces(settings, kafka),
                Desk(hub),
                registry,
            )
            server = _Server(_config(settings, runtime, state, connections))
            serving = asyncio.create_task(server.serve())
            is_checked = False
            while not (await runtime.pause(_REFRESH_S) or serving.done() or hub.has_ended or watching.done()):
                catalog.refresh()
                if catalog.is_ready and not is_checked:
                    refuse_without_key(catalog, box)
                    is_checked = True
            hub.stop()
            server.should_exit = True
            await serving
            await connections.abort_rest()
            await pipeline.close()
    finally:
        await end(follower)
        catalog.close()


def _config(settings: ReportingSettings, runtime: Runtime, state: State, connections: Lane) -> uvicorn.Config:
    return uvicorn.Config(
        build_app(state),
        http=protocol_class(connections),
        ws="none",
        lifespan="off",
        interface="asgi3",
        proxy_headers=False,
        host=settings.reporting_host,
        port=settings.reporting_port,
        log_config=None,
        timeout_graceful_shutdown=max(1, runtime.settings.stop_deadline_ms // 2000),  # s for answers under way
        access_log=False,
        server_header=False,
    )


def _dashboard(
    runtime: Runtime, settings: ReportingSettings, secret: SecretSettings, pipeline: PipelineWatch
) -> Dashboard:
    links = LoginLinks(SecretBox(secret, LINK_PURPOSE), runtime.settings.node, runtime.settings.data / "login-links")
    return Dashboard(links, Attempts(settings.reporting_login_failures_max), pipeline)


def _patient(clickhouse: ClickHouseSettings, settings: ReportingSettings) -> ClickHouseSettings:
    """Settings of a client that waits longer for an answer."""
    return clickhouse.model_copy(update={"clickhouse_query_timeout_ms": settings.reporting_export_silence_ms_max})


def _exports(settings: ReportingSettings, kafka: KafkaSettings, clickhouse: ClickHouse) -> Exports:
    turns = Turns(settings.reporting_exports_max, settings.reporting_exports_waiting_max)
    return Exports(
        clickhouse,
        turns,
        kafka.topic_raw,
        settings.reporting_pull_rows_max,
        settings.reporting_export_bytes_per_s_min,
    )


def _traces(settings: ReportingSettings, kafka: KafkaSettings) -> Traces:
    turns = Turns(settings.reporting_traces_max, settings.reporting_waiting_max)
    return Traces(kafka, turns, Limits(settings.reporting_trace_records_max, settings.reporting_trace_ms_max))


def main() -> None:
    """Run the service, configured by the environment, and end the process with its status."""
    settings = load(ReportingSettings)
    kafka, clickhouse, catalog = load(KafkaSettings), load(ClickHouseSettings), load(CatalogSettings)
    secret, webhooks = load(SecretSettings), load(WebhookSettings)
    sys.exit(
        run_service(
            "reporting",
            load(RuntimeSettings),
            lambda runtime: serve(runtime, settings, kafka, clickhouse, catalog, secret, webhooks),
            health_port=settings.reporting_health_port,
        )
    )
