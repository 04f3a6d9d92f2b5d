"""The services' wall clocks are set forward and back by hours, or pass midnight; the database keeps the machine's."""

from __future__ import annotations

import time
from typing import Final

from tests.torture.faults.base import Fault, Scene
from tests.torture.world import Shape

CLOCKED: Final = Shape(is_clocked=True)
DAY_S: Final = 86_400.0
HOUR_S: Final = 3_600.0


class ClockJumps(Fault):
    """Somebody sets the clock, wrongly, and sets it right again; all services see it at once."""

    name = "clock-jumps"
    rounds = 5
    seconds = 16.0
    shape = CLOCKED
    jumps = 3

    def inject(self, scene: Scene) -> None:
        """Jump forward and back by up to twelve hours, for some blocks each time."""
        for _ in range(self.jumps):
            hours = scene.rng.choice((-1, 1)) * scene.rng.uniform(1, 12)
            scene.notes.append(f"{hours:+.2f} h")
            scene.world.clock.set(hours * HOUR_S)
            scene.load.wait_for_rows()
            scene.world.sleep(1.0)

    def heal(self, scene: Scene) -> None:
        """Set it right."""
        scene.world.clock.set(0)


class Midnight(Fault):
    """The UTC day changes in the middle of a block."""

    name = "midnight"
    rounds = 5
    seconds = 11.0
    shape = CLOCKED
    before_s = (0.3, 1.5)

    def prepare(self, scene: Scene) -> None:
        """Bring the clock to shortly before midnight."""
        self.ahead_s = scene.rng.uniform(*self.before_s)
        scene.world.clock.set(DAY_S - self.ahead_s - time.time() % DAY_S)

    def inject(self, scene: Scene) -> None:
        """Let it pass."""
        scene.world.sleep(self.ahead_s + 1.0)

    def heal(self, scene: Scene) -> None:
        """It is a new day."""

    def problems(self, scene: Scene) -> list[str]:
        """Rows of both days must be there, else nothing was tried."""
        days = scene.world.query(
            f"SELECT DISTINCT toDate(received_at, 'UTC') AS day FROM clicks WHERE short_url LIKE '%={scene.load.run}&%'"
        )
        return [] if len(days) > 1 else [f"the load lies within one day: {days}"]

    def tidy(self, scene: Scene) -> None:
        """Set the clock right."""
        scene.world.clock.set(0)


FAULTS = (ClockJumps(), Midnight())
