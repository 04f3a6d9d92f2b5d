"""The loops of sink and enricher, interrupted after each of their lines in every way, without processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Final

from tests.torture.faults.base import Fault, Scene
from tests.torture.world import ROOT

TESTS: Final = ("tests/unit/test_sink_sweep.py", "tests/unit/test_enricher_sweep.py")
SECONDS_MAX: Final = 1_800.0


class CrashEachLine(Fault):
    """Each operation of each scenario is the last one of its process; the next process finishes. Nothing is sampled.

    The real loops run against models of Kafka and of ClickHouse; a load runs beside them, so that the round has a row.
    """

    name = "crash-each-line"
    rounds = 1
    seconds = 240.0
    rate = 10.0

    def __init__(self) -> None:
        self.failure = ""

    def inject(self, scene: Scene) -> None:
        """Run the sweep on both levels: one death, and a second one at each point of the next owner."""
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *TESTS],
            cwd=ROOT,
            env={**os.environ, "SWEEP_LEVELS": "2"},
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )
        lines = done.stdout.splitlines() or [done.stderr]
        scene.notes.append(re.sub(r" in .*", "", lines[-1].strip("= ")))
        self.failure = "" if done.returncode == 0 else lines[-1]

    def heal(self, scene: Scene) -> None:
        """There is nothing to heal."""

    def problems(self, scene: Scene) -> list[str]:
        """The sweep's own verdict."""
        return [self.failure] if self.failure else []


FAULTS = (CrashEachLine(),)
