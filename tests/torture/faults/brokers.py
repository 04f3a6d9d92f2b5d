"""Kafka is away or frozen; and three brokers, of which one or two die, or each is restarted in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from shared.errors import TransientError
from shared.kafka import Admin
from tests.torture.faults.base import Fault, Scene
from tests.torture.world import Shape, World

THREE: Final = Shape(brokers=3)


def refusals(scene: Scene, besides: Sequence[str] = ()) -> list[str]:
    """Clicks that were not answered with 200: while the spool has room there may be none but those whose API died."""
    codes = {code: count for code, count in scene.load.tally.by_code.items() if code not in ("200", *besides)}
    return [f"answers other than 200: {codes}"] if codes else []


class KafkaAway(Fault):
    """Clicks go to the spool, are answered 200, and are published when Kafka is back."""

    name = "kafka-away-10-min"
    rounds = 1
    seconds = 660.0
    rate = 200.0
    away_s: ClassVar[float] = 600.0

    def inject(self, scene: Scene) -> None:
        """Kill the broker and leave it away."""
        scene.world.kill("broker")
        scene.world.sleep(self.away_s)

    def heal(self, scene: Scene) -> None:
        """Start it."""
        scene.world.start("broker")

    def problems(self, scene: Scene) -> list[str]:
        """No 5xx, no time-out."""
        return refusals(scene)


class FrozenBroker(Fault):
    """The broker's process is stopped: connections stay open and nobody answers."""

    name = "frozen-broker"
    rounds = 10
    seconds = 15.0
    frozen_s = (3.0, 8.0)

    def inject(self, scene: Scene) -> None:
        """SIGSTOP."""
        scene.world.freeze("broker")
        scene.world.sleep(scene.rng.uniform(*self.frozen_s))

    def heal(self, scene: Scene) -> None:
        """SIGCONT: it takes what still lies in its sockets."""
        scene.world.thaw("broker")

    def problems(self, scene: Scene) -> list[str]:
        """No 5xx, no time-out."""
        return refusals(scene)

    def tidy(self, scene: Scene) -> None:
        """Never leave it stopped."""
        scene.world.thaw("broker")


class FrozenBrokerDeadApi(FrozenBroker):
    """While the broker is frozen the API dies and comes back: the originals are replayed, and then arrive too."""

    name = "frozen-broker-dead-api"
    seconds = 18.0

    def inject(self, scene: Scene) -> None:
        """SIGSTOP, then `kill -9` of the API with all its workers, and a new one."""
        super().inject(scene)
        scene.world.kill("api")
        scene.world.start("api")

    def problems(self, scene: Scene) -> list[str]:
        """Who was answered got a 200; open requests of the dead API lost their connection."""
        return refusals(scene, ("connection lost", "500"))


async def _partitions(world: World, topic: str) -> list[Mapping[str, Any]]:
    async with Admin(world.located.kafka) as admin:
        (described,) = await admin._client.describe_topics([topic])
    found: list[Mapping[str, Any]] = described["partitions"]
    return found


def partitions(world: World) -> list[Mapping[str, Any]]:
    """Leader and in-sync replicas of the raw topic's partitions; none while no broker answers."""
    try:
        return asyncio.run(_partitions(world, world.located.kafka.topic_raw))
    except TransientError:
        return []


def is_in_sync(world: World) -> bool:
    """Whether every partition has all its replicas."""
    found = partitions(world)
    return bool(found) and all(len(each["isr"]) == world.shape.brokers for each in found)


class _ThreeBrokers(Fault):
    shape = THREE
    rounds = 7
    seconds = 24.0
    away_s = (2.0, 8.0)

    def __init__(self) -> None:
        self.killed: list[str] = []

    def prepare(self, scene: Scene) -> None:
        """Begin with all replicas in sync."""
        scene.world.wait(lambda: is_in_sync(scene.world), "all replicas are in sync")

    def heal(self, scene: Scene) -> None:
        """Start who died."""
        while self.killed:
            scene.world.start(self.killed.pop())

    def problems(self, scene: Scene) -> list[str]:
        """No 5xx, no time-out: two brokers are enough, and with one the spool takes over."""
        return refusals(scene)

    def kill(self, scene: Scene, brokers: Sequence[str]) -> None:
        """Kill these for some seconds."""
        for broker in brokers:
            scene.world.kill(broker)
            self.killed.append(broker)
        scene.notes.append(f"killed {', '.join(brokers)}")
        scene.world.sleep(scene.rng.uniform(*self.away_s))


class KillLeader(_ThreeBrokers):
    """The leader of a partition dies; another replica leads."""

    name = "three-brokers-kill-leader"

    def inject(self, scene: Scene) -> None:
        """Kill the leader of a random partition."""
        self.kill(scene, [f"broker-{scene.rng.choice(partitions(scene.world))['leader']}"])


class KillTwo(_ThreeBrokers):
    """One broker is left: too few replicas to take a click, so the spool takes it."""

    name = "three-brokers-kill-two"

    def inject(self, scene: Scene) -> None:
        """Kill any two at once."""
        self.kill(scene, scene.rng.sample(["broker-1", "broker-2", "broker-3"], 2))


class RollingRestart(_ThreeBrokers):
    """Each broker is stopped (SIGTERM) and started, one after the other, as in an upgrade."""

    name = "three-brokers-rolling-restart"
    rounds = 6
    seconds = 40.0

    def inject(self, scene: Scene) -> None:
        """The next one only when all replicas are in sync again."""
        for broker in ("broker-1", "broker-2", "broker-3"):
            scene.world.stop(broker)
            self.killed.append(broker)
            self.heal(scene)
            scene.world.wait(lambda: is_in_sync(scene.world), f"all replicas are in sync after {broker}")


FAULTS = (KafkaAway(), FrozenBroker(), FrozenBrokerDeadApi(), KillLeader(), KillTwo(), RollingRestart())
