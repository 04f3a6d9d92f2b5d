"""The same broker and server from the official images, for `--stack containers`; needs a Docker engine."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from clickledger.stack.broker import CLUSTER_ID
from clickledger.stack.ports import free_ports
from clickledger.topics import in_sync_min
from tests.support.clickhouse import OWNER_PASSWORD, READER_PASSWORD, http_ok
from tests.support.processes import accepts

KAFKA_IMAGE = "apache/kafka:4.1.0"
CLICKHOUSE_IMAGE = "clickhouse/clickhouse-server:25.8"
_READY_SECONDS_MAX = 120.0


def require_docker() -> None:
    """Skip the test when there is no Docker engine; the only skip that the test suite knows."""
    sockets = [Path("/var/run/docker.sock"), Path.home() / ".docker" / "run" / "docker.sock"]
    if not os.environ.get("DOCKER_HOST") and not any(map(_listens, sockets)):
        pytest.skip("--stack containers needs a Docker engine, and none listens here")


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


class ContainerBrokers:
    """Kafka brokers in containers, with the interface of `LocalBrokers`."""

    def __init__(self, count: int = 1) -> None:
        """Start `count` brokers and wait until each accepts connections."""
        require_docker()
        self._network = Network()
        self._network.create()
        self._ports = dict(enumerate(free_ports(count), start=1))
        self._containers = {node_id: self._make(node_id) for node_id in self._ports}
        for container in self._containers.values():
            container.start()
        self._stopped: set[int] = set()
        self.ensure_all()

    @property
    def bootstrap(self) -> str:
        """`host:port[,…]`."""
        return ",".join(f"localhost:{port}" for port in self._ports.values())

    def ensure_all(self) -> None:
        """Start what does not run and wait for it."""
        for node_id in self._stopped:
            self._containers[node_id].get_wrapped_container().start()
        self._stopped = set()
        for port in self._ports.values():
            _wait(port, partial(accepts, port, "localhost"))

    def start(self, node_id: int) -> None:
        """Start a broker that was killed or stopped, and wait until it accepts connections."""
        self._stopped.add(node_id)
        self.ensure_all()

    def kill(self, node_id: int) -> None:
        """End it as `kill -9` does; its data stays in the container."""
        self._containers[node_id].get_wrapped_container().kill()
        self._stopped.add(node_id)

    def stop(self, node_id: int) -> None:
        """SIGTERM: hands over its leaderships first."""
        self._containers[node_id].get_wrapped_container().stop()
        self._stopped.add(node_id)

    def close(self) -> None:
        """Remove the containers."""
        for container in self._containers.values():
            container.stop(force=True)
        self._network.remove()

    def _make(self, node_id: int) -> DockerContainer:
        port = self._ports[node_id]
        container = DockerContainer(KAFKA_IMAGE).with_bind_ports(port, port)
        container.with_network(self._network).with_network_aliases(f"broker-{node_id}")
        for name, text in _kafka_environment(node_id, port, len(self._ports)).items():
            container.with_env(name, text)
        return container


def _kafka_environment(node_id: int, port: int, count: int) -> dict[str, str]:
    """Clients of this machine use their own listener, since an advertised address must be right from where it is used."""
    replicas, in_sync = str(count), str(in_sync_min(count))
    return {
        "CLUSTER_ID": CLUSTER_ID,
        "KAFKA_NODE_ID": str(node_id),
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": ",".join(f"{number}@broker-{number}:9093" for number in range(1, count + 1)),
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_INTER_BROKER_LISTENER_NAME": "INTERNAL",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_LISTENERS": f"PLAINTEXT://:{port},INTERNAL://:9094,CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://localhost:{port},INTERNAL://broker-{node_id}:9094",
        "KAFKA_DEFAULT_REPLICATION_FACTOR": replicas,
        "KAFKA_MIN_INSYNC_REPLICAS": in_sync,
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": replicas,
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": replicas,
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": in_sync,
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
        "KAFKA_MESSAGE_MAX_BYTES": str(8 << 20),
    }


class ContainerClickHouse:
    """ClickHouse in a container, with the interface of `LocalClickHouse`."""

    def __init__(self) -> None:
        """Start it and wait until it answers."""
        require_docker()
        (self.port,) = free_ports(1)
        self._container = DockerContainer(CLICKHOUSE_IMAGE).with_bind_ports(8123, self.port)
        self._container.with_env("CLICKHOUSE_USER", "default").with_env("CLICKHOUSE_PASSWORD", OWNER_PASSWORD)
        self._container.with_env("CLICKHOUSE_DEFAULT_ACCESS_MANAGEMENT", "1")
        self._container.start()
        self._wait()

    @property
    def url(self) -> str:
        """The owner's access, without a database."""
        return f"http://default:{OWNER_PASSWORD}@localhost:{self.port}"

    @property
    def reader_url(self) -> str:
        """Read-only access, for whoever has made the user (CREATE USER needs a server that stores users)."""
        return f"http://reader:{READER_PASSWORD}@localhost:{self.port}"

    def kill(self) -> None:
        """End it as `kill -9` does; its data stays in the container."""
        self._container.get_wrapped_container().kill()

    def stop(self) -> int:
        """SIGTERM; gives the exit status."""
        wrapped = self._container.get_wrapped_container()
        wrapped.stop()
        return int(wrapped.wait()["StatusCode"])

    def start(self) -> None:
        """Start it again and wait until it answers."""
        self._container.get_wrapped_container().start()
        self._wait()

    def close(self) -> None:
        """Remove the container."""
        self._container.stop(force=True)

    def _wait(self) -> None:
        _wait(self.port, partial(http_ok, self.port, "/ping", "localhost"))


def _wait(port: int, is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_SECONDS_MAX
    while not is_ready():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the container on port {port} was not ready within {_READY_SECONDS_MAX:.0f} s")
        time.sleep(0.2)
