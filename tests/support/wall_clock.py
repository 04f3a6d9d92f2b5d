"""A wall clock for services that a test can set: ahead of the machine's, or behind it. Monotonic clocks stay."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_HOOK: Final = Path(__file__).with_name("clock")
"""Its `sitecustomize.py` is imported by every Python process that has the folder on PYTHONPATH."""


class WallClock:
    """Right until it is set."""

    def __init__(self, file: Path) -> None:
        """Make the file in which the difference stands."""
        self._file = file
        file.write_bytes(struct.pack("<q", 0))

    @property
    def env(self) -> Mapping[str, str]:
        """What a process needs in its environment to go by this clock."""
        return {"PYTHONPATH": str(_HOOK), "TORTURE_CLOCK": str(self._file)}

    def set(self, ahead_s: float) -> None:
        """So many seconds after the machine's clock, for all processes at once."""
        with self._file.open("r+b") as file:  # in place: the processes have it mapped
            file.write(struct.pack("<q", round(ahead_s * 1e9)))
