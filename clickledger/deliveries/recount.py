"""The rows that a file really has: counted before a manifest says so, and as they come, for a progress bar.

A broken answer must not pass for a whole one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, Protocol

import zstandard

from clickledger.deliveries import parquet
from reporting.edr.columns import Compression, Format, Shape

_CHUNK: Final = 64 << 10
"""Bytes unpacked at a time, so that what they unpack to is bounded too."""


class RowCounter:
    """Counts the rows of a CSV or NDJSON file while its bytes come. `rows` is true of what was fed so far."""

    def __init__(self, shape: Shape) -> None:
        """Raises ValueError for Parquet, whose rows stand in its index."""
        if shape.format is Format.PARQUET:
            raise ValueError("the rows of a Parquet file are known at its end")
        self._is_csv = shape.format is Format.CSV
        self._compression = shape.compression
        self._unpacker = None if shape.compression is Compression.NONE else _unpacker(shape.compression)
        self._ends, self._is_quoted = 0, False

    @property
    def rows(self) -> int:
        """Rows whose end has come, without the line of names."""
        return max(0, self._ends - self._is_csv)

    def feed(self, piece: bytes) -> None:
        """The next bytes of the file. Raises OSError for bytes that are not of the compression."""
        for plain in self._unpacked(piece):
            if not self._is_csv:
                self._ends += plain.count(b"\n")
                continue
            parts = plain.split(b'"')  # every other one is inside of quotes; a quote in a text is doubled
            self._ends += sum(part.count(b"\n") for part in parts[self._is_quoted :: 2])
            self._is_quoted ^= len(parts) % 2 == 0

    def end(self) -> None:
        """The file ends here. Raises EOFError when it is cut."""
        if self._unpacker is not None and not self._unpacker.eof:
            raise EOFError("the compressed file ends before its end")

    def _unpacked(self, piece: bytes) -> Iterator[bytes]:
        if self._unpacker is None:
            yield piece
            return
        try:
            for start, end in pairwise([*range(0, len(piece), _CHUNK), len(piece)]):
                rest = piece[start:end]
                while rest:
                    if self._unpacker.eof:  # a file may be several, one behind the other
                        self._unpacker = _unpacker(self._compression)
                    yield self._unpacker.decompress(rest)
                    rest = self._unpacker.unused_data
        except (zlib.error, zstandard.ZstdError) as exc:
            raise OSError(f"not what it should be compressed with: {exc}") from exc


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _unpacker(compression: Compression) -> _Unpacker:
    if compression is Compression.GZIP:
        return zlib.decompressobj(wbits=31)  # with gzip's header
    return zstandard.ZstdDecompressor().decompressobj()


def rows_in(file: Path, shape: Shape) -> int:
    """Rows of a file. Raises OSError and EOFError for one that is not whole."""
    if shape.format is Format.PARQUET:
        return parquet.rows_in(file)
    counter = RowCounter(shape)
    with file.open("rb") as content:
        while piece := content.read(_CHUNK):
            counter.feed(piece)
    counter.end()
    return counter.rows
