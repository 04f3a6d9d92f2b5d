"""Records of one partition under construction: the library's builder, without the layers that its producer puts around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, Final, Protocol

from aiokafka.codec import has_gzip, has_lz4, has_zstd
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from shared.errors import OperatorError

NO_HEADERS: Final[list[tuple[str, bytes]]] = []
_MAGIC: Final = 2
_CODECS: Final[dict[str, int]] = {
    "none": DefaultRecordBatch.CODEC_NONE,
    "gzip": DefaultRecordBatch.CODEC_GZIP,
    "lz4": DefaultRecordBatch.CODEC_LZ4,
    "zstd": DefaultRecordBatch.CODEC_ZSTD,
}
_IS_THERE: Final[dict[str, Callable[[], bool]]] = {"gzip": has_gzip, "lz4": has_lz4, "zstd": has_zstd}


class Batch(Protocol):
    """Records of one partition under construction; made by `Producer.new_batch`."""

    def append(
        self, *, timestamp: int, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ...
    ) -> object | None:
        """Add a record (`timestamp` in ms); None when the batch is full."""

    def extend(
        self,
        *,
        timestamp: int,
        keys: Sequence[bytes],
        values: Sequence[bytes],
        headers: Sequence[tuple[str, bytes]] = ...,
    ) -> bool:
        """Add a record for each key with its value, all of this time and with these headers.

        False when the batch was full before the last one: then it is not to be sent.
        """

    def record_count(self) -> int:
        """Records in the batch."""

    def size(self) -> int:
        """Bytes of the batch."""


class RecordBatch:
    """A `Batch` that can be built; sent once."""

    __slots__ = ("_builder", "_count", "_size")

    def __init__(self, bytes_max: int, compression: str) -> None:
        """`bytes_max`: a first record of any size fits all the same."""
        self._builder: Any = DefaultRecordBatchBuilder(_MAGIC, _CODECS[compression], 0, -1, -1, 0, bytes_max)
        self._count = 0
        self._size = 0

    def append(
        self,
        *,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = NO_HEADERS,
    ) -> object | None:
        """See `Batch`."""
        added: object | None = self._builder.append(self._count, timestamp, key, value, headers)
        if added is not None:
            self._count += 1
        return added

    def extend(
        self,
        *,
        timestamp: int,
        keys: Sequence[bytes],
        values: Sequence[bytes],
        headers: Sequence[tuple[str, bytes]] = NO_HEADERS,
    ) -> bool:
        """See `Batch`."""
        first = self._count
        self._count += len(keys)
        numbers = range(first, self._count)
        return all(map(self._builder.append, numbers, repeat(timestamp), keys, values, repeat(headers)))

    def record_count(self) -> int:
        """See `Batch`."""
        return self._count

    def size(self) -> int:
        """See `Batch`."""
        return self._size or int(self._builder.size())

    @property
    def is_sendable(self) -> bool:
        """It has records, and was not sent before."""
        return self._builder is not None and self._count > 0

    def build(self, producer_id: int, epoch: int, sequence: int) -> bytes:
        """The bytes to send, under the number of the first record; once."""
        builder, self._builder = self._builder, None
        builder.set_producer_state(producer_id, epoch, sequence)
        built: bytes = builder.build()
        self._size = len(built)
        return built


def check_codec(compression: str) -> None:
    """Raise OperatorError when the library for this compression is not installed."""
    if compression in _IS_THERE and not _IS_THERE[compression]():
        raise OperatorError(f"compression of batches: {compression} needs a library that is not installed (cramjam)")
