"""How long clicks waited until it was known whether they are durable: plain numbers, added to once for a group."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds, inclusive. None is finer, because the loop's clock is renewed once a turn and counts in milliseconds."""


class Waits:
    """Clicks by how long they waited, since the last `take`."""

    def __init__(self) -> None:
        self._clicks = [0] * (len(BOUNDS_S) + 1)
        self._seconds = 0.0

    def add(self, seconds: float, clicks: int) -> None:
        """So many clicks waited so long, at most: of a group that is the wait of its first."""
        self._clicks[bisect_left(BOUNDS_S, seconds)] += clicks
        self._seconds += seconds * clicks

    def take(self) -> tuple[list[int], float]:
        """Clicks by bound, those beyond the last one at the end, and the sum of their seconds; begins anew."""
        taken = self._clicks, self._seconds
        self._clicks, self._seconds = [0] * len(self._clicks), 0.0
        return taken
