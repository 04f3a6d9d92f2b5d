"""ClickHouse's native compressed blocks: what ``compress=1`` and ``decompress=1`` carry.

A block is a 16-byte CityHash128 (version 1.0.2) of all that follows, a method byte, the compressed length (with this
9-byte header) and the raw length, little endian, and the payload. Methods: 0x82 LZ4, 0x90 ZSTD, 0x02 none.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Final

import lz4.block
import zstandard
from clickhouse_cityhash.cityhash import CityHash128

from clickledger.clickhouse_server.errors import CANNOT_DECOMPRESS, refusal

CHECKSUM_BYTES: Final = 16
HEADER: Final = struct.Struct("<BII")
RAW_BYTES_MAX: Final = (
    128 << 20
)  # 128 MiB: drivers send 1 MiB blocks; the server would take 1 GiB, which one process cannot hold
BLOCK_BYTES: Final = 1 << 20  # max_compress_block_size of the server: 1 MiB of raw bytes per block we write
LZ4: Final = 0x82
ZSTD: Final = 0x90
NONE: Final = 0x02


def checksum(data: bytes) -> bytes:
    """The 16 bytes in front of a block: CityHash128 as two little-endian 64-bit words, low word first."""
    value: int = CityHash128(data)
    return struct.pack("<QQ", value >> 64, value & 0xFFFF_FFFF_FFFF_FFFF)


def compress_block(raw: bytes) -> bytes:
    """One LZ4 block of `raw` (any size above 0)."""
    payload: bytes = lz4.block.compress(raw, store_size=False)
    framed = HEADER.pack(LZ4, HEADER.size + len(payload), len(raw)) + payload
    return checksum(framed) + framed


def compress_blocks(raw: bytes) -> bytes:
    """`raw` as blocks of at most BLOCK_BYTES raw bytes; b'' for b''."""
    return b"".join(compress_block(raw[at : at + BLOCK_BYTES]) for at in range(0, len(raw), BLOCK_BYTES))


def _unpack(framed: bytes) -> bytes:
    method, _, raw_bytes = HEADER.unpack_from(framed)
    payload = memoryview(framed)[HEADER.size :]
    try:
        if method == LZ4:
            raw: bytes = lz4.block.decompress(payload, uncompressed_size=raw_bytes)
        elif method == ZSTD:
            raw = zstandard.ZstdDecompressor().decompress(payload, max_output_size=raw_bytes)
        elif method == NONE:
            raw = bytes(payload)
        else:
            raise refusal(CANNOT_DECOMPRESS, f"Unknown codec family code: {method}")
    except (lz4.block.LZ4BlockError, zstandard.ZstdError) as exc:
        raise refusal(CANNOT_DECOMPRESS, f"Cannot decompress block: {exc}") from exc
    if len(raw) != raw_bytes:
        raise refusal(CANNOT_DECOMPRESS, f"Block has {len(raw)} bytes, its header says {raw_bytes}")
    return raw


def _frame_bytes(buffer: bytearray) -> int:
    """Length of the first block in `buffer`, 0 while its header is incomplete; raises on impossible lengths."""
    if len(buffer) < CHECKSUM_BYTES + HEADER.size:
        return 0
    _, compressed, raw = HEADER.unpack_from(buffer, CHECKSUM_BYTES)
    if compressed < HEADER.size or compressed > RAW_BYTES_MAX or raw > RAW_BYTES_MAX:
        raise refusal(
            CANNOT_DECOMPRESS,
            f"Impossible block: {compressed} bytes compressed, {raw} raw; is the stream compressed at all?",
        )
    return CHECKSUM_BYTES + int(compressed)


def decompress_blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The raw bytes of a stream of blocks cut anywhere; raises StatementError on a bad checksum or a cut-off end."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        while (size := _frame_bytes(buffer)) and len(buffer) >= size:
            framed = bytes(memoryview(buffer)[CHECKSUM_BYTES:size])
            if checksum(framed) != buffer[:CHECKSUM_BYTES]:
                raise refusal(CANNOT_DECOMPRESS, "Checksum of a compressed block does not match: corrupted data")
            del buffer[:size]
            yield _unpack(framed)
    if buffer:
        raise refusal(CANNOT_DECOMPRESS, f"Compressed stream ends within a block: {len(buffer)} bytes are left")
