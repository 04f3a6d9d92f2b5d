"""Members that are stopped (SIGSTOP) for longer than their session, lose their partitions, and wake up."""

from __future__ import annotations

from pathlib import Path

from tests.torture.faults.base import Fault, Scene
from tests.torture.faults.takeovers import SESSION, SESSION_S
from tests.torture.world import Shape

STOPS = ("before:insert", "during:insert", "after:insert", "after:highest", "before:commit", "during:commit")
FRESH_S = 2.0
SMALL_WINDOW = 20
WINDOW = 100_000


class _Pause(Fault):
    """A second member gets partitions, is stopped, loses them, and goes on."""

    rounds = 20
    seconds = 16.0
    shape = Shape(settings=SESSION)
    second: str

    def prepare(self, scene: Scene) -> None:
        """Let a second member join."""
        scene.world.add(self.second)
        scene.world.wait_assigned(self.second)

    def inject(self, scene: Scene) -> None:
        """Stop it at a random moment, for longer than its session; others take over."""
        scene.world.freeze(self.second)
        self.pass_the_session(scene)

    def pass_the_session(self, scene: Scene) -> None:
        """Wait until the group has expelled it and the others store its partitions."""
        scene.world.sleep(SESSION_S + 0.5)
        scene.load.wait_for_rows()

    def heal(self, scene: Scene) -> None:
        """SIGCONT: it wakes in the middle of whatever it was doing."""
        scene.world.thaw(self.second)

    def tidy(self, scene: Scene) -> None:
        """End the second member."""
        if self.second in scene.world.members:
            scene.world.thaw(self.second)
        scene.world.remove(self.second)


class StopEnricher(_Pause):
    """It wakes up and writes what its successor has long written."""

    name = "stop-enricher"
    second = "enricher-2"


class StopSink(_Pause):
    """It wakes up between planning, asking, inserting and committing, often in mid-insert."""

    name = "stop-sink"
    second = "sink-2"
    stops = STOPS

    def why_not(self) -> str:
        """It sees from outside whether a process has stopped itself."""
        return "" if Path("/proc/self/stat").exists() else "there is no /proc to see a stopped process in"

    def prepare(self, scene: Scene) -> None:
        """Let a second sink join that stops itself at a chosen call."""
        point = f"{scene.rng.choice(self.stops)}:{scene.rng.randint(2, 12)}:STOP"
        scene.notes.append(point)
        scene.world.add(self.second, module=("tests.support.sink_faults", point))
        scene.world.wait_assigned(self.second)

    def inject(self, scene: Scene) -> None:
        """Wait until it has stopped, and its session is over."""
        scene.world.wait(lambda: scene.world.is_stopped(self.second), "the second sink stops itself")
        self.pass_the_session(scene)


class StopSinkBeyondWindow(StopSink):
    """While it is stopped so many blocks are stored that ClickHouse forgets the token of its own."""

    name = "stop-sink-beyond-window"
    seconds = 18.0
    shape = Shape(
        settings=(
            *SESSION,
            ("CLICKLEDGER_SINK_ANSWER_AGE_MS_MAX", str(round(FRESH_S * 1000))),
            ("CLICKLEDGER_SINK_INSERT_TIMEOUT_MS", str(round(FRESH_S * 1000))),
        )
    )
    stops = ("after:insert", "after:highest", "before:commit", "during:commit", "before:highest")

    def inject(self, scene: Scene) -> None:
        """Make the window small once all sinks have started: they refuse to start with one that is."""
        scene.world.wait(lambda: scene.world.is_stopped(self.second), "the second sink stops itself")
        self._set_window(scene, SMALL_WINDOW)
        inserts = self._inserts(scene)
        self.pass_the_session(scene)
        scene.world.wait(lambda: self._inserts(scene) > inserts + 2 * SMALL_WINDOW, "the window is passed")

    def _inserts(self, scene: Scene) -> int:
        found = scene.world.query(
            "SELECT max(max_block_number) AS number FROM system.parts WHERE database = currentDatabase() AND table = 'clicks'"
        )
        return int(found[0]["number"]) if found else 0

    def tidy(self, scene: Scene) -> None:
        """Restore the window for the next sink that starts."""
        super().tidy(scene)
        self._set_window(scene, WINDOW)

    def _set_window(self, scene: Scene, blocks: int) -> None:
        scene.world.sql(f"ALTER TABLE clicks MODIFY SETTING non_replicated_deduplication_window = {blocks}")


FAULTS = (StopSink(), StopEnricher(), StopSinkBeyondWindow())
