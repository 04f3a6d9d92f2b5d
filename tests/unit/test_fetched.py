"""Records of a fetch a batch at a time, beside the library's own way, and checksums that do not fit."""

from __future__ import annotations

import gc
import struct
import weakref
from collections.abc import Sequence
from typing import Any

import google_crc32c
import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from shared.kafka.fetched import CheckedRecords, _one_by_one, _whole_batches

PLACE = TopicPartition("clicks", 3)
CONTROL = 0x20
CODECS = (DefaultRecordBatch.CODEC_NONE, DefaultRecordBatch.CODEC_GZIP)


class Assigned:
    """An assignment whose one partition stands somewhere."""

    active = True
    paused = False

    def __init__(self, position: int) -> None:
        self.position = position

    def state_value(self, _place: TopicPartition) -> Assigned:
        """The partition."""
        return self

    def consumed_to(self, position: int) -> None:
        """Move it."""
        self.position = position


def batch(base: int, values: Sequence[bytes], *, codec: int = 0, attributes: int = 0, gone: int = 0) -> bytes:
    """A batch at an offset; `gone`: records at its end that compaction has removed."""
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, 0, 1 << 20)
    for number, value in enumerate(values):
        builder.append(number, 1_700_000_000_000 + number, b"key", value, [("raw-offset", b"7")])
    built = bytearray(builder.build())
    built[0:8] = struct.pack(">q", base)
    built[21:23] = struct.pack(">h", struct.unpack(">h", built[21:23])[0] | attributes)
    built[23:27] = struct.pack(">i", len(values) + gone - 1)
    built[17:21] = struct.pack(">I", google_crc32c.value(bytes(built[21:])))
    return bytes(built)


def result(received: bytes, position: int, kind: type[MemoryRecords] = CheckedRecords) -> tuple[Any, Assigned]:
    """What the library keeps of an answer for a partition."""
    assigned = Assigned(position)
    records = fetcher.PartitionRecords(
        PLACE, kind(received), None, position, None, None, kind is MemoryRecords, fetcher.READ_UNCOMMITTED
    )
    return fetcher.FetchResult(PLACE, assignment=assigned, partition_records=records, backoff=0.0), assigned


def told(records: Sequence[Any]) -> list[tuple[Any, ...]]:
    """What stands in them."""
    return [(each.offset, each.timestamp, each.key, each.value, list(each.headers)) for each in records]


@given(
    st.lists(
        st.tuples(
            st.lists(st.binary(max_size=40), min_size=1, max_size=5),
            st.sampled_from(CODECS),
            st.sampled_from((0, 0, CONTROL)),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 12),
)
def test_the_same_records_and_position_as_the_library(
    batches: list[tuple[list[bytes], int, int, int]], position: int
) -> None:
    """Wherever a seek led, with compressed batches, control batches and compacted ones."""
    received, base = b"", 0
    for values, codec, attributes, gone in batches:
        received += batch(base, values, codec=codec, attributes=attributes, gone=gone)
        base += len(values) + gone
    theirs, their_place = result(received, position, MemoryRecords)
    ours, our_place = result(received, position)
    assert told(_whole_batches(ours)) == told(_one_by_one(theirs))
    assert our_place.position == their_place.position
    assert not ours.has_more()


def test_an_answer_is_gone_when_its_records_are_taken() -> None:
    """At once: the collector comes seldom in our services, and an answer has megabytes."""
    ours, _ = result(batch(0, [b"a", b"b"]), 0)
    answer = weakref.ref(ours._partition_records)
    gc.disable()
    try:
        assert len(_whole_batches(ours)) == 2
        assert answer() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("at", [30, 61, 70], ids=["header", "record", "last"])
def test_a_damaged_batch_is_refused_and_everything_is_fetched_again(at: int) -> None:
    """Nothing behind it is taken instead, and nothing before it is lost."""
    good, bad = batch(0, [b"a", b"b"]), bytearray(batch(2, [b"c"]))
    bad[at] ^= 1
    ours, place = result(good + bytes(bad) + batch(3, [b"d"]), 0)
    with pytest.raises(CorruptRecordException):
        _whole_batches(ours)
    assert ours.has_more()
    assert _whole_batches(ours) == []
    assert place.position == 0
    assert not ours.has_more()


def test_a_batch_of_an_older_format_is_checked_too() -> None:
    """Topics that were once written by old clients hold them."""
    builder = LegacyRecordBatchBuilder(1, 0, 1 << 20)
    builder.append(0, timestamp=1_700_000_000_000, key=b"key", value=b"old")
    built = bytes(builder.build())
    ours, place = result(built, 0)
    assert [each.value for each in _whole_batches(ours)] == [b"old"]
    assert place.position == 1
    damaged, _ = result(built[:-1] + b"?", 0)
    with pytest.raises(CorruptRecordException):
        _whole_batches(damaged)


def test_single_records_and_some_records_go_the_librarys_way() -> None:
    """Whoever began so gets the rest of that batch, too."""
    received = batch(0, [b"a", b"b", b"c"]) + batch(3, [b"d"])
    ours, place = result(received, 0)
    assert ours.getone().value == b"a"
    assert [each.value for each in _whole_batches(ours)] == [b"b", b"c", b"d"]
    assert place.position == 4
    some, place = result(received, 0)
    assert [each.value for each in _whole_batches(some, 2)] == [b"a", b"b"]
    assert place.position == 2


def test_a_partition_that_was_moved_or_paused_gives_nothing() -> None:
    """What was fetched for another position is thrown away."""
    moved, place = result(batch(0, [b"a"]), 0)
    place.position = 7
    assert _whole_batches(moved) == []
    paused, place = result(batch(0, [b"a"]), 0)
    place.paused = True
    assert _whole_batches(paused) == []
