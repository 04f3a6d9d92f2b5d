"""Fixtures of the real stack: started lazily, once per test run, and ended with it.

Every test gets names of its own (topics, group, database), so tests share one broker and one ClickHouse server without
seeing each other. `kafka_bootstrap`, `clickhouse_url` and `names` are the public fixtures.
"""

from __future__ import annotations

import asyncio
import http.client
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from clickledger.setup import SetupSettings, set_up
from clickledger.stack.guard import Guard
from shared.settings import CatalogSettings, ClickHouseSettings, KafkaSettings
from tests.support.brokers import LocalBrokers
from tests.support.clickhouse import LocalClickHouse
from tests.support.full_stack import FullStack, is_on_full_stack, start_service
from tests.support.processes import Child

if TYPE_CHECKING:  # loads a Docker client, which only `--stack containers` needs
    from tests.support.containers import ContainerBrokers, ContainerClickHouse


Brokers: TypeAlias = "LocalBrokers | ContainerBrokers"
ClickHouseServer: TypeAlias = "LocalClickHouse | ContainerClickHouse"


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
    def webhooks(self) -> str:
        """Topic of webhooks."""
        return f"webhooks.{self.suffix}"

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
            "CLICKLEDGER_TOPIC_WEBHOOKS": self.webhooks,
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


def _uses_containers(config: pytest.Config) -> bool:
    return bool(config.getoption("--stack") == "containers")


def _make_brokers(config: pytest.Config, guard: Guard, folder: Path, count: int) -> Brokers:
    if not _uses_containers(config):
        return LocalBrokers(guard, folder, count)
    from tests.support.containers import ContainerBrokers

    return ContainerBrokers(count)


def _make_clickhouse(config: pytest.Config, guard: Guard, folder: Path) -> ClickHouseServer:
    if not _uses_containers(config):
        return LocalClickHouse(guard, folder)
    from tests.support.containers import ContainerClickHouse

    return ContainerClickHouse()


@pytest.fixture(scope="session")
def brokers(pytestconfig: pytest.Config, guard: Guard, stack_folder: Path) -> Iterator[Brokers]:
    """The one broker of this test run. A test that kills it must start it again."""
    brokers = _make_brokers(pytestconfig, guard, stack_folder / "kafka", 1)
    yield brokers
    brokers.close()


@pytest.fixture(scope="session")
def kafka_bootstrap(brokers: Brokers) -> str:
    """`host:port` of a real Kafka broker."""
    return brokers.bootstrap


@pytest.fixture(scope="module")  # idle brokers would take processor time until the run ends
def _three_brokers(
    pytestconfig: pytest.Config, guard: Guard, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Brokers]:
    brokers = _make_brokers(pytestconfig, guard, tmp_path_factory.mktemp("kafka3"), 3)
    yield brokers
    brokers.close()


@pytest.fixture
def three_brokers(_three_brokers: Brokers) -> Brokers:
    """A cluster of three, all running when the test begins; the test may kill any of them."""
    _three_brokers.ensure_all()
    return _three_brokers


@pytest.fixture(scope="session")
def clickhouse_server(pytestconfig: pytest.Config, guard: Guard, stack_folder: Path) -> Iterator[ClickHouseServer]:
    """The one ClickHouse server of this test run. A test that kills it must start it again."""
    server = _make_clickhouse(pytestconfig, guard, stack_folder / "clickhouse")
    yield server
    server.close()


@pytest.fixture(scope="session")
def clickhouse_url(clickhouse_server: ClickHouseServer) -> str:
    """`http://user:password@host:port` of a real ClickHouse, its owner's access; append `/database`."""
    return clickhouse_server.url


@pytest.fixture
def database_url(clickhouse_url: str, names: Names) -> Iterator[str]:
    """`CLICKLEDGER_CLICKHOUSE_URL` with a database of the test's own, made now and dropped after the test."""
    execute(clickhouse_url, f"CREATE DATABASE `{names.database}`")
    yield f"{clickhouse_url}/{names.database}"
    execute(clickhouse_url, f"DROP DATABASE IF EXISTS `{names.database}` SYNC")


