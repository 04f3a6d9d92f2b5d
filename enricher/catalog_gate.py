"""The one way to a newer catalog snapshot: waits for a click's version, and notices a replaced stream or a lost catalog.

A raw topic that was made anew is another stream. Its records are stamped with a catalog version that already holds the
new stream record, so whoever looks here before enriching them can never pass them on under the old stream's id.

A catalog without the stream's record was lost, or is just being read anew. With it, tenants and promotions are gone:
good clicks would become rejected rows. So nothing is enriched until it is back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from shared.catalog import Catalog
from shared.errors import ClickledgerError, StreamReplaced, TransientError

PATIENCE_S: Final = 3.0
"""How long a version must be missing at the topic's end before it is believed not to exist: a new leader may for a
moment answer with an end that is too low."""
POLL_S: Final = 0.02


class CatalogGate:
    """Renews and waits on the local copy of the catalog, for one stream.

    `on_lost` is called with the error, before anything else can run, when the stream was replaced or the catalog lost:
    it must end all enriching.
    """

    def __init__(
        self,
        catalog: Catalog,
        topic_raw: str,
        stream: str,
        *,
        wait_s_max: float,
        on_lost: Callable[[ClickledgerError], None],
    ) -> None:
        self._catalog = catalog
        self._topic_raw = topic_raw
        self._stream = stream
        self._wait_s_max = wait_s_max
        self._on_lost = on_lost

    def refresh(self) -> bool:
        """Renew the snapshot; True when the version changed. Raises StreamReplaced, TransientError (catalog lost)."""
        is_changed = self._catalog.refresh()
        record = self._catalog.stream(self._topic_raw)
        if record is not None and record["stream"] == self._stream:
            return is_changed
        why: ClickledgerError
        if record is None:
            lost = (
                f"the catalog has no stream for topic {self._topic_raw} any more: it is being read anew, or restore it"
            )
            why = TransientError(lost)
        else:
            why = StreamReplaced(f"{self._topic_raw} is now stream {record['stream']}, not {self._stream} any more")
        self._on_lost(why)
        raise why

    async def reach(self, version: int) -> int | None:
        """Return None once the copy holds `version`; the topic's last version when that is proved to lie before it.

        The proof is newer than the call. Raises TransientError when neither happened in time: the copy is behind.
        """
        began = time.monotonic()
        while True:
            self.refresh()
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
            self.refresh()
