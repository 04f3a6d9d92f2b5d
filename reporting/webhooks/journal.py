"""Notes where webhooks stand and what was tried, in Kafka, a few times a second for all of them together.

The last note of a key is the one that counts, so what waits is bounded by the number of keys. While nothing can be
written, `is_behind` says so, and nothing more is sent: what is sent and not noted is sent again after a crash.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from reporting.webhooks import metrics
from reporting.webhooks.writing import Writing
from shared.catalog import Entry, Kind
from shared.errors import ClickledgerError

log = logging.getLogger(__name__)

EVERY_S: Final = 0.1
"""Seconds between two writes: what was sent in this time is sent again after a kill."""
BEHIND_S: Final = 3.0
"""Seconds without a successful write, while there is something to write, after which sending pauses."""


class Journal:
    """Notes that wait to be written. `run` must run beside it."""

    def __init__(self, writing: Writing, topic: str) -> None:
        self._writing, self._topic = writing, topic
        self._waiting: dict[tuple[Kind, str], Mapping[str, Any] | None] = {}
        self._asked = asyncio.Event()
        self._one = asyncio.Lock()
        self._oldest_s: float | None = None
        """When the oldest note that is not written was made."""
        self.trouble = ""
        """Why the last write failed, empty when it did not."""

    @property
    def is_behind(self) -> bool:
        """Whether sending must pause."""
        return self._oldest_s is not None and time.monotonic() - self._oldest_s > BEHIND_S

    def note(self, kind: Kind, record_id: str, value: Mapping[str, Any] | None) -> None:
        """Write this soon; None deletes."""
        if self._oldest_s is None:
            self._oldest_s = time.monotonic()
        self._waiting[kind, record_id] = value
        self._asked.set()

    async def flush(self) -> None:
        """Write all that waits now. Raises TransientError, OperatorError; it waits on then."""
        async with self._one:
            taken, self._waiting = self._waiting, {}
            if not taken:
                return
            try:
                await self._writing.put(self._topic, [Entry(kind, key, value) for (kind, key), value in taken.items()])
            except BaseException as exc:  # a cancellation, too, must not lose what was taken out of the queue
                self._waiting = {**taken, **self._waiting}
                metrics.saved.labels("failed").inc()
                self.trouble = str(exc)
                raise
            metrics.saved.labels("written").inc()
            self._oldest_s, self.trouble = (time.monotonic() if self._waiting else None), ""

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self.flush()
            except ClickledgerError as exc:
                log.warning("where webhooks stand was not written, trying again: %s", exc)
                self._asked.set()
            await asyncio.sleep(EVERY_S)
