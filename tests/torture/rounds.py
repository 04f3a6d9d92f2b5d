"""Runs rounds: load, fault, repair, oracle, record. Rounds of one shape share a world until one of them fails."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from clickledger.load.pump import Unreachable
from clickledger.stack.guard import Guard
from tests.torture.faults.base import Fault, Scene
from tests.torture.load import Load
from tests.torture.oracle import Verdict, judge, judge_again
from tests.torture.world import Shape, Stuck, World

TAIL_S: Final = 0.3
"""Load goes on for so long after all has recovered."""

Say = Callable[[str], None]


@dataclass
class Round:
    """The record of one round; times in seconds, counts in clicks."""

    fault: str
    seed: str
    at: str
    sent: int = 0
    answered: int = 0
    """attempts answered with 200"""
    unknown: int = 0
    """attempts without an answer, or with a 5xx"""
    unknown_stored: int = 0
    refused: int = 0
    lost: int = 0
    double: int = 0
    stall_answers_s: float = 0.0
    stall_rows_s: float = 0.0
    recovery_s: float = 0.0
    """from the repair until clicks sent after it are stored on every partition"""
    seconds: float = 0.0
    deaths: int = 0
    """services that ended by themselves"""
    by_code: Mapping[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """everything that was not as promised; empty in a good round"""

    @property
    def is_good(self) -> bool:
        """Whether the promise held."""
        return not self.problems

    def line(self) -> str:
        """The round on one line."""
        verdict = "clean" if self.is_good else "FAILED: " + " | ".join(self.problems)
        extra = f" ({self.unknown_stored:,} stored)" if self.unknown else ""
        deaths = f", {self.deaths} services ended by themselves" if self.deaths else ""
        return (
            f"{self.sent:,} sent, {self.answered:,} x 200, {self.unknown:,} unknown{extra}, {self.lost} lost, "
            f"{self.double} double; no 200 for {self.stall_answers_s:.1f} s, no row for {self.stall_rows_s:.1f} s, "
            f"recovered in {self.recovery_s:.1f} s{deaths}; {verdict} ({self.seconds:.1f} s)"
        )

    def as_record(self) -> dict[str, Any]:
        """The round for the JSON file, without what says nothing."""
        found = {name: round(each, 2) if isinstance(each, float) else each for name, each in asdict(self).items()}
        return {name: each for name, each in found.items() if each not in ([], {}) or name == "fault"}


class Session:
    """Keeps one world for the rounds of one shape; a failed round's folder is kept for the one who looks for the cause."""

    def __init__(self, guard: Guard, folder: Path, say: Say) -> None:
        self._guard, self._folder, self._say = guard, folder, say
        self._world: World | None = None
        self._loads: list[Load] = []
        self._worlds = 0
        self.kept: list[Path] = []
        self.late: list[str] = []
        """what was not as promised when a world's rounds were compared once more at its end"""

    def run(self, fault: Fault, seed: str) -> Round:
        """Run one round; `seed` decides its moments and its clicks."""
        began = time.monotonic()
        made = Round(fault.name, seed, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        world = self.world(fault.shape)
        deaths = world.deaths
        rng = random.Random(seed)
        load = Load(world, rng.getrandbits(32), fault.rate)
        self._loads.append(load)
        scene = Scene(world, load, rng)
        try:
            self._suffer(fault, scene, made)
        except (Stuck, Unreachable, OSError, RuntimeError, AssertionError) as exc:
            made.problems.append(f"{type(exc).__name__}: {exc}")
        else:
            verdict = asyncio.run(judge(world, load))
            self._fill(made, verdict)
            made.problems += fault.problems(scene)
        finally:
            fault.tidy(scene)
        made.sent, made.refused = load.books.sent, load.books.refused
        made.answered, made.unknown = load.tally.accepted, load.tally.uncertain
        made.by_code = dict(sorted(load.tally.by_code.items()))
        made.stall_answers_s, made.stall_rows_s = load.answers.longest_s, load.longest_without_row_s
        made.notes = scene.notes
        made.deaths = world.deaths - deaths
        made.seconds = time.monotonic() - began
        if not made.is_good:
            self._keep()
        return made

    def _suffer(self, fault: Fault, scene: Scene, made: Round) -> None:
        """The round up to the end of its load."""
        with scene.load:
            fault.prepare(scene)
            scene.world.sleep(scene.rng.uniform(*fault.moment_s))
            fault.inject(scene)
            healing = time.monotonic()
            fault.heal(scene)
            scene.load.wait_for_rows()
            made.recovery_s = time.monotonic() - healing
            scene.world.wait_whole()
            scene.world.sleep(TAIL_S)

    def _fill(self, made: Round, verdict: Verdict) -> None:
        made.lost, made.double, made.unknown_stored = verdict.lost, verdict.double, verdict.unknown_stored
        made.problems += verdict.problems

    def world(self, shape: Shape) -> World:
        """The world of this shape, made anew when the one before had another."""
        if self._world is not None and self._world.shape != shape:
            self.finish()
        if self._world is None:
            self._worlds += 1
            began = time.monotonic()
            self._world = World(self._guard, self._folder / f"world-{self._worlds}", shape)
            self._say(f"a stack of {shape.brokers} broker(s) is up after {time.monotonic() - began:.1f} s")
        return self._world

    def finish(self) -> None:
        """End the world after comparing all its rounds once more."""
        if self._world is None:
            return
        problems = asyncio.run(judge_again(self._world, self._loads))
        for problem in problems:
            self._say(f"FAILED {problem}")
        self.late += problems
        if problems:
            self._keep()
        else:
            self._drop()

    def _drop(self) -> None:
        world, self._world, self._loads = self._world, None, []
        assert world is not None
        world.close()
        shutil.rmtree(world.folder)

    def _keep(self) -> None:
        world, self._world, self._loads = self._world, None, []
        assert world is not None
        world.close()
        self.kept.append(world.folder)
        self._say(f"data and logs of the failed round are kept in {world.folder}")
