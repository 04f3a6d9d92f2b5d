"""How many rows a Parquet file says that it has: the third field of its index, which is written last.

The index is a struct in Thrift's compact protocol (apache/thrift, doc/specs/thrift-compact-protocol.md;
apache/parquet-format, FileMetaData); what stands before the number is skipped. No library for one number.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_MAGIC: Final = b"PAR1"
_TAIL_BYTES: Final = 8
"""The index's length, and the magic."""
_INDEX_BYTES_MAX: Final = 64 << 20
_ROWS_FIELD: Final = 3
_BOOLEANS, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LISTS, _STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 12


def rows_in(file: Path) -> int:
    """Rows of a file. Raises EOFError for one without a whole index."""
    with file.open("rb") as content:
        size = content.seek(0, os.SEEK_END)
        content.seek(max(0, size - _TAIL_BYTES))
        tail = content.read()
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != _MAGIC or not 0 < length <= min(size - 2 * _TAIL_BYTES, _INDEX_BYTES_MAX):
            raise EOFError("the Parquet file has no index at its end")
        content.seek(size - _TAIL_BYTES - length)
        index = content.read(length)
    try:
        return _Compact(index).number(_ROWS_FIELD)
    except (IndexError, ValueError) as exc:
        raise EOFError("the Parquet file's index is not whole") from exc


class _Compact:
    """Reads one struct. Raises IndexError behind its end, ValueError for what is no such struct."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self, wanted: int) -> int:
        """The integer that is a field of the struct."""
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._integer()
            if field == wanted and head & 15 in _INTEGERS:
                return self._integer()
            self._skip(head & 15)
        raise ValueError(f"no field {wanted}")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
        return value | byte << shift

    def _integer(self) -> int:
        value = self._unsigned()
        return value >> 1 ^ -(value & 1)

    def _skip(self, kind: int) -> None:
        """Pass over a field's value; the type of a boolean is its value."""
        if kind in _INTEGERS:
            self._unsigned()
        elif kind in (_BYTE, _DOUBLE):
            self._at += 1 if kind == _BYTE else 8
        elif kind == _BINARY:
            size = self._unsigned()
            self._at += size
        elif kind in _LISTS:
            self._skip_list()
        elif kind == _STRUCT:
            while head := self._byte():
                if not head >> 4:
                    self._integer()
                self._skip(head & 15)
        elif kind not in _BOOLEANS:
            raise ValueError(f"a field of type {kind}")

    def _skip_list(self) -> None:
        head = self._byte()
        count = self._unsigned() if head >> 4 == 15 else head >> 4
        if count > len(self._data):
            raise ValueError(f"a list of {count} values")
        for _ in range(count):
            self._skip(_BYTE if head & 15 in _BOOLEANS else head & 15)
