"""Topic configurations under which an acknowledged record can vanish, refused by `setup` and by services at start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from shared.errors import OperatorError


class TopicConfig(NamedTuple):
    """A topic's configuration, Kafka's own names."""

    effective: Mapping[str, str]
    own: frozenset[str]
    """Names that were set for this topic; the others are the broker's. None of a topic that a client called into being."""


def in_sync_min(replication_factor: int) -> int:
    """Replicas that must have a record before it counts as written: 2 of 3, so that one may be lost."""
    return 2 if replication_factor >= 3 else 1


def refuse_config(topic: str, found: TopicConfig, *, compacted: bool, replication_factor: int) -> None:
    """Raise OperatorError for a configuration under which an acknowledged record can vanish."""
    config = found.effective
    if not found.own:
        raise OperatorError(
            f"topic {topic} has no settings of its own: a client called it into being, not `clickledger setup`; switch "
            "auto.create.topics.enable off, delete the topic and run setup"
        )
    policy = set(config.get("cleanup.policy", "delete").split(","))
    if not compacted and "compact" in policy:
        raise OperatorError(f"topic {topic} is compacted: clicks would vanish; set cleanup.policy=delete")
    if compacted and policy != {"compact"}:
        raise OperatorError(f"topic {topic} has cleanup.policy={','.join(sorted(policy))}: set it to compact")
    if config.get("unclean.leader.election.enable", "false") != "false":
        raise OperatorError(f"topic {topic} allows unclean leader election: set unclean.leader.election.enable=false")
    in_sync = int(config.get("min.insync.replicas", "1"))
    if in_sync < in_sync_min(replication_factor):
        raise OperatorError(
            f"topic {topic} has min.insync.replicas={in_sync} at {replication_factor} replicas: set it to 2"
        )
