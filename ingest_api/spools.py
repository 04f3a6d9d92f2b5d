"""Every spool folder of a process: its own and those that nobody holds any more; replayed, and registered in the catalog.

Folders are left behind by processes that were killed and by fewer workers than before. Each process looks for folders
whose lock is free and that hold clicks or a registration, and treats them like its own until they are empty. With the
spool switched off this still happens: what was answered 200 is published.

A registration (kind `spool`, id `<node>/<slot>-<random>`) tells the audit, from any machine, that clicks may lie on a disk.
Its id is noted in the folder before it is written, so that whoever holds the folder later can take it back; and no other
folder has it, so that two machines of one name do not speak for each other.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ingest_api.destination import KafkaDestination
from ingest_api.replay import Replayer
from ingest_api.spool import Spool
from ingest_api.spool_folder import SpoolFolder, folders, is_orphan
from shared.catalog import CatalogWriter, Kind
from shared.errors import ClickledgerError, OperatorError, TransientError

log = logging.getLogger(__name__)

POLL_S: Final = 0.2
CLAIM_EVERY_S: Final = 2.0
"""How often other processes' folders are looked at."""
RETRY_S: Final = 1.0
"""Pause after a replay that failed; each try sends at most one chunk again."""
LEAVE_S_MAX: Final = 1.0
"""How long a stopping process waits for the end of its registration."""


