"""ClickHouse's compressed blocks, against bytes that the engine itself wrote."""

from __future__ import annotations

import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from clickledger.clickhouse_server import blocks
from clickledger.clickhouse_server.errors import StatementError

# One column file of a part, written by the engine: 64 numbers as UInt64, LZ4.
ENGINE_BLOCK = bytes.fromhex(
    "44ae52888f6e6c43a374c526dbe1232c820e0100000002000013000100130108001302080013030800130408001305080013"
    "060800130708001308080013090800130a0800130b0800130c0800130d0800130e0800130f08001310080013110800131208"
    "0013130800131408001315080013160800131708001318080013190800131a0800131b0800131c0800131d0800131e080013"
    "1f080013200800132108001322080013230800132408001325080013260800132708001328080013290800132a0800132b08"
    "00132c0800132d0800132e0800132f0800133008001331080013320800133308001334080013350800133608001337080013"
    "38080013390800133a0800133b0800133c0800133d0800133e0800803f00000000000000"
)


def cut(data: bytes, size: int) -> list[bytes]:
    """`data` in pieces of `size` bytes."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def framed(method: int, payload: bytes, raw_bytes: int) -> bytes:
    """One block with a right checksum."""
    body = blocks.HEADER.pack(method, blocks.HEADER.size + len(payload), raw_bytes) + payload
    return blocks.checksum(body) + body


def test_a_block_of_the_engine_is_read() -> None:
    """Checksum and payload agree with what ClickHouse wrote."""
    raw = b"".join(blocks.decompress_blocks([ENGINE_BLOCK]))
    assert struct.unpack("<64Q", raw) == tuple(range(64))


@given(st.binary(max_size=5000), st.integers(min_value=1, max_value=5000))
def test_what_is_written_is_read_however_it_is_cut(raw: bytes, size: int) -> None:
    """Compress then decompress is the identity, for any cut of the stream."""
    assert b"".join(blocks.decompress_blocks(cut(blocks.compress_blocks(raw), size))) == raw


def test_large_results_become_blocks_of_1_mib() -> None:
    """As the server writes them, so that a reader needs one block of memory."""
    raw = b"abc" * (1 << 20)
    assert len(list(blocks.decompress_blocks([blocks.compress_blocks(raw)]))) == 3


@pytest.mark.parametrize(("method", "payload"), [(0x90, zstandard.ZstdCompressor().compress(b"abc")), (0x02, b"abc")])
def test_other_methods_are_read(method: int, payload: bytes) -> None:
    """ZSTD and no compression come from clients too."""
    assert b"".join(blocks.decompress_blocks([framed(method, payload, 3)])) == b"abc"


@pytest.mark.parametrize(
    "stream",
    [
        b"\x00" + blocks.compress_block(b"abc")[1:],
        blocks.compress_block(b"abc")[:-1],
        b"x" * 10,
        b"plain text that is no compressed stream at all",
        framed(0x82, b"\xff\xff\xff", 3),
        framed(0x82, b"", 1 << 31),
        framed(0x02, b"abc", 4),
        framed(0x77, b"abc", 3),
        framed(0x90, b"abc", 3),
    ],
)
def test_broken_blocks_are_errors(stream: bytes) -> None:
    """A wrong checksum, a cut-off end, impossible lengths and unknown methods have code 271."""
    with pytest.raises(StatementError) as caught:
        list(blocks.decompress_blocks([stream]))
    assert caught.value.code == 271
