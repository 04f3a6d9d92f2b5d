"""The local Kafka broker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clickledger.stack.broker import local_cluster
from clickledger.stack.guard import Guard
from clickledger.stack.jars import cache_folder, ensure_jars
from clickledger.stack.java_archive import ensure_archive
from clickledger.stack.ports import free_ports
from tests.support.brokers import LocalBrokers
from tests.support.processes import Child, accepts, wait_until


def test_it_keeps_its_port_and_starts_again_after_a_kill(brokers: LocalBrokers) -> None:
    """A killed broker comes back on the same address from the same folder."""
    before = brokers.bootstrap
    brokers.kill(1)
    brokers.start(1)
    assert brokers.bootstrap == before


@pytest.mark.parametrize("damage", ["missing", "other bytes", "cut off", "a few bytes changed"])
def test_a_broker_starts_without_a_sound_archive(guard: Guard, tmp_path: Path, damage: str) -> None:
    """The archive of Kafka's classes makes a start faster and is never needed for it."""
    jars = ensure_jars(cache_folder(os.environ), say=print)
    cluster = local_cluster(tmp_path, jars, free_ports(1), free_ports(1))
    ensure_archive(jars, say=print)
    archive = tmp_path / "damaged.aot"
    content = bytearray(cluster.archive.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 400] = b"x" * 400
    found = {"other bytes": b"x" * 5_000, "cut off": content[: len(content) // 2], "a few bytes changed": content}
    if damage in found:
        archive.write_bytes(found[damage])
    cluster.prepare()
    (node,) = cluster.nodes
    command = [part.replace(str(cluster.archive), str(archive)) for part in cluster.command(node)]
    child = Child(guard, command, tmp_path / "console.log")
    wait_until(lambda: accepts(node.port), child, "the broker")
    child.kill()
