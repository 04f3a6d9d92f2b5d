"""Applies the catalog topic to the local copy; the only writer of the file."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import random
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import lmdb

from shared.catalog.applying import Copy
from shared.catalog.records import PARTITION, Kind
from shared.catalog.rewriting import is_loose, rewrite
from shared.catalog.store import Store, heard_file, remove_others, turn_to
from shared.errors import ClickledgerError, OffsetLost, OperatorError, TransientError
from shared.kafka import Reader
from shared.settings import CatalogSettings, KafkaSettings
from shared.tasks import end

log = logging.getLogger(__name__)

HEAR_EVERY_S: Final = 1.0
"""Seconds between two questions for the topic's end."""
READERS_TURN_S: Final = 0.1
"""Readers open a rewritten copy in their loop, and have to wait while it is written to: so it is not, for some of their looks."""
RETRY_S_MIN: Final = 0.2
RETRY_S_MAX: Final = 1.0
"""A revocation has a second to arrive once Kafka is reachable, so the pause between two tries is not longer."""
REWRITE_PAUSE_S: Final = 60.0
"""Between two rewritings of a copy."""
CATCH_UP_S_MAX: Final = 0.5
"""As long a rewritten copy may take to catch up: meanwhile readers hear of nothing new, and a revocation has a second."""
_NEVER: Final = (1 << 63, 0.0)
HEALTHY_S: Final = 10.0
"""After following for so long the next failure is a new one: the pauses begin small again."""


