"""Fixtures of the real stack: started lazily, once per test run, and ended with it.

Every test gets names of its own (topics, group, database), so tests share one broker and one ClickHouse server without
seeing each other. `kafka_bootstrap`, `clickhouse_url` and `names` are the public fixtures.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clickledger.stack.guard import Guard
from tests.support.brokers import LocalBrokers


@dataclass(frozen=True, slots=True)
class Names:
    """Names that no other test uses."""

    suffix: str

    @property
    def raw(self) -> str:
        """Topic of raw clicks."""
        return f"clicks.raw.{self.suffix}"

    @property
    def enriched(self) -> str:
        """Topic of enriched clicks."""
        return f"clicks.enriched.{self.suffix}"

    @property
    def catalog(self) -> str:
        """Topic of the catalog."""
        return f"catalog.{self.suffix}"

    @property
    def database(self) -> str:
        """ClickHouse database."""
        return f"clicks_{self.suffix}"

    @property
    def group(self) -> str:
        """Consumer group."""
        return f"group-{self.suffix}"

    def env(self) -> dict[str, str]:
        """The topics as the environment of a service."""
        return {
            "CLICKLEDGER_TOPIC_RAW": self.raw,
            "CLICKLEDGER_TOPIC_ENRICHED": self.enriched,
            "CLICKLEDGER_TOPIC_CATALOG": self.catalog,
        }


@pytest.fixture
def names() -> Names:
    """Topic, group and database names for one test."""
    return Names(secrets.token_hex(4))


@pytest.fixture(scope="session")
def guard() -> Iterator[Guard]:
    """Ends every child when the test run is killed."""
    guard = Guard()
    yield guard
    guard.close()


@pytest.fixture(scope="session")
def stack_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of the shared broker and server."""
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="session")
def brokers(guard: Guard, stack_folder: Path) -> Iterator[LocalBrokers]:
    """The one broker of this test run. A test that kills it must start it again."""
    brokers = LocalBrokers(guard, stack_folder / "kafka")
    yield brokers
    brokers.close()


@pytest.fixture(scope="session")
def kafka_bootstrap(brokers: LocalBrokers) -> str:
    """`host:port` of a real Kafka broker."""
    return brokers.bootstrap


@pytest.fixture(scope="session")
def _three_brokers(guard: Guard, stack_folder: Path) -> Iterator[LocalBrokers]:
    brokers = LocalBrokers(guard, stack_folder / "kafka3", count=3)
    yield brokers
    brokers.close()


@pytest.fixture
def three_brokers(_three_brokers: LocalBrokers) -> LocalBrokers:
    """A cluster of three, all running when the test begins; the test may kill any of them."""
    _three_brokers.ensure_all()
    return _three_brokers
