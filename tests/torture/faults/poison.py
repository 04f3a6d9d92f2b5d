"""Records that no program of ours wrote, as raw clicks and as enriched ones, among good clicks."""

from __future__ import annotations

import asyncio
from typing import Final

from clickledger.audit_run import read_stream
from clickledger.stack.bootstrap import DEFAULT_TENANT
from tests.support.poison import LARGE, poison
from tests.torture.faults.base import Fault, Scene

RECORDS: Final = 1_000
"""A round's; half of them raw."""


class Poison(Fault):
    """Each raw one becomes one row that says what is wrong with it; enriched ones become none; the rest goes on."""

    name = "poison"
    rounds = 10
    seconds = 10.0

    def inject(self, scene: Scene) -> None:
        """Write them into all partitions."""
        world = scene.world
        record, _ = asyncio.run(read_stream(world.located))
        partitions = world.located.kafka.partitions
        seed = scene.rng.getrandbits(32)
        bootstrap = world.brokers.bootstrap
        world.foreign_rows += RECORDS // 2 + len(LARGE)
        poison(bootstrap, record.stream, DEFAULT_TENANT, partitions=partitions, count=RECORDS, seed_number=seed)

    def heal(self, scene: Scene) -> None:
        """They are rows, or nothing."""


FAULTS = (Poison(),)
