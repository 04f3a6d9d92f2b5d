"""Publishes what a spool folder holds, in its order, as suspect.

The order of the lines in `_replay_chunk` is the guarantee: publish, hear every acknowledgement, note the progress; a
segment is deleted after its last click was acknowledged. A crash between any two lines sends some clicks again, which
the sink stores as duplicates, since every copy from a spool is suspect. Nothing is left out: a segment is read from the
noted position to its end, and bytes that are no click are set aside before the position moves past them.

Publishing needs a connected producer, and one is connected only after every earlier one was closed (destination.py):
the originals of these clicks can no longer be sent by a producer of this process. What still sits in a socket may come
after the copy; the sink compares both ways.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final, Protocol

from ingest_api.frames import Damaged, Piece, SpooledClick, Torn, Whole, encode_frame, scan
from ingest_api.share import Share
from ingest_api.spool_folder import Segment, SpoolFolder
from shared.errors import DataError
from shared.events import mark_replayed

log = logging.getLogger(__name__)

CHUNK_CLICKS: Final = 500
"""Clicks published between two notes of the progress, and at once on the event loop (about 3 ms)."""
CHUNK_BYTES: Final = 512 << 10


class Publisher(Protocol):
    """The way into Kafka. Raises OutcomeUnknown, TransientError, OperatorError, DataError."""

    async def append(self, partition: int, shares: Sequence[Share]) -> None:
        """Append all as one batch; returns when every in-sync replica has it."""


class Replayer:
    """Publishes folders; one at a time, on one event loop."""

    def __init__(self, publisher: Publisher, partitions: Callable[[], int], batch_bytes_max: int) -> None:
        """`partitions()`: how many the topic has, above 0. `batch_bytes_max`: of the clicks of one batch."""
        self._publisher = publisher
        self._partitions = partitions
        self._chunk_bytes = min(CHUNK_BYTES, batch_bytes_max)
        self.replayed = 0
        """Clicks acknowledged; a counter for metrics."""
        self.set_aside = 0
        """Pieces set aside: damage and clicks that Kafka can never take; a counter for metrics."""

    async def replay(self, folder: SpoolFolder, segment: Segment) -> None:
        """Publish the rest of a closed segment and delete it.

        Raises TransientError and OperatorError as Kafka does, OSError as the disk does; then it is to be called again.
        """
        pieces = await asyncio.to_thread(_read, segment)
        times = [piece.click.timestamp_ms for piece in pieces if isinstance(piece, Whole)]
        sent = 0
        for chunk in _chunks(pieces, self._chunk_bytes):
            sent += await self._replay_chunk(folder, segment, chunk)
            folder.note_left(segment, len(times) - sent, times[sent] if sent < len(times) else None)
        folder.remove(segment)

    async def _replay_chunk(self, folder: SpoolFolder, segment: Segment, chunk: Sequence[Piece]) -> int:
        """Publish or set aside every piece, note that; how many were clicks."""
        clicks = [piece.click for piece in chunk if isinstance(piece, Whole)]
        await self._publish(folder, segment, clicks)
        for piece in chunk:
            if isinstance(piece, Damaged):
                await asyncio.to_thread(self._set_aside_damage, folder, segment, piece)
            elif isinstance(piece, Torn):
                log.warning("%s: cut off at byte %d, as a crash leaves it", segment.path, piece.start)
        segment.position = chunk[-1].end
        await asyncio.to_thread(folder.note_progress, segment)
        return len(clicks)

    async def _publish(self, folder: SpoolFolder, segment: Segment, clicks: Sequence[SpooledClick]) -> None:
        """Publish clicks, in order within a partition; returns when all are acknowledged or set aside.

        A partition that the topic no longer has (it was made anew with fewer) gives way to its number modulo theirs:
        the same for every copy of a click, so that the sink sees them together.
        """
        count = self._partitions()
        by_partition: dict[int, list[SpooledClick]] = {}
        for click in clicks:
            by_partition.setdefault(click.partition % count, []).append(click)
        appends = (self._append(folder, segment, partition, mine) for partition, mine in by_partition.items())
        for outcome in await asyncio.gather(*appends, return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def _append(
        self, folder: SpoolFolder, segment: Segment, partition: int, clicks: Sequence[SpooledClick]
    ) -> None:
        try:
            await self._publisher.append(partition, _shares(partition, clicks))
        except DataError as exc:
            if len(clicks) == 1:
                await asyncio.to_thread(self._set_aside_click, folder, segment, clicks[0], exc)
                return
            for click in clicks:
                await self._append(folder, segment, partition, [click])
        else:
            self.replayed += len(clicks)

    def _set_aside_damage(self, folder: SpoolFolder, segment: Segment, piece: Damaged) -> None:
        content = segment.path.read_bytes()[piece.start : piece.end]
        path = folder.set_aside(f"{segment.path.stem}-{piece.start}.damaged", content)
        self.set_aside += 1
        log.error("%d damaged bytes are kept in %s: clicks that were answered 200 may be lost", len(content), path)

    def _set_aside_click(self, folder: SpoolFolder, segment: Segment, click: SpooledClick, exc: DataError) -> None:
        frame = encode_frame(click.partition, click.timestamp_ms, click.key, click.value)
        path = folder.set_aside(f"{segment.path.stem}-{click.key.hex()}.refused", frame)
        self.set_aside += 1
        log.error("click %r is kept in %s: %s", click.key, path, exc)


def _shares(partition: int, clicks: Sequence[SpooledClick]) -> list[Share]:
    """The clicks as they are published, in order: a share for each run of one moment. Raises DataError."""
    shares = []
    for timestamp_ms, run in groupby(clicks, attrgetter("timestamp_ms")):
        records = [(click.key, mark_replayed(click.value)) for click in run]
        keys, values = zip(*records, strict=True)
        shares.append(Share(partition, timestamp_ms, suspect=True, keys=keys, values=values, places=range(len(keys))))
    return shares


def _read(segment: Segment) -> list[Piece]:
    return list(scan(segment.path.read_bytes(), segment.position))


def _chunks(pieces: Sequence[Piece], bytes_max: int) -> Iterator[Sequence[Piece]]:
    """The pieces in order, at most `CHUNK_CLICKS` and about `bytes_max` bytes at a time."""
    begin, size = 0, 0
    for index, piece in enumerate(pieces):
        size += piece.end - piece.start
        if index > begin and (index - begin >= CHUNK_CLICKS or size > bytes_max):
            yield pieces[begin:index]
            begin, size = index, piece.end - piece.start
    if begin < len(pieces):
        yield pieces[begin:]
