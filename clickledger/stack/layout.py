"""What `clickledger up` runs: ports, folders, environment and readiness of each process. Starts nothing."""

from __future__ import annotations

import asyncio
import http.client
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from clickledger.stack import ready
from clickledger.stack.broker import Cluster, Node, local_cluster
from clickledger.stack.ports import HOST, Ports, choose_ports, free_ports, taken
from clickledger.stack.supervisor import Spec, python_command
from shared import health_files
from shared.errors import OperatorError
from shared.settings import CatalogSettings, ClickHouseSettings, KafkaSettings, load

if TYPE_CHECKING:
    from clickledger.setup import SetupSettings

DATABASE = "clickledger"
_PROBE_SECONDS_MAX = 2.0

# Shorter than on machines of their own, since here the parts stop one after the other; the environment may say otherwise.
_STOP_DEADLINE_MS = "5000"

# Services in the order in which they stop: intake first, so that what was taken can still flow.
SERVICES = ("api", "enricher", "sink", "reporting", "deliverer")


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked `up` for."""

    data: Path
    port: int = 8080  # first of four; 0 picks free ones
    brokers: int = 1
    ready_file: Path | None = None
    is_demo: bool = False
    is_exit: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """One stack's addresses, folders and environment."""

    options: Options
    ports: Ports
    cluster: Cluster
    passwords: Mapping[str, str]  # of ClickHouse's owner (`default`) and of the services' users, new at every start

    @property
    def clickhouse_url(self) -> str:
        """For people and tools."""
        return f"http://{HOST}:{self.ports.clickhouse}"

    def clickhouse_as(self, user: str) -> str:
        """The same with user, password and database: `default` for what changes tables, else a service's name."""
        return f"http://{user}:{self.passwords[user]}@{HOST}:{self.ports.clickhouse}/{DATABASE}"

    def settings(self) -> dict[str, str]:
        """The `CLICKLEDGER_*` variables of every child."""
        replicas = str(len(self.cluster.nodes))
        return {
            "CLICKLEDGER_DATA": str(self.options.data),
            "CLICKLEDGER_KAFKA_BOOTSTRAP": self.cluster.bootstrap,
            "CLICKLEDGER_REPLICATION_FACTOR": replicas,
            "CLICKLEDGER_API_HOST": HOST,
            "CLICKLEDGER_API_PORT": str(self.ports.api),
            "CLICKLEDGER_REPORTING_HOST": HOST,
            "CLICKLEDGER_REPORTING_PORT": str(self.ports.reports),
            **{f"CLICKLEDGER_{name.upper()}_HEALTH_PORT": "0" for name in SERVICES},
        }


def lay_out(options: Options, jars: Sequence[Path]) -> Layout:
    """Choose ports and folders. Raises OperatorError when a named port is taken or the broker count changed."""
    ports = choose_ports(options.port)
    public = [ports.api, ports.reports, ports.clickhouse, ports.kafka]
    if occupied := taken(public):
        raise OperatorError(f"port {occupied[0]} is taken: stop what listens there, or choose others with --port N")
    folder = options.data / "kafka"
    made_with = len(list(folder.glob("broker-*")))
    if made_with not in (0, options.brokers):
        raise OperatorError(
            f"{options.data} was made with --brokers {made_with}: go on with that, or use another --data"
        )
    more = free_ports(2 * options.brokers - 1, besides=public)
    cluster = local_cluster(folder, jars, [ports.kafka, *more[options.brokers :]], more[: options.brokers])
    passwords = {user: secrets.token_urlsafe(24) for user in ("default", *_WITH_DATABASE)}
    return Layout(options, ports, cluster, passwords)


_WITH_DATABASE = ("sink", "reporting")
"""Services that talk to ClickHouse, each as a user of its name with the rights that it needs."""

_WITH_SECRETS = ("reporting", "deliverer")
"""Services that open what is sealed."""


def broker_spec(layout: Layout, node: Node, environ: Mapping[str, str]) -> Spec:
    """One Kafka broker. A KRaft broker accepts connections once it is registered and unfenced."""
    name = "broker" if len(layout.cluster.nodes) == 1 else f"broker-{node.node_id}"
    return Spec(name, layout.cluster.command(node), environ, lambda _pid: accepts(node.port))


