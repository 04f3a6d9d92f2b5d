"""Request bodies from the event loop to a worker thread, decoded on the way, in bounded memory.

The loop puts pieces of about 1 MiB into a `BodyFeed`; the worker iterates `decoded(feed, …)`. At most `PIECES_MAX`
pieces wait; beyond that `put` waits, so the socket is not read and TCP slows the client down.
"""

import asyncio
import bz2
import gzip
import io
import lzma
import queue
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

import lz4.frame
import zstandard

from clickledger.clickhouse_server.blocks import decompress_blocks
from clickledger.clickhouse_server.errors import (
    CANNOT_DECOMPRESS,
    NOT_IMPLEMENTED,
    QUERY_WAS_CANCELLED,
    SOCKET_TIMEOUT,
    refusal,
)

PIECE_BYTES: Final = 1 << 20  # the engine takes bytes fastest in pieces of 1 MiB
ZSTD_SLICE_BYTES: Final = (
    16 << 10
)  # what is decompressed at once has no other bound: 16 KiB of input, 512 MiB at the very worst
PIECES_MAX: Final = 4  # so at most about 5 MiB of one body wait in memory


class BodyFeed:
    """A bounded one-way queue of bytes from one task of the event loop to one thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, idle_seconds: float) -> None:
        self._loop = loop
        self._idle_seconds = idle_seconds
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(PIECES_MAX)
        self._is_aborted = False

    async def put(self, piece: bytes) -> None:
        """Hand over one piece; waits while PIECES_MAX are waiting."""
        await self._room.acquire()
        self._queue.put(piece)

    def finish(self) -> None:
        """The body is complete."""
        self._queue.put(None)

    def abort(self) -> None:
        """The client is gone before the body was complete: the iterating thread gets QUERY_WAS_CANCELLED."""
        self._is_aborted = True
        self._queue.put(None)

    def __iter__(self) -> Iterator[bytes]:
        """The pieces in order (worker thread); raises StatementError when the client stalls or goes away."""
        while True:
            try:
                piece = self._queue.get(timeout=self._idle_seconds)
            except queue.Empty:
                raise refusal(SOCKET_TIMEOUT, f"No bytes of the body for {self._idle_seconds:g} s") from None
            if self._is_aborted:
                raise refusal(QUERY_WAS_CANCELLED, "The client went away before its body was complete")
            if piece is None:
                self._queue.put(None)  # a second iteration ends at once
                return
            self._loop.call_soon_threadsafe(self._room.release)
            yield piece


class _PieceFile(io.RawIOBase):
    """Pieces as a raw binary file, for the decompressors of the standard library."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # the base takes any writable buffer
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def decoded(pieces: Iterable[bytes], encoding: str, *, in_blocks: bool) -> Iterator[bytes]:
    """The body's bytes after Content-Encoding `encoding` ('' none) and native blocks; raises StatementError on bad data."""
    plain = _decompressed(pieces, encoding) if encoding else iter(pieces)
    return decompress_blocks(plain) if in_blocks else plain


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _open_gzip(source: Any) -> _Reader:
    return gzip.GzipFile(fileobj=source)


def _open_lz4(source: Any) -> _Reader:
    reader: _Reader = lz4.frame.LZ4FrameFile(source)
    return reader


_OPENERS: Final[dict[str, Callable[[Any], _Reader]]] = {
    "gzip": _open_gzip,
    "x-gzip": _open_gzip,
    "lz4": _open_lz4,
    "xz": lzma.LZMAFile,
    "bz2": bz2.BZ2File,
}


def _decompressed(pieces: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    source = _PieceFile(iter(pieces))
    if encoding == "deflate":
        return _inflated(source)
    if encoding == "zstd":
        return _unzstd(source)
    if encoding not in _OPENERS:
        known = ", ".join(sorted(_OPENERS))
        raise refusal(NOT_IMPLEMENTED, f"Content-Encoding {encoding!r} is not understood; deflate, zstd, {known} are")
    return _read_all(_OPENERS[encoding](source), encoding)


def _read_all(reader: _Reader, encoding: str) -> Iterator[bytes]:
    try:
        while piece := reader.read(PIECE_BYTES):
            yield piece
    except (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError) as exc:
        raise refusal(CANNOT_DECOMPRESS, f"Body is not valid {encoding}: {exc}") from exc


def _inflated(source: io.RawIOBase) -> Iterator[bytes]:
    inflate = zlib.decompressobj()
    try:
        while piece := source.read(PIECE_BYTES):
            yield inflate.decompress(piece, PIECE_BYTES)
            while inflate.unconsumed_tail:
                yield inflate.decompress(inflate.unconsumed_tail, PIECE_BYTES)
        yield inflate.flush()
    except zlib.error as exc:
        raise refusal(CANNOT_DECOMPRESS, f"Body is not valid deflate: {exc}") from exc
    if not inflate.eof:
        raise refusal(CANNOT_DECOMPRESS, "Body is not valid deflate: it ends too early")


def _unzstd(source: io.RawIOBase) -> Iterator[bytes]:
    """Frames one after the other; the library's file object would take a cut-off frame for the end."""
    frame = zstandard.ZstdDecompressor().decompressobj()
    is_between = True
    try:
        while piece := source.read(ZSTD_SLICE_BYTES):
            while piece:
                yield frame.decompress(piece)
                is_between = frame.eof
                piece = frame.unused_data
                if is_between:
                    frame = zstandard.ZstdDecompressor().decompressobj()
    except zstandard.ZstdError as exc:
        raise refusal(CANNOT_DECOMPRESS, f"Body is not valid zstd: {exc}") from exc
    if not is_between:
        raise refusal(CANNOT_DECOMPRESS, "Body is not valid zstd: it ends within a frame")
