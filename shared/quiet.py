"""Keeps the Kafka client library's log lines readable: it tells of every attempt, hundreds of times a second.

Rule: what a human must know is logged by our own code, once, where it is handled, and stands in readiness; the
library's lines are background, so the same one is shown once in a while, with the number of those left out.
"""

from __future__ import annotations

import logging
import time
from typing import Final

LIBRARY: Final = "aiokafka"
GROUP_LOGGER: Final = "aiokafka.consumer.group_coordinator"
SAME_EVERY_S: Final = 10.0
"""How often the same line of the library is shown; an outage of a broker is a few lines, not thousands."""
START_S: Final = 10.0
"""A broker that has just started has no group coordinator for a moment: ordinary, unless it lasts this long."""
REBALANCING: Final = "because it is rebalancing"
"""A heartbeat that learns of a member that came or went: how it is meant to be."""
LINES_MAX: Final = 1_000
"""Different lines remembered; the library has some hundred."""


class QuietLibrary(logging.Filter):
    """Drops the library's repeated lines, and its complaints about groups that are starting or rebalancing."""

    def __init__(self, started_s: float | None = None) -> None:
        """`started_s`: when the process started, seconds since the epoch; now by default."""
        super().__init__()
        self._started_s = time.time() if started_s is None else started_s
        self._shown: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show the line; one that stands for others says for how many."""
        if record.name.partition(".")[0] != LIBRARY:
            return True
        if record.name == GROUP_LOGGER and (
            record.created - self._started_s < START_S or REBALANCING in str(record.msg)
        ):
            return False
        key = (record.name, str(record.msg))
        last_s, hidden = self._shown.get(key, (float("-inf"), 0))
        if record.created - last_s < SAME_EVERY_S:
            self._shown[key] = (last_s, hidden + 1)
            return False
        if len(self._shown) >= LINES_MAX:
            self._shown.clear()
        self._shown[key] = (record.created, 0)
        if hidden:
            record.msg, record.args = f"{record.getMessage()} ({hidden} more like this were left out)", ()
        return True