def clickhouse_spec(layout: Layout, environ: Mapping[str, str]) -> Spec:
    """The ClickHouse engine behind its HTTP protocol."""
    command = python_command(
        "-m",
        "clickledger.clickhouse_server",
        *("--path", str(layout.options.data / "clickhouse")),
        *("--port", str(layout.ports.clickhouse)),
        *("--database", DATABASE),
        *("--catalog", str(layout.options.data / "reporting-catalog")),
    )
    env = {
        **environ,
        "CLICKLEDGER_CLICKHOUSE_PASSWORD": layout.passwords["default"],
        **{f"CLICKLEDGER_CLICKHOUSE_{user.upper()}_PASSWORD": layout.passwords[user] for user in _WITH_DATABASE},
        # Read-only, this machine, all tenants: curl, DBeaver, Grafana. With 0, reading needs a tenant's key.
        "CLICKLEDGER_CLICKHOUSE_ANONYMOUS_READER": environ.get("CLICKLEDGER_CLICKHOUSE_ANONYMOUS_READER", "1"),
    }
    return Spec("clickhouse", command, env, lambda _pid: answers(layout.ports.clickhouse, "/ping"))


def setup_settings(layout: Layout) -> SetupSettings:
    """What `clickledger setup` would be told by the services' environment, and a copy of the catalog that is kept."""
    from clickledger.setup import SetupSettings  # imported late: see up.py

    kafka = {"kafka_bootstrap": layout.cluster.bootstrap, "replication_factor": len(layout.cluster.nodes)}
    owner = {"clickhouse_url": SecretStr(layout.clickhouse_as("default"))}
    return SetupSettings(
        load(KafkaSettings).model_copy(update=kafka),
        load(ClickHouseSettings).model_copy(update=owner),
        load(CatalogSettings),
        layout.options.data / "up-catalog",
    )


def service_spec(layout: Layout, name: str, environ: Mapping[str, str]) -> Spec:
    """One of the services; ready when its own `/readyz` says so."""
    probes: dict[str, Callable[[int], Awaitable[bool]]] = {
        "api": lambda _pid: answers(layout.ports.api, "/readyz"),
        "reporting": lambda _pid: answers(layout.ports.reports, "/readyz"),
    }

    async def by_health_port(pid: int) -> bool:
        port = health_files.read_port(layout.options.data, name, pid)
        return port is not None and await answers(port, "/readyz")

    env = {"CLICKLEDGER_STOP_DEADLINE_MS": _STOP_DEADLINE_MS, **environ, **layout.settings()}
    env.pop("CLICKLEDGER_CLICKHOUSE_URL", None)
    if name in _WITH_DATABASE:
        env["CLICKLEDGER_CLICKHOUSE_URL"] = layout.clickhouse_as(name)
    if name in _WITH_SECRETS and not env.get("CLICKLEDGER_SECRET_KEY"):
        env["CLICKLEDGER_SECRET_KEY"] = ready.secret_key(layout.options.data)
    return Spec(name, _cli(name), env, probes.get(name, by_health_port))


def _cli(name: str) -> list[str]:
    return python_command("-m", "clickledger", name)


def worker_pids(data: Path, service: str) -> list[int]:
    """Processes that work below a service's own one, by the marks they leave; empty for a service of one process."""
    return health_files.living(data, f"{service}-worker")


def is_alive(pid: int) -> bool:
    """Whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


async def accepts(port: int) -> bool:
    """Whether a connection to the local port is accepted."""
    try:
        _reader, writer = await asyncio.wait_for(asyncio.open_connection(HOST, port), _PROBE_SECONDS_MAX)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def answers(port: int, path: str) -> bool:
    """Whether GET on the local port is answered with 200."""
    return await asyncio.to_thread(_answers, port, path)


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=_PROBE_SECONDS_MAX)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def ready_object(
    layout: Layout, tenant: str, short_url: str, keys: Mapping[str, ready.TenantKeys], pids: ready.Pids
) -> ready.Ready:
    """What the ready file says about a running stack."""
    own = keys[tenant]
    return ready.Ready(
        api=f"http://{HOST}:{layout.ports.api}",
        reports=f"http://{HOST}:{layout.ports.reports}",
        clickhouse=layout.clickhouse_url,
        database=DATABASE,
        kafka=layout.cluster.bootstrap,
        data=str(layout.options.data),
        tenant=tenant,
        key=own.key,
        reports_key=own.reports_key,
        admin_key=own.admin_key,
        short_url=short_url,
        pids=pids,
        clickhouse_owner=layout.clickhouse_as("default"),
        keys=dict(keys),
    )