def execute(url: str, sql: str) -> str:
    """Run one statement over HTTP and give the answer's text. Raises RuntimeError with ClickHouse's own words."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60.0)
    headers = {"X-ClickHouse-User": address.username or "default", "X-ClickHouse-Key": address.password or ""}
    if database := address.path.strip("/"):
        headers["X-ClickHouse-Database"] = database
    try:
        connection.request("POST", "/", body=sql.encode(), headers=headers)
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise RuntimeError(f"{sql[:200]}: {text}")
    return text


_FULL_STACK = pytest.StashKey[FullStack]()


@pytest.fixture(scope="session")
def _full_stack(
    pytestconfig: pytest.Config, guard: Guard, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FullStack]:
    stack = pytestconfig.stash[_FULL_STACK] = FullStack(guard, tmp_path_factory.mktemp("up"))
    yield stack
    stack.close()


@pytest.fixture(scope="module")
def full_stack(request: pytest.FixtureRequest, _full_stack: FullStack) -> FullStack:
    """One `clickledger up` for all end-to-end tests that leave it running and whole."""
    assert is_on_full_stack(request.path), f"name {request.path.name} in {is_on_full_stack.__module__}"
    return _full_stack


def pytest_runtest_setup(item: pytest.Item) -> None:
    """End the shared stack when the tests on it are through."""
    stack = item.config.stash.get(_FULL_STACK, None)
    if stack is not None and not is_on_full_stack(item.path):
        stack.close()


StartStack = Callable[..., FullStack]


@pytest.fixture
def start_stack(guard: Guard, tmp_path: Path) -> Iterator[StartStack]:
    """Start a `clickledger up` of the test's own: `start_stack("--brokers", "3")`; ended with the test."""
    started: list[FullStack] = []

    def start(*arguments: str, env: Mapping[str, str] | None = None) -> FullStack:
        stack = FullStack(guard, tmp_path / f"up-{len(started)}", *arguments, env=env)
        started.append(stack)
        return stack

    yield start
    for stack in started:
        stack.close()


@pytest.fixture
def service_env(kafka_bootstrap: str, database_url: str, names: Names, tmp_path: Path) -> dict[str, str]:
    """The environment of a service on the shared broker and server, with this test's topics, database and data folder.

    One data folder for all of a test's processes, as on one machine: their group instance ids come from locks in it.
    """
    return {
        "CLICKLEDGER_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "CLICKLEDGER_CLICKHOUSE_URL": database_url,
        "CLICKLEDGER_DATA": str(tmp_path / "data"),
        **names.env(),
    }


@pytest.fixture
def prepared_env(service_env: dict[str, str], names: Names) -> dict[str, str]:
    """`service_env` after what `clickledger setup` does: topics, stream record and table are there."""
    kafka = KafkaSettings(
        kafka_bootstrap=service_env["CLICKLEDGER_KAFKA_BOOTSTRAP"],
        topic_raw=names.raw,
        topic_enriched=names.enriched,
        topic_catalog=names.catalog,
        topic_webhooks=names.webhooks,
    )
    clickhouse = ClickHouseSettings(clickhouse_url=SecretStr(service_env["CLICKLEDGER_CLICKHOUSE_URL"]))
    asyncio.run(set_up(SetupSettings(kafka, clickhouse, CatalogSettings()), lambda _line: None))
    return service_env


RunService = Callable[..., Child]


@pytest.fixture
def run_service(guard: Guard, tmp_path: Path, prepared_env: dict[str, str]) -> Iterator[RunService]:
    """Start one service and wait until it is ready: `run_service("sink", CLICKLEDGER_LOG_LEVEL="DEBUG")`.

    Its output is in `.log`; it is ended with the test.
    """
    started: list[Child] = []

    def run(name: str, **settings: str) -> Child:
        log = tmp_path / f"{name}-{len(started)}.log"
        child = start_service(guard, name, log, {**prepared_env, **settings})
        started.append(child)
        return child

    yield run
    for child in reversed(started):
        child.kill()
