"""The spool: where clicks become durable while Kafka cannot take them. One per process, on its event loop.

Theory of operation. A click that was written and synced is as good as one that Kafka has: it is answered 200 and will be
published (replay.py). Writes go through one thread: all that arrived while it was busy is its next write and shares one
sync, so the loop never waits for the disk and many clicks cost one sync.

Everything is bounded: the folder in bytes, the disk in free bytes, a write in time. Beyond a bound nothing is taken and
`why_not_ready` says why; it is tried again with a small file of our own, never with somebody's click.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final, TypeVar

from ingest_api.frames import encode_frame
from ingest_api.share import Share, count_clicks
from ingest_api.spool_folder import NotCutBack, SpoolFolder
from shared.errors import OutcomeUnknown, TransientError

log = logging.getLogger(__name__)

WRITE_BYTES_MAX: Final = 4 << 20
"""Bytes of one write; more wait for the next one."""
WRITE_S_MAX: Final = 5.0
"""How long a click waits for the disk; then its outcome is unknown."""
WATCH_EVERY_S: Final = 1.0
"""How often the free disk is looked at, and a disk that failed is tried again."""

T = TypeVar("T")


class SpoolReason(StrEnum):
    """Why clicks went to the spool: closed, a label of their counter."""

    NOT_CONNECTED = "not_connected"
    """no producer is connected, or the last one is being closed"""
    NOT_PROVED = "not_proved"
    """a new producer is connected but none of its batches was acknowledged yet"""
    OUTCOME_UNKNOWN = "outcome_unknown"
    """sent, but not acknowledged in time: Kafka may have them too"""
    NOT_SENT = "not_sent"
    """Kafka refused the batch, or it could not be sent"""


@dataclass(slots=True)
class _Write:
    """Clicks that wait for the disk together."""

    frames: bytes
    clicks: int
    first_at_ms: int
    done: asyncio.Future[None]


class Spool:
    """The process's own spool folder and the one way to write to it."""

    def __init__(self, folder: SpoolFolder, *, bytes_max: int, free_bytes_min: int) -> None:
        self.folder = folder
        self._bytes_max = bytes_max
        self._free_bytes_min = free_bytes_min
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._queue: list[_Write] = []
        self._queued_bytes = 0
        self._writing: asyncio.Task[None] | None = None
        self._blocked = ""
        self._full_at: int | None = None
        self.spooled: Counter[SpoolReason] = Counter()
        """Clicks made durable here, by reason; counters for metrics."""
        self.refused = 0
        """Clicks that could not be kept; a counter for metrics."""
        self.syncs = 0
        """Writes that were synced; a counter for metrics."""

    def why_not_ready(self) -> str:
        """Why nothing can be written now; empty when it can."""
        if self._blocked:
            return self._blocked
        if self._full_at is not None and self._used >= self._full_at:
            return f"the spool is full: {self._used:,} of {self._bytes_max:,} bytes (CLICKLEDGER_API_SPOOL_BYTES_MAX)"
        return ""

    @property
    def _used(self) -> int:
        return self.folder.bytes + self._queued_bytes

    async def append(self, partition: int, shares: Sequence[Share], reason: SpoolReason) -> None:
        """Make the clicks durable in the folder, within a bounded time.

        Raises TransientError when they are certainly not kept, OutcomeUnknown when they may be.
        """
        clicks = count_clicks(shares)
        frames = b"".join(
            encode_frame(partition, share.timestamp_ms, key, value)
            for share in shares
            for key, value in zip(share.keys, share.values, strict=True)
        )
        if self._used + len(frames) > self._bytes_max:
            self._full_at = self._used
        if why_not := self.why_not_ready():
            self.refused += clicks
            raise TransientError(why_not)
        write = _Write(frames, clicks, shares[0].timestamp_ms, asyncio.get_running_loop().create_future())
        self._queue.append(write)
        self._queued_bytes += len(frames)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())
        try:
            async with asyncio.timeout(WRITE_S_MAX):
                await write.done
        except TimeoutError as exc:
            self._block(f"{self.folder.path}: the disk did not answer within {WRITE_S_MAX:.0f} s")
            raise OutcomeUnknown(self._blocked) from exc
        self.spooled[reason] += clicks

    async def close_segment(self) -> None:
        """See to it that everything durable now lies in closed segments, which may be read."""
        await self._in_thread(self.folder.close_segment)

    async def watch(self) -> None:
        """Look at the disk now and then, for ever: what failed is tried again here."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            look = self.folder.probe if self._blocked else partial(self.folder.refuse_full_disk, 0)
            try:
                await self._in_thread(partial(look, self._free_bytes_min))
            except OSError as exc:
                self._block(str(exc))
            else:
                if self._blocked:
                    log.warning("%s: clicks can be kept again", self.folder.path)
                self._blocked = ""

    async def close(self) -> None:
        """Give the folder up; nothing may be appended any more."""
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=WRITE_S_MAX)
        self._thread.shutdown(wait=False)
        self.folder.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _write(self) -> None:
        """Write all that waits, until nothing does."""
        while self._queue:
            writes = self._take()
            frames = b"".join(write.frames for write in writes)
            try:
                segment = await self._in_thread(partial(self.folder.append, frames, self._free_bytes_min))
            except OSError as exc:
                self._fail(writes, exc)
            else:
                self.syncs += 1
                clicks = sum(write.clicks for write in writes)
                self.folder.note_appended(segment, clicks, len(frames), writes[0].first_at_ms)
            self._queued_bytes -= len(frames)
            for write in writes:
                if not write.done.done():
                    write.done.set_result(None)

    def _take(self) -> list[_Write]:
        """The oldest writes, at least one, at most `WRITE_BYTES_MAX` together."""
        taken, size = 0, 0
        for write in self._queue:
            size += len(write.frames)
            if taken and size > WRITE_BYTES_MAX:
                break
            taken += 1
        writes, self._queue = self._queue[:taken], self._queue[taken:]
        return writes

    def _fail(self, writes: Sequence[_Write], exc: OSError) -> None:
        self._block(f"{self.folder.path}: {exc}")
        kind = OutcomeUnknown if isinstance(exc, NotCutBack) else TransientError
        for write in writes:
            self.refused += write.clicks
            if not write.done.done():
                write.done.set_exception(kind(self._blocked))

    def _block(self, why: str) -> None:
        if not self._blocked:
            log.error("the spool takes no clicks: %s", why)
        self._blocked = why
