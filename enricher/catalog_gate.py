"""Waiting for the catalog version that a click was stamped with, or for the proof that there is no such version."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from shared.catalog import Catalog
from shared.errors import TransientError

PATIENCE_S: Final = 3.0
"""How long a version must be missing at the topic's end before it is believed not to exist: a new leader may for a
moment answer with an end that is too low."""
POLL_S: Final = 0.02


class CatalogGate:
    """Waits on the local copy of the catalog."""

    def __init__(self, catalog: Catalog, wait_s_max: float) -> None:
        self._catalog = catalog
        self._wait_s_max = wait_s_max

    async def reach(self, version: int) -> int | None:
        """Return None once the copy holds `version`; the topic's last version when that is proved to lie before it.

        The proof is newer than the call. Raises TransientError when neither happened in time: the copy is behind.
        """
        began = time.monotonic()
        while True:
            self._catalog.refresh()
            if self._catalog.version >= version:
                return None
            waited_s = time.monotonic() - began
            is_proved = self._catalog.age_ms / 1000 < waited_s - PATIENCE_S / 2
            if waited_s >= PATIENCE_S and is_proved and self._catalog.known_end <= version:
                return self._catalog.known_end - 1
            if waited_s >= self._wait_s_max:
                raise TransientError(
                    f"catalog version {version} not reached within {self._wait_s_max} s, at {self._catalog.version}"
                )
            await asyncio.sleep(POLL_S)

    async def until_ready(self) -> None:
        """Wait until the copy was complete once and is not too old. Raises TransientError after the bound."""
        began = time.monotonic()
        while not self._catalog.is_ready:
            if time.monotonic() - began >= self._wait_s_max:
                raise TransientError(f"the catalog was not complete within {self._wait_s_max} s")
            await asyncio.sleep(POLL_S)
            self._catalog.refresh()
