"""A rebalance storm: members join and leave every two seconds under load."""

from __future__ import annotations

import os
import signal

from tests.support.processes import Child
from tests.torture.faults.base import Fault, Scene
from tests.torture.faults.takeovers import SESSION
from tests.torture.world import Shape

EXTRA = ("sink-2", "sink-3", "enricher-2", "enricher-3")


class RebalanceStorm(Fault):
    """Ten changes a round: a second or third sink or enricher joins, leaves (SIGTERM) or dies (SIGKILL)."""

    name = "rebalance-storm"
    rounds = 5
    seconds = 45.0
    shape = Shape(settings=SESSION)
    changes = 10
    every_s = 2.0

    def __init__(self) -> None:
        self.leaving: list[Child] = []

    def inject(self, scene: Scene) -> None:
        """Do not wait for anything but the time."""
        for _ in range(self.changes):
            name = scene.rng.choice(EXTRA)
            member = scene.world.members.pop(name, None)
            if member is None:
                scene.world.add(name)
                scene.notes.append(f"{name} joins")
            else:
                how = scene.rng.choice((signal.SIGTERM, signal.SIGKILL))
                os.killpg(member.running.pid, how)
                self.leaving.append(member.running)
                scene.notes.append(f"{name} {how.name}")
            scene.world.sleep(self.every_s)

    def heal(self, scene: Scene) -> None:
        """No further changes: the last ones stay or leave as they are."""
        while self.leaving:
            self.leaving.pop().stop()

    def tidy(self, scene: Scene) -> None:
        """End the extra members."""
        self.heal(scene)
        for name in EXTRA:
            scene.world.remove(name)


FAULTS = (RebalanceStorm(),)
