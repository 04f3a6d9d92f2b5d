"""Transaction-ids: RFC 9562 UUIDs whose 12 `rand_a` bits carry the partition of `clicks.raw` the click is sent to.

A replay of the same click therefore always goes to the same partition, where the sink can see both copies.
Two kinds, both plain UUIDs for everybody else:

* version 7 (RFC 9562, 5.7): 48 bits of milliseconds, `rand_a` = partition, 62 random bits;
* version 8 (5.8) for clicks with an `Idempotency-Key`: SHA-256 of (tenant, key), the partition in the same 12 bits.
"""

from __future__ import annotations

import hashlib
import struct
from binascii import hexlify
from collections.abc import Callable
from functools import lru_cache
from typing import Final

PARTITIONS_MAX: Final = 4096
"""What fits in the 12 bits of `rand_a`."""

RANDOM_BYTES: Final = 8
"""Random bytes one version 7 id takes; 62 of the 64 bits are used."""

TAILS_AT_ONCE: Final = 512
"""Ends of ids that `Tails` makes ahead: a system call and its conversion cost as much as the rest of an id."""

HEADS_MAX: Final = 64
"""Remembered beginnings of ids: clicks of one millisecond that go to one partition share theirs."""

_VARIANT: Final = bytes(byte & 0x3F | 0x80 for byte in range(256))
_TAIL: Final = struct.Struct("17s")
_DASH_AT: Final = 4
"""Of the 17 characters."""


@lru_cache(maxsize=HEADS_MAX)
def uuid7_head(now_ms: int, partition: int) -> bytes:
    """The first 19 characters of the version 7 ids for clicks received at `now_ms` (UTC) and sent to `partition`."""
    return b"%08x-%04x-7%03x-" % ((now_ms >> 16) & 0xFFFF_FFFF, now_ms & 0xFFFF, partition)


def uuid7_tails(random_bytes: bytes) -> list[bytes]:
    """The other 17 characters, once for each 8 bytes from a cryptographic source; the variant overwrites two bits."""
    octets = bytearray(random_bytes)
    octets[::RANDOM_BYTES] = octets[::RANDOM_BYTES].translate(_VARIANT)
    digits = hexlify(octets)
    text = bytearray(b"-" * (_TAIL.size * (len(octets) // RANDOM_BYTES)))
    for digit in range(2 * RANDOM_BYTES):  # each for all of them at once: half the time of a format for each
        text[digit + (digit >= _DASH_AT) :: _TAIL.size] = digits[digit :: 2 * RANDOM_BYTES]
    return [tail for (tail,) in _TAIL.iter_unpack(text)]


class Tails:
    """Ends of version 7 ids, each given once. Build it after forking: two processes must not share what is made ahead."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        """`random_bytes(n)` is a cryptographic source."""
        self._random_bytes = random_bytes
        self._ahead: list[bytes] = []

    def take(self) -> bytes:
        """One more."""
        if not self._ahead:
            self._ahead = uuid7_tails(self._random_bytes(TAILS_AT_ONCE * RANDOM_BYTES))
        return self._ahead.pop()

    def take_many(self, count: int) -> list[bytes]:
        """So many more, at least one."""
        ahead = self._ahead
        if len(ahead) < count:
            ahead += uuid7_tails(self._random_bytes(max(count, TAILS_AT_ONCE) * RANDOM_BYTES))
        taken = ahead[-count:]
        del ahead[-count:]
        return taken


def _text(high: int, low: int) -> str:
    digits = f"{high:016x}{low:016x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def uuid7_with_partition(now_ms: int, partition: int, random_bytes: bytes) -> str:
    """A version 7 id for a click received at `now_ms` (milliseconds, UTC) and sent to `partition` (0 to 4095)."""
    return (uuid7_head(now_ms, partition) + uuid7_tails(random_bytes)[0]).decode()


def keyed_id(tenant: str, idempotency_key: str, partitions_at_creation: int) -> str:
    """The version 8 id that an `Idempotency-Key` always gives for a tenant.

    Its partition is taken modulo the partition count *at the stream's creation*, which is kept in the stream record for
    ever: growing the topic must not send a repeated key elsewhere.
    """
    digest = hashlib.sha256(b"clickledger-id\0" + tenant.encode() + b"\0" + idempotency_key.encode()).digest()
    partition = int.from_bytes(digest[16:20], "big") % partitions_at_creation
    high = int.from_bytes(digest[:8], "big") & 0xFFFF_FFFF_FFFF_0000 | 0x8000 | partition
    low = int.from_bytes(digest[8:16], "big") & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000
    return _text(high, low)


def partition_of(transaction_id: str) -> int:
    """The partition (0 to 4095) that one of our ids carries."""
    return int(transaction_id[15:18], 16)


def created_at_ms(transaction_id: str) -> int | None:
    """When a version 7 id was made (milliseconds, UTC); None for a keyed one, which carries no time."""
    if transaction_id[14] != "7":
        return None
    return int(transaction_id[:8] + transaction_id[9:13], 16)
