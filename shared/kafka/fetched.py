"""The records of a fetch, a whole batch at a time.

The library hands them out one by one, through a generator, an iterator and a copy of each, and makes each batch's checksum
without the processor's instruction for it: together more than decoding. `install` has its decoder asked for all records of a
batch at once, and the checksum made by google-crc32c. Everything else stays the library's: what is buffered, what a seek or a
revoke throws away, where the position is (docs/adr/0039).
"""

from __future__ import annotations

import inspect
from typing import Any, Final

import google_crc32c
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords

_LENGTH_AT: Final = 8
_LENGTH_END: Final = 12
_MAGIC_AT: Final = 16
_SUMMED_AT: Final = 21
"""A batch of the present format (KIP-98): base offset 8, length of the rest 4, leader epoch 4, magic 1, checksum 4, then what
the checksum is of."""
_MAGIC: Final = 2

_one_by_one: Final = fetcher.FetchResult.getall


class CheckedRecords(MemoryRecords):  # type: ignore[misc]  # the library is untyped
    """The batches of a partition in an answer; each one's checksum is compared when it is taken."""

    def __init__(self, received: bytes) -> None:
        super().__init__(received)
        self._received = received
        self._at = 0

    def next_batch(self) -> Any:
        """The next one. Raises CorruptRecordException."""
        batch = super().next_batch()
        received, at = self._received, self._at
        self._at = end = at + _LENGTH_END + int.from_bytes(received[at + _LENGTH_AT : at + _LENGTH_END], "big")
        if received[at + _MAGIC_AT] == _MAGIC:
            is_whole = google_crc32c.value(received[at + _SUMMED_AT : end]) == batch.crc
        else:
            is_whole = batch.validate_crc()
        if not is_whole:
            raise CorruptRecordException(f"the batch at byte {at} of a fetch has another checksum")
        return batch


def _whole_batches(self: Any, max_records: int | None = None) -> list[Any]:
    """`FetchResult.getall`: all records, as the decoder made them; the position moves when all are decoded.

    Of some records, or after single ones were taken, the library's own.
    """
    if not self.check_assignment(self._topic_partition) or not self.has_more():
        return []
    fetched = self._partition_records
    if max_records is not None or inspect.getgeneratorstate(fetched._records_iterator) != inspect.GEN_CREATED:
        return list(_one_by_one(self, max_records))
    try:
        found, position = _decode(fetched._records, fetched.next_fetch_offset)
    except BaseException:  # whatever it was, nothing behind it may be taken instead: all of this is fetched again
        fetched._records = CheckedRecords(b"")
        raise
    fetched.next_fetch_offset = position
    fetched._records_iterator = None  # it holds what holds it: the answer's bytes would stay until the collector comes
    self._update_position()
    self._partition_records = None
    return found


def _decode(batches: CheckedRecords, position: int) -> tuple[list[Any], int]:
    """The records from `position` on, and the position behind them. Raises CorruptRecordException."""
    found: list[Any] = []
    while batches.has_next():
        batch = batches.next_batch()
        if not batch.is_control_batch:
            records = list(batch)
            if records and records[0].offset < position:  # one that a seek led into
                records = [record for record in records if record.offset >= position]
            found += records
        position = batch.next_offset
    return found, position


def install() -> None:
    """For every consumer of this process; it must read uncommitted records, and not check sums itself."""
    fetcher.MemoryRecords = CheckedRecords
    fetcher.FetchResult.getall = _whole_batches
