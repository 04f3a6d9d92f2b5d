"""What requests need, made once per process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from reporting.dashboard.attempts import Attempts
from reporting.dashboard.links import LoginLinks
from reporting.kafka_search import Limits
from reporting.pipeline import PipelineWatch
from reporting.rte.desk import Desk
from reporting.sessions import Sessions
from reporting.turns import Turns
from reporting.webhooks.registry import Registry
from shared.clickhouse import ClickHouse
from shared.keys import KeyCatalog
from shared.runtime import Runtime
from shared.settings import KafkaSettings


class Directory(KeyCatalog, Protocol):
    """The part of `shared.catalog.Catalog` that reports need."""

    is_ready: bool
    version: int

    def refresh(self) -> bool:
        """Renew the snapshot."""

    def tenant(self, tenant: str) -> dict[str, Any] | None:
        """The record of a tenant."""

    def stream(self, topic: str) -> dict[str, Any] | None:
        """The record of the stream that a raw topic carries."""


@dataclass(frozen=True, slots=True)
class Exports:
    """What exports of event detail records need for themselves, so that they neither wait for reports nor block them."""

    clickhouse: ClickHouse
    """with the patience that a long query needs"""
    turns: Turns
    topic_raw: str
    """whose stream cursors are about"""
    pull_rows_max: int
    bytes_per_s_min: int
    """that a reader must take"""


@dataclass(frozen=True, slots=True)
class Traces:
    """What looking for single clicks needs; its turns are its own, since it waits for Kafka."""

    kafka: KafkaSettings
    turns: Turns
    limits: Limits


@dataclass(frozen=True, slots=True)
class Dashboard:
    """What the dashboard and its health strip need."""

    links: LoginLinks
    attempts: Attempts
    pipeline: PipelineWatch


@dataclass(frozen=True, slots=True)
class State:
    """Catalog, ClickHouse and the turns of its queries; how the process is; what features keep."""

    catalog: Directory
    clickhouse: ClickHouse
    runtime: Runtime
    turns: Turns
    sessions: Sessions
    dashboard: Dashboard
    exports: Exports
    traces: Traces
    desk: Desk
    """Of the event streams."""
    webhooks: Registry | None = None
    """None where the process has no webhooks."""
