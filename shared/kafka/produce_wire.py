"""Produce requests and their answers as bytes: version 7 of the protocol, which brokers know since 2.1.

Pure. The layout is that of https://kafka.apache.org/protocol#The_Messages_Produce; the library's own structures say the same
and tests compare the two.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

API_KEY: Final = 0
API_VERSION: Final = 7

NO_ERROR: Final = 0
DUPLICATE_SEQUENCE_NUMBER: Final = 46
"""Appended by an earlier attempt, so long ago that the broker has forgotten its offset."""

_HEAD: Final = struct.Struct(">ihhih")
"""Size of what follows, API key, version, correlation id, length of the client id."""
_ALL_IN_SYNC: Final = -1
_NO_TRANSACTION: Final = -1
_BODY: Final = struct.Struct(">hhii")
"""No transaction, acknowledgements, time-out, count of topics."""
_PARTITION: Final = struct.Struct(">ii")
"""Partition and size of its batch."""
_ANSWER: Final = struct.Struct(">ihqqq")
"""Partition, error code, offset, time of append, start of the log."""

PartitionBatch = tuple[bytes, int, bytes]
"""Topic, partition, batch."""


class Verdict(Enum):
    """What an error code says of the batch and of what comes after it."""

    NOT_APPENDED = "not appended by this attempt; another may succeed"
    UNCLEAR = "perhaps appended; another attempt tells"
    REFUSED = "not appended by this attempt, and no other will be"
    BROKEN = "the producer's sequence cannot go on"


_NOT_APPENDED: Final = {5, 19}
"""No leader; too few in-sync replicas *before* the append."""
_UNCLEAR: Final = {3, 6, 7, 8, 9, 13, 20, 56, 72, 74, 75}
"""A leader or partition that ceased to be, perhaps while the append waited for its replicas; a time-out; too few replicas
*after* the append; a disk."""
_REFUSED: Final = {2, 10, 17, 18, 21, 29, 31, 32, 35, 42, 43, 44, 76, 87}
"""Corrupt, too large, names, rights, times, versions, compression: checked before anything is appended."""


def verdict(code: int) -> Verdict:
    """What to make of an error code. A sequence that the broker does not accept, and codes nobody expects, are BROKEN."""
    if code in _NOT_APPENDED:
        return Verdict.NOT_APPENDED
    if code in _UNCLEAR:
        return Verdict.UNCLEAR
    return Verdict.REFUSED if code in _REFUSED else Verdict.BROKEN


def encode_request(
    correlation_id: int, client_id: bytes, timeout_ms: int, batches: Sequence[PartitionBatch]
) -> list[bytes]:
    """The pieces of one request, to be written one after the other; each partition at most once.

    `timeout_ms`: how long the broker waits for its replicas.
    """
    by_topic: dict[bytes, list[PartitionBatch]] = {}
    for batch in batches:
        by_topic.setdefault(batch[0], []).append(batch)
    pieces: list[bytes] = []
    written = client_id + _BODY.pack(_NO_TRANSACTION, _ALL_IN_SYNC, timeout_ms, len(by_topic))
    for topic, of_topic in by_topic.items():
        written += len(topic).to_bytes(2, "big") + topic + len(of_topic).to_bytes(4, "big")
        for _, partition, records in of_topic:
            pieces += (written + _PARTITION.pack(partition, len(records)), records)
            written = b""
    size = sum(map(len, pieces)) + _HEAD.size - 4
    pieces[0] = _HEAD.pack(size, API_KEY, API_VERSION, correlation_id, len(client_id)) + pieces[0]
    return pieces


def decode_answer(frame: bytes) -> tuple[int, Mapping[tuple[bytes, int], tuple[int, int]]]:
    """The correlation id, and by topic and partition the error code and the offset of the batch's first record.

    `frame`: without its size. Raises ValueError for what is no answer to a Produce request.
    """
    answers: dict[tuple[bytes, int], tuple[int, int]] = {}
    try:
        correlation_id, topics = struct.unpack_from(">ii", frame)
        at = 8
        for _ in range(topics):
            (size,) = struct.unpack_from(">h", frame, at)
            if size < 0:
                raise ValueError("a topic without a name")
            topic = frame[at + 2 : at + 2 + size]
            (partitions,) = struct.unpack_from(">i", frame, at + 2 + size)
            at += size + 6
            for _ in range(partitions):
                partition, code, offset, _, _ = _ANSWER.unpack_from(frame, at)
                answers[topic, partition] = code, offset
                at += _ANSWER.size
    except struct.error as exc:
        raise ValueError(f"an answer of {len(frame)} bytes cannot be read: {exc}") from exc
    return correlation_id, answers
