"""What a fault is: it is injected at a random moment of a load, it is healed, and the oracle judges."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import ClassVar

from tests.torture.load import Load
from tests.torture.world import Shape, World


@dataclass
class Scene:
    """One round as a fault sees it."""

    world: World
    load: Load
    rng: random.Random
    notes: list[str] = field(default_factory=list)
    """what was special about this round, for the record"""


class Fault:
    """Injected by `inject`, healed by `heal`; one object serves all rounds, what a round needs to remember is in it."""

    name: ClassVar[str]
    rounds: ClassVar[int]
    """in the long form"""
    seconds: ClassVar[float] = 7.0
    """what a round takes on a quiet machine with two cores, for the plan of a run"""
    shape: ClassVar[Shape] = Shape()
    rate: ClassVar[float] = 400.0
    """clicks per second"""
    moment_s: ClassVar[tuple[float, float]] = (0.1, 1.5)
    """when it is injected, after rows of the load are stored"""

    def why_not(self) -> str:
        """Why it cannot be run here; empty when it can."""
        return ""

    def prepare(self, scene: Scene) -> None:
        """Make ready what the load must already meet; the load runs."""

    def inject(self, scene: Scene) -> None:
        """Do the damage."""
        raise NotImplementedError

    def heal(self, scene: Scene) -> None:
        """End it, as an operator or an orchestrator does."""
        raise NotImplementedError

    def problems(self, scene: Scene) -> list[str]:
        """What is not as promised beyond the oracle's questions, after the load has ended."""
        return []

    def tidy(self, scene: Scene) -> None:
        """Take away what only this round needed, whatever its end."""
