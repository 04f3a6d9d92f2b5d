"""A local Kafka cluster for tests: one broker or three, each of which can be killed and started again."""

from __future__ import annotations

import os
from pathlib import Path

from clickledger.stack.broker import Node, local_cluster
from clickledger.stack.guard import Guard
from clickledger.stack.jars import cache_folder, ensure_jars
from clickledger.stack.ports import free_ports
from tests.support.processes import Child, accepts, wait_until


class LocalBrokers:
    """A running cluster; `close()` ends it."""

    def __init__(self, guard: Guard, folder: Path, count: int = 1) -> None:
        """Format and start `count` brokers and wait until each accepts connections."""
        self._guard = guard
        jars = ensure_jars(cache_folder(os.environ), say=print)
        self.cluster = local_cluster(folder, jars, free_ports(count), free_ports(count))
        self.cluster.prepare()
        self._children: dict[int, Child] = {}
        self.ensure_all()

    @property
    def bootstrap(self) -> str:
        """`host:port[,…]`."""
        return self.cluster.bootstrap

    def ensure_all(self) -> None:
        """Start what does not run and wait for it."""
        for node in self.cluster.nodes:
            if node.node_id not in self._children:
                self._spawn(node)
        for node in self.cluster.nodes:
            self._wait(node)

    def start(self, node_id: int) -> None:
        """Start a broker that was killed or stopped, and wait until it accepts connections."""
        node = self._node(node_id)
        self._spawn(node)
        self._wait(node)

    def kill(self, node_id: int) -> None:
        """End it as `kill -9` does."""
        self._children.pop(node_id).kill()

    def stop(self, node_id: int) -> None:
        """SIGTERM: hands over its leaderships first."""
        self._children.pop(node_id).stop()

    def pid(self, node_id: int = 1) -> int:
        """Process id of a running broker."""
        return self._children[node_id].pid

    def close(self) -> None:
        """End all; nothing of a test's data is worth a graceful stop."""
        for node_id in list(self._children):
            self.kill(node_id)

    def _node(self, node_id: int) -> Node:
        return next(node for node in self.cluster.nodes if node.node_id == node_id)

    def _spawn(self, node: Node) -> None:
        command = self.cluster.command(node)
        self._children[node.node_id] = Child(self._guard, command, node.folder / "console.log")

    def _wait(self, node: Node) -> None:
        child = self._children[node.node_id]
        wait_until(lambda: accepts(node.port), child, f"broker {node.node_id}")
