"""The broker's settings."""

from __future__ import annotations

from pathlib import Path

from clickledger.stack.broker import Node, properties, render_properties
from clickledger.stack.ports import HOST

ONE = (Node(1, Path("/d/broker-1"), 9092, 9093),)
THREE = tuple(Node(number, Path(f"/d/broker-{number}"), 9092 + number, 9192 + number) for number in (1, 2, 3))


def test_one_broker_has_one_replica_of_everything() -> None:
    """A single broker can serve groups and transactions."""
    found = properties(ONE[0], ONE)
    assert {found[name] for name in found if name.endswith("replication.factor")} == {"1"}
    assert found["min.insync.replicas"] == found["transaction.state.log.min.isr"] == "1"


def test_three_brokers_survive_the_loss_of_one() -> None:
    """Three replicas of everything, two in sync for an acknowledgement."""
    found = properties(THREE[1], THREE)
    assert {found[name] for name in found if name.endswith("replication.factor")} == {"3"}
    assert found["min.insync.replicas"] == found["transaction.state.log.min.isr"] == "2"
    assert found["controller.quorum.voters"] == ",".join(f"{n.node_id}@{HOST}:{n.controller_port}" for n in THREE)


def test_nothing_listens_beyond_this_machine_and_nothing_is_lost() -> None:
    """Loopback only; no auto-created topics, no unclean election."""
    found = properties(ONE[0], ONE)
    assert all(f"//{HOST}:" in each for each in found["listeners"].split(","))
    assert found["auto.create.topics.enable"] == found["unclean.leader.election.enable"] == "false"


def test_paths_survive_the_properties_format() -> None:
    """A back-slash is doubled, because that format reads it as an escape."""
    assert render_properties({"log.dirs": "/a\\b"}) == "log.dirs=/a\\\\b\n"
