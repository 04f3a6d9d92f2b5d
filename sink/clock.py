"""Time that goes on while the process is stopped and while the machine sleeps."""

from __future__ import annotations

import asyncio
import time
from typing import Final

CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux: CLOCK_BOOTTIME. macOS has none; its CLOCK_MONOTONIC goes on in sleep, other than `time.monotonic()` there."""


class BootClock:
    """The clock of an `Owner`."""

    def now_s(self) -> float:
        """Seconds since the machine started, sleep included."""
        return time.clock_gettime(CLOCK)

    def wall_ms(self) -> int:
        """Milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    async def pause(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)
