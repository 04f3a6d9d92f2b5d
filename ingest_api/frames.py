"""What stands in a spool's segment files: frames, one click each, that can be told from damage. Pure.

A frame is a head of 16 bytes and a payload:

    magic (4) | payload bytes (u32) | CRC-32 of the payload (u32) | CRC-32 of the 12 bytes before (u32)
    partition (u16) | timestamp in ms (i64) | key bytes (u16) | key | value

Numbers are big endian. The head has a checksum of its own, so that a frame that was cut off (its head is whole, its
payload ends early) is told from one whose length was damaged. The magic begins with a byte that UTF-8 never has, and a
click's value is UTF-8: no request body can look like the beginning of a frame. After damage reading goes on at the next
frame that is whole.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAGIC: Final = b"\xffCL1"
"""The last byte is the version of this format."""
_HEAD: Final = struct.Struct(">4sII")
_CHECK: Final = struct.Struct(">I")
_FIELDS: Final = struct.Struct(">HqH")
HEAD_BYTES: Final = _HEAD.size + _CHECK.size
FRAME_BYTES_MAX: Final = 16 << 20
"""Twice the largest Kafka batch that the settings allow: a longer frame was never written."""


@dataclass(frozen=True, slots=True)
class SpooledClick:
    """A click as it was to be published; every spooled click is published as suspect, so that is not kept."""

    partition: int
    timestamp_ms: int
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Whole:
    """A frame that is as it was written, at bytes `start` to `end`."""

    start: int
    end: int
    click: SpooledClick


@dataclass(frozen=True, slots=True)
class Damaged:
    """Bytes that are no frame, with a whole frame or the end after them: what stood here may be lost."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Torn:
    """The beginning of a frame at the very end: its write was cut off, so nobody was told that it is durable."""

    start: int
    end: int


Piece = Whole | Damaged | Torn


def encode_frame(partition: int, timestamp_ms: int, key: bytes, value: bytes) -> bytes:
    """The bytes of one click."""
    payload = b"%b%b%b" % (_FIELDS.pack(partition, timestamp_ms, len(key)), key, value)
    head = _HEAD.pack(MAGIC, len(payload), zlib.crc32(payload))
    return b"%b%b%b" % (head, _CHECK.pack(zlib.crc32(head)), payload)


def scan(data: bytes, start: int = 0) -> Iterator[Piece]:
    """Every piece of a segment from `start` on, in order and without holes between them."""
    position = start
    while position < len(data):
        found = _piece_at(data, position)
        piece: Piece = Damaged(position, _next_frame(data, position + 1)) if found is None else found
        yield piece
        position = piece.end


def _piece_at(data: bytes, position: int) -> Whole | Torn | None:
    """The frame that begins here, whole or cut off by the end; None when none does."""
    head = data[position : position + HEAD_BYTES]
    if len(head) < HEAD_BYTES:
        return Torn(position, len(data)) if head[:4] == MAGIC[: len(head)] else None
    magic, size, payload_crc = _HEAD.unpack_from(head)
    (head_crc,) = _CHECK.unpack_from(head, _HEAD.size)
    if magic != MAGIC or zlib.crc32(head[: _HEAD.size]) != head_crc or not _FIELDS.size <= size <= FRAME_BYTES_MAX:
        return None
    begin = position + HEAD_BYTES
    payload = data[begin : begin + size]
    if len(payload) < size:
        return None if _next_frame(data, begin) < len(data) else Torn(position, len(data))
    if zlib.crc32(payload) != payload_crc:
        return None
    partition, timestamp_ms, key_bytes = _FIELDS.unpack_from(payload)
    key_end = _FIELDS.size + key_bytes
    if key_end > size:
        return None
    click = SpooledClick(partition, timestamp_ms, payload[_FIELDS.size : key_end], payload[key_end:])
    return Whole(position, begin + size, click)


def _next_frame(data: bytes, position: int) -> int:
    """Where the next whole or cut off frame begins; the end of the data when there is none."""
    while (position := data.find(MAGIC, position)) >= 0:
        if _piece_at(data, position) is not None:
            return position
        position += 1
    return len(data)
