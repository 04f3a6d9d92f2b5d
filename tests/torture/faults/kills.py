"""`kill -9` of each part, and of all parts at once, at random moments; each is started again at once."""

from __future__ import annotations

import os
import signal

from tests.torture.faults.base import Fault, Scene

PARTS = ("api", "enricher", "sink", "clickhouse", "broker")


class KillApiWorker(Fault):
    """One of the two workers dies; its parent starts it again, the other one serves meanwhile."""

    name = "kill-api-worker"
    rounds = 40

    def inject(self, scene: Scene) -> None:
        """Kill a random worker."""
        os.kill(scene.rng.choice(scene.world.workers()), signal.SIGKILL)

    def heal(self, scene: Scene) -> None:
        """The parent process does it."""


class _KillPart(Fault):
    """One part dies and is started again."""

    rounds = 40
    part: str

    def inject(self, scene: Scene) -> None:
        """Kill it."""
        scene.world.kill(self.part)

    def heal(self, scene: Scene) -> None:
        """Start it again at once."""
        scene.world.start(self.part)


class KillEnricher(_KillPart):
    """The enricher dies between reading, writing and committing."""

    name = "kill-enricher"
    part = "enricher"


class KillSink(_KillPart):
    """The sink dies between planning, inserting and committing."""

    name = "kill-sink"
    part = "sink"


class KillClickHouse(_KillPart):
    """The database dies with inserts in flight."""

    name = "kill-clickhouse"
    part = "clickhouse"


class KillBroker(_KillPart):
    """The only broker dies with batches and commits in flight."""

    name = "kill-broker"
    part = "broker"


class KillAll(Fault):
    """Everything dies at once and comes back in any order."""

    name = "kill-all"
    rounds = 40
    seconds = 12.0

    def inject(self, scene: Scene) -> None:
        """Signal all before waiting for any."""
        world = scene.world
        for part in scene.rng.sample(PARTS, len(PARTS)):
            os.killpg(world.pid(part), signal.SIGKILL)
        for part in PARTS:
            world.kill(part)

    def heal(self, scene: Scene) -> None:
        """Start all, services before the stores they need as often as after them."""
        order = scene.rng.sample(PARTS, len(PARTS))
        scene.notes.append(f"started in the order {', '.join(order)}")
        for part in order:
            scene.world.start(part)


FAULTS = (KillApiWorker(), KillEnricher(), KillSink(), KillClickHouse(), KillBroker(), KillAll())