class CatalogFollower:
    """Applies the catalog topic to the LMDB copy in `path`; of several on one folder, one works and the others wait.

    `kinds` limits what is kept (the version still counts every record).
    """

    def __init__(
        self,
        settings: CatalogSettings,
        kafka: KafkaSettings,
        path: Path,
        kinds: Collection[Kind] = tuple(Kind),
        topic: str = "",
    ) -> None:
        """`topic`: another one that has the catalog's form."""
        self._kafka = kafka
        self._topic = topic or kafka.topic_catalog
        path.mkdir(parents=True, exist_ok=True)
        self._folder = path.resolve()
        self._map_bytes = settings.catalog_map_bytes
        self._kinds = frozenset(str(kind) for kind in kinds)
        self._copy: Copy
        self._rewriting: asyncio.Task[Store | None] | None = None
        self._rewrite_from_s = 0.0
        self._is_tidy = False
        self._asked = _NEVER
        self._is_level = False

    async def run(self) -> None:
        """Follow until cancelled. Failures of the environment are logged and retried with back-off.

        Raises OperatorError when there is no place for a copy; one that cannot be written to later is read as it is meanwhile.
        """
        with await _locked(self._folder / "follower.lock"):
            try:
                self._copy = Copy(Store.of(self._folder, self._map_bytes), self._kinds)
                self._copy.store.drop_other_forms()
                self._copy.store.env.reader_check()  # slots of killed readers would pin old pages
            except (lmdb.Error, OSError) as exc:
                raise OperatorError(self._told(exc)) from exc
            delay_s = RETRY_S_MIN
            while True:
                started = time.monotonic()
                try:
                    await self._follow()
                except (TransientError, OperatorError, lmdb.Error, OSError) as exc:
                    if time.monotonic() - started > HEALTHY_S:
                        delay_s = RETRY_S_MIN
                    log.warning("catalog follower: %s; again in %.1f s", self._told(exc), delay_s)
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.5))  # noqa: S311  # jitter
                delay_s = min(delay_s * 2, RETRY_S_MAX)

    def _told(self, error: Exception) -> str:
        """The error in an operator's words; one of ours has them, another one is the disk's."""
        if isinstance(error, ClickledgerError):
            return str(error)
        with contextlib.suppress(OSError):
            error = OSError(f"{error}, {shutil.disk_usage(self._folder).free:,} bytes are free")
        return f"{self._folder}: the copy of the catalog cannot be written: {error}"

    async def _follow(self) -> None:
        reader = Reader(self._kafka, self._topic, client_id="clickledger-catalog")
        try:
            await reader.start()
            reader.assign({PARTITION: await self._start_position(reader)})
            asked_at, self._asked, self._is_level, self._is_tidy = 0.0, _NEVER, False, False
            while True:
                if time.monotonic() - asked_at >= HEAR_EVERY_S:
                    await self._hear(reader)
                    await self._rewrite(reader)
                    asked_at = time.monotonic()
                records = (await reader.getmany(timeout_ms=200)).get(PARTITION)
                if records:
                    await asyncio.to_thread(self._copy.apply, records)
                    if not self._is_level and records[-1].offset + 1 >= self._asked[0]:
                        await self._hear(reader)  # whoever starts waits for this: at once, but once only
                    asked_at = min(asked_at, time.monotonic() - HEAR_EVERY_S / 2)
        except OffsetLost as lost:
            log.warning("catalog: %s; reading all of it again", lost)
            self._copy.wipe(lost.earliest)
        finally:
            if self._rewriting is not None:
                await end(self._rewriting)
                self._rewriting = None
            await reader.close()

    async def _start_position(self, reader: Reader) -> int:
        begin = (await reader.begin_offsets([PARTITION]))[PARTITION]
        end = (await reader.end_offsets([PARTITION]))[PARTITION]
        noted = self._copy.noted()
        position = noted.position
        if not self._kinds <= noted.kinds:
            if position:
                log.warning("catalog: the copy was made without some of %s; reading all of it", ", ".join(self._kinds))
        elif begin <= position <= end:
            return position
        elif position:
            log.warning(
                "catalog: applied up to %d but the topic holds %d to %d; reading all of it", position, begin, end
            )
        self._copy.wipe(begin)
        return begin

    async def _hear(self, reader: Reader) -> None:
        """Ask for the topic's end: proves the contact, and whether the copy is level with it.

        A copy that has passed the end of the last question was level with the topic then. Without that a topic that is
        written to all the time would have a copy that is never level.
        """
        asked_s = time.time()
        end = (await reader.end_offsets([PARTITION]))[PARTITION]
        position = await reader.position(PARTITION)
        end_before, asked_before_s = self._asked
        level_s = asked_s if position >= end else asked_before_s if position >= end_before else None
        self._asked = (end, asked_s)
        self._is_level = self._is_level or level_s is not None
        await asyncio.to_thread(self._note_end, position, end, level_s)

    def _note_end(self, position: int, end: int, level_s: float | None) -> None:
        """Note the topic's end, and when (seconds since the epoch) the copy was level with it; None: it was not."""
        noted = self._copy.noted()
        is_level = level_s is not None
        if (noted.position, noted.end) != (position, end) or (is_level and not noted.is_complete):
            self._copy.note(position, end, is_complete=is_level)
        if level_s is not None:
            heard = heard_file(self._folder)
            heard.touch()
            os.utime(heard, (level_s, level_s))

    async def _rewrite(self, reader: Reader) -> None:
        """Have a loose copy rewritten while this one is followed; then go on with the new one.

        Files are removed a turn later: readers have closed them by then, and the last one would have to free all their pages.
        """
        if not self._is_tidy:
            await asyncio.to_thread(remove_others, self._folder)
            self._is_tidy = True
        if self._rewriting is None:
            if self._is_level and time.monotonic() >= self._rewrite_from_s and is_loose(self._copy.store):
                self._rewriting = asyncio.create_task(rewrite(self._copy.store, self._folder))
        elif self._rewriting.done():
            rewritten, self._rewriting = self._rewriting.result(), None
            self._rewrite_from_s = time.monotonic() + REWRITE_PAUSE_S
            if rewritten is not None:
                await self._turn_to(Copy(rewritten, self._kinds), reader)
            self._is_tidy = False

    async def _turn_to(self, copy: Copy, reader: Reader) -> None:
        """Follow with a rewritten copy, and let readers see it, once it has what this one has; else it is given up."""
        noted = self._copy.noted()
        if await _caught_up(copy, reader, noted.position):
            await asyncio.to_thread(copy.note, copy.noted().position, noted.end, is_complete=noted.is_complete)
            turn_to(self._folder, copy.store.path)
            self._copy = copy
            log.info("catalog: the copy was loose and is rewritten")
            await asyncio.sleep(READERS_TURN_S)
        else:
            log.warning("catalog: too much is written to the topic, the copy stays loose for now")
            reader.assign({PARTITION: noted.position})


async def _caught_up(copy: Copy, reader: Reader, position: int) -> bool:
    """Apply to `copy` what lies before `position`; False when that takes too long."""
    deadline = time.monotonic() + CATCH_UP_S_MAX
    if copy.noted().position < position:
        reader.assign({PARTITION: copy.noted().position})
    while copy.noted().position < position:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        records = (await reader.getmany(timeout_ms=int(left_s * 1000))).get(PARTITION)
        if records:
            await asyncio.to_thread(copy.apply, records)
    return True


async def _locked(path: Path) -> Any:
    """Wait for the lock on `path`; a context manager that releases it."""
    file = path.open("w")
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(0.5)
            else:
                return file
    except BaseException:  # a cancellation, too, closes the file
        file.close()
        raise
