"""What measurements on the real stack share: a broker and a ClickHouse server of the local stack, and worlds on them.

A *world* is topics, stream and table of one measurement, made by `clickledger setup`; services run in it as processes.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.machine import LOAD_CORE, pin
from clickledger.stack.guard import Guard
from shared.kafka import Reader
from shared.settings import KafkaSettings
from tests.support.brokers import LocalBrokers
from tests.support.clickhouse import LocalClickHouse
from tests.support.full_stack import clean_env, start_service
from tests.support.processes import Child
from tests.support.stack import Names

SETUP_S_MAX = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Topics, stream and table of one measurement."""

    guard: Guard
    folder: Path
    env: Mapping[str, str]
    """in which services find all of it"""
    kafka: KafkaSettings
    partitions: int

    @property
    def data(self) -> Path:
        """The data folder of its services."""
        return Path(self.env["CLICKLEDGER_DATA"])

    def start(self, name: str, core: str = "", **settings: str) -> Child:
        """Start a service and wait until it is ready; `settings` are `CLICKLEDGER_*` variables without that."""
        more = {f"CLICKLEDGER_{key.upper()}": text for key, text in settings.items()}
        child = start_service(self.guard, name, self.folder / f"{name}.log", {**self.env, **more})
        if core:
            pin(child.pid, core)
        return child

    def records(self, topic: str) -> int:
        """How many records a topic has."""
        with self.counting(topic) as count:
            return count()

    @contextmanager
    def counting(self, topic: str) -> Iterator[Callable[[], int]]:
        """A function that tells how many records a topic has, over one connection: asking often must cost little."""
        with asyncio.Runner() as runner:
            reader = runner.run(self._reader(topic))
            try:
                yield lambda: sum(runner.run(reader.end_offsets(range(self.partitions))).values())
            finally:
                runner.run(reader.close())

    async def _reader(self, topic: str) -> Reader:
        reader = Reader(self.kafka, topic, client_id="bench")
        await reader.start()
        return reader


class Stores:
    """A broker and a ClickHouse server."""

    def __init__(self, guard: Guard, folder: Path) -> None:
        self.guard, self.folder = guard, folder
        self.brokers = LocalBrokers(guard, folder / "kafka")
        self.clickhouse = LocalClickHouse(guard, folder / "clickhouse")

    def close(self) -> None:
        """End both."""
        self.clickhouse.close()
        self.brokers.close()

    def pin_broker(self, core: str = LOAD_CORE) -> None:
        """Keep the broker on one core, off the one of what is measured."""
        pin(self.brokers.pid(), core)

    def world(self, name: str, partitions: int = 6, database: str = "") -> World:
        """Make topics, stream and table; `database`: a table that another world has made."""
        names = Names(name)
        folder = self.folder / name
        folder.mkdir()
        env = {
            "CLICKLEDGER_KAFKA_BOOTSTRAP": self.brokers.bootstrap,
            "CLICKLEDGER_CLICKHOUSE_URL": f"{self.clickhouse.url}/{database or names.database}",
            "CLICKLEDGER_DATA": str(folder / "data"),
            "CLICKLEDGER_PARTITIONS": str(partitions),
            **names.env(),
        }
        setup = [sys.executable, "-m", "clickledger", "setup"]
        done = subprocess.run(
            setup, env={**clean_env(), **env}, capture_output=True, text=True, timeout=SETUP_S_MAX, check=False
        )
        if done.returncode:
            raise RuntimeError(f"clickledger setup: {done.stdout}{done.stderr}")
        kafka = KafkaSettings(
            kafka_bootstrap=self.brokers.bootstrap,
            topic_raw=names.raw,
            topic_enriched=names.enriched,
            topic_catalog=names.catalog,
            topic_webhooks=names.webhooks,
        )
        return World(self.guard, folder, env, kafka, partitions)


@contextmanager
def stores() -> Iterator[Stores]:
    """Start both and end everything afterwards, what worlds have started included."""
    guard = Guard()
    try:
        with tempfile.TemporaryDirectory(prefix="clickledger-bench-", ignore_cleanup_errors=True) as name:
            found = Stores(guard, Path(name))
            try:
                yield found
            finally:
                found.close()
    finally:
        guard.close()