class Spools:
    """What a process does with spool folders beside writing to its own."""

    def __init__(
        self,
        root: Path,
        own: Spool | None,
        kafka: KafkaDestination,
        replayer: Replayer,
        *,
        partitions: Callable[[], int],
        writer: Callable[[], CatalogWriter],
        node: str,
        heard_ms: int,
    ) -> None:
        """`writer()` raises TransientError without Kafka. `heard_ms`: between two signs of life in the catalog."""
        self._root = root
        self._own = own
        self._kafka = kafka
        self._replayer = replayer
        self._partitions = partitions
        self._writer = writer
        self._node = node
        self._heard_ms = heard_ms
        self._registered: dict[Path, tuple[float, object]] = {}
        """By folder: when its record was written last (monotonic seconds), and what it said."""
        self.folders: list[SpoolFolder] = [] if own is None else [own.folder]
        """Those held by this process."""

    @property
    def clicks(self) -> int:
        """Clicks still to be sent, as far as they were counted."""
        return sum(folder.clicks for folder in self.folders)

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return sum(folder.bytes for folder in self.folders)

    @property
    def oldest_at_ms(self) -> int | None:
        """When the oldest click that is still to be sent was received."""
        return min((at for folder in self.folders if (at := folder.oldest_at_ms) is not None), default=None)

    @property
    def set_aside(self) -> int:
        """Pieces that wait for a human."""
        return sum(folder.set_aside_count for folder in self.folders)

    async def replay(self) -> None:
        """Claim, count and publish, for ever."""
        claimed_at = time.monotonic()  # not at once: other workers are taking theirs
        uncounted = list(self.folders)
        while True:
            if time.monotonic() - claimed_at >= CLAIM_EVERY_S:
                claimed_at = time.monotonic()
                uncounted += await asyncio.to_thread(self._claim)
            while uncounted:
                await self._count(uncounted.pop())
            for folder in list(self.folders):
                if not await self._replay_folder(folder):
                    await asyncio.sleep(RETRY_S)
            await asyncio.sleep(POLL_S)

    async def register(self) -> None:
        """Keep the catalog's records of all folders current, for ever; let go of others' folders that are done."""
        while True:
            for folder in list(self.folders):
                try:
                    await self._renew(folder)
                except (ClickledgerError, OSError) as exc:
                    log.warning("spool %s: its record in the catalog was not renewed: %s", folder.path, exc)
            await asyncio.sleep(POLL_S)

    async def leave(self) -> None:
        """Take back the registrations of empty folders, within a bound, and give all folders up but the own one."""
        try:
            async with asyncio.timeout(LEAVE_S_MAX):
                for folder in self.folders:
                    if folder.is_done and self._is_connected:
                        await self._unregister(folder)
        except (TimeoutError, ClickledgerError, OSError) as exc:
            log.warning("a spool's record in the catalog stays: %s", exc or "no answer in time")
        for folder in self.folders:
            if not self._is_own(folder):
                folder.close()

    @property
    def _is_connected(self) -> bool:
        return not self._kafka.why_not_ready()

    def _is_own(self, folder: SpoolFolder) -> bool:
        return self._own is not None and folder is self._own.folder

    def _claim(self) -> list[SpoolFolder]:
        """Take every folder that nobody holds and that there is something to do in."""
        held = {folder.path for folder in self.folders}
        claimed = []
        for path in folders(self._root):
            try:
                folder = SpoolFolder.claim(path) if path not in held and is_orphan(path) else None
            except OSError:
                log.exception("spool %s cannot be taken over", path)
                continue
            if folder is not None:
                log.info("spool %s belongs to no process any more: taken over", path)
                claimed.append(folder)
        self.folders += claimed
        return claimed

    async def _count(self, folder: SpoolFolder) -> None:
        """Count what an earlier process left; what cannot be read counts as nothing until it is replayed."""
        for segment in [each for each in folder.segments if not each.is_counted]:
            try:
                clicks, first_at_ms = await asyncio.to_thread(folder.count, segment)
            except OSError as exc:
                log.error("%s cannot be read: %s", segment.path, exc)  # noqa: TRY400  the message says all
            else:
                folder.note_left(segment, clicks, first_at_ms)

    async def _replay_folder(self, folder: SpoolFolder) -> bool:
        """Publish everything in a folder while Kafka takes it; False when that failed."""
        while folder.segments and self._is_connected and self._partitions() > 0:
            segment = folder.segments[0]
            if self._is_own(folder) and self._own is not None:
                await self._own.close_segment()
            try:
                await self._replayer.replay(folder, segment)
            except (TransientError, OperatorError) as exc:
                log.warning("spool %s: %d clicks wait: %s", folder.path, folder.clicks, exc)
                return False
            except OSError:
                log.exception("spool %s: %d clicks wait for the disk", folder.path, folder.clicks)
                self._kafka.is_proved = True  # the disk's fault: live clicks must not wait for it
                return False
            if not folder.segments:
                log.info("spool %s is empty", folder.path)
        return True

    async def _renew(self, folder: SpoolFolder) -> None:
        if not self._is_connected or not folder.is_counted:
            return
        if folder.is_done and not self._is_own(folder):
            await self._unregister(folder)
            self.folders.remove(folder)
            folder.close()
            return
        now_s = time.monotonic()  # a clock that is set back must not silence the spool
        state = (folder.clicks > 0, folder.set_aside_count)
        said_s, said = self._registered.get(folder.path, (float("-inf"), None))
        if state != said or now_s - said_s >= self._heard_ms / 1000:
            await self._write(folder, time.time_ns() // 1_000_000)
            self._registered[folder.path] = (now_s, state)

    async def _write(self, folder: SpoolFolder, now_ms: int) -> None:
        folder.look_aside()
        noted, named = folder.registered, f"{self._node}/{folder.slot}-"
        record_id = noted[0] if noted and noted[0].startswith(named) else named + secrets.token_hex(4)
        former = [each for each in noted if each != record_id]  # the machine has another name now
        if noted != [record_id, *former]:
            await asyncio.to_thread(folder.note_registered, [record_id, *former])
        await self._writer().put(Kind.SPOOL, record_id, record_of(folder, record_id, self._node, now_ms))
        for each in former:
            await self._writer().put(Kind.SPOOL, each, None)
        if former:
            await asyncio.to_thread(folder.note_registered, [record_id])

    async def _unregister(self, folder: SpoolFolder) -> None:
        if noted := folder.registered:
            for record_id in noted:
                await self._writer().put(Kind.SPOOL, record_id, None)
            await asyncio.to_thread(folder.note_registered, [])
        self._registered.pop(folder.path, None)


def record_of(folder: SpoolFolder, record_id: str, node: str, now_ms: int) -> dict[str, Any]:
    """The catalog's record of a folder."""
    return {
        "v": 1,
        "id": record_id,
        "node": node,
        "slot": folder.slot,
        "folder": f"{socket.gethostname()}:{folder.path.absolute()}",
        "clicks": folder.clicks,
        "bytes": folder.bytes,
        "oldest_at": folder.oldest_at_ms,
        "set_aside": folder.set_aside_count,
        "heard_at": now_ms,
    }
