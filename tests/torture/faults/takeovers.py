"""A sink takes over while the broker that has its plans dies; commits that are begun before a rebalance and end after it."""

from __future__ import annotations

from typing import Final

from tests.torture.faults.base import Fault, Scene
from tests.torture.world import Shape

SESSION_S: Final = 4.0
SESSION: Final = (
    ("CLICKLEDGER_KAFKA_SESSION_TIMEOUT_MS", str(round(SESSION_S * 1000))),
    ("CLICKLEDGER_KAFKA_HEARTBEAT_MS", "1000"),
)
"""Shorter than by default, so that more rounds fit into an hour."""


class BrokerDiesDuringTakeover(Fault):
    """The sink's successor finds no plans to read for a while: unknown must not be taken for none."""

    name = "takeover-without-broker"
    rounds = 20
    seconds = 12.0

    def inject(self, scene: Scene) -> None:
        """Kill the sink, start it again, and kill the broker as it joins the group or reads its plans."""
        world = scene.world
        world.kill("sink")
        before = len(world.assigned("sink"))
        world.start("sink")
        if scene.rng.random() < 0.5:
            world.wait(lambda: len(world.assigned("sink")) > before, "the sink is assigned partitions")
        else:
            world.sleep(scene.rng.uniform(0.5, 3.0))
        world.kill("broker")
        world.sleep(scene.rng.uniform(0.2, 3.0))

    def heal(self, scene: Scene) -> None:
        """Start the broker again."""
        scene.world.start("broker")


class LateCommit(Fault):
    """Some commits reach the broker seconds late; a second sink joins and dies meanwhile."""

    name = "late-commit"
    rounds = 20
    seconds = 12.0
    shape = Shape(settings=SESSION, modules=(("sink", ("tests.torture.late_commits",)),))

    def inject(self, scene: Scene) -> None:
        """Let a second sink join: partitions move while commits are under way."""
        scene.world.add("sink-2")
        scene.world.wait_assigned("sink-2")
        scene.load.wait_for_rows()

    def heal(self, scene: Scene) -> None:
        """Kill it or have it leave: partitions move again."""
        if scene.rng.random() < 0.5:
            scene.world.kill("sink-2")
        else:
            scene.world.stop("sink-2")
        scene.world.members.pop("sink-2")

    def tidy(self, scene: Scene) -> None:
        """End the second sink, if the round ended early."""
        scene.world.remove("sink-2")


FAULTS = (BrokerDiesDuringTakeover(), LateCommit())
