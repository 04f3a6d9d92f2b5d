"""Frames of the spool: what was written comes back, damage costs the frames it hits and no other, nothing is made up."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.frames import HEAD_BYTES, MAGIC, Damaged, SpooledClick, Torn, Whole, encode_frame, scan

clicks = st.builds(
    SpooledClick,
    partition=st.integers(0, 4095),
    timestamp_ms=st.integers(0, 2**62),
    key=st.binary(max_size=40),
    value=st.binary(max_size=200),
)


def encode(found: Sequence[SpooledClick]) -> list[bytes]:
    """The frame of each click."""
    return [encode_frame(c.partition, c.timestamp_ms, c.key, c.value) for c in found]


def whole(data: bytes, start: int = 0) -> list[SpooledClick]:
    """The clicks of a segment; asserts that its pieces leave no byte out."""
    pieces = list(scan(data, start))
    assert [piece.start for piece in pieces] == [start, *(piece.end for piece in pieces)][: len(pieces)]
    assert not pieces or pieces[-1].end == len(data)
    return [piece.click for piece in pieces if isinstance(piece, Whole)]


def example(count: int = 5) -> list[SpooledClick]:
    """Clicks of different lengths."""
    return [SpooledClick(n, 1_700_000_000_000 + n, b"k%d" % n, b'{"v":%d}' % n * (n + 1)) for n in range(count)]


@given(st.lists(clicks, max_size=8))
def test_what_was_written_comes_back(found: list[SpooledClick]) -> None:
    """Any clicks, in order, also when reading begins at the end of one of them."""
    frames = encode(found)
    assert whole(b"".join(frames)) == found
    for skipped in range(len(frames)):
        assert whole(b"".join(frames), len(b"".join(frames[:skipped]))) == found[skipped:]


def test_golden_frame() -> None:
    """The bytes of version 1: a spool written by an older version must be read by a newer one."""
    frame = encode_frame(3, 1_700_000_000_123, b"key", b'{"v":1}')
    assert frame.hex() == "ff434c31000000161e34905a3951c66900030000018bcfe5687b00036b65797b2276223a317d"
    assert whole(frame) == [SpooledClick(3, 1_700_000_000_123, b"key", b'{"v":1}')]


def test_torn_at_every_byte() -> None:
    """A file cut anywhere gives every frame before the cut, and the rest is torn, not damaged: nobody was answered."""
    frames = encode(example())
    data, ends, position = b"".join(frames), [], 0
    for frame in frames:
        position += len(frame)
        ends.append(position)
    for cut in range(len(data)):
        pieces = list(scan(data[:cut]))
        kept = sum(end <= cut for end in ends)
        assert [piece.click for piece in pieces if isinstance(piece, Whole)] == example()[:kept]
        rest = [piece for piece in pieces if not isinstance(piece, Whole)]
        begins = ends[kept - 1] if kept else 0
        assert rest == ([] if cut == begins else [Torn(begins, cut)])


@given(st.lists(clicks, min_size=2, max_size=6), st.data())
def test_damage_costs_only_the_frames_it_hits(found: list[SpooledClick], data: st.DataObject) -> None:
    """Random bytes overwritten anywhere: every frame that was not touched comes back, none is made up, none is silent."""
    frames = encode(found)
    original = b"".join(frames)
    at = data.draw(st.integers(0, len(original) - 1))
    garbage = data.draw(st.binary(min_size=1, max_size=60))[: len(original) - at]
    spoilt = original[:at] + garbage + original[at + len(garbage) :]
    begin, untouched, hit = 0, [], []
    for click, frame in zip(found, frames, strict=True):
        end = begin + len(frame)
        (untouched if spoilt[begin:end] == frame else hit).append(click)
        begin = end
    assert whole(spoilt) == untouched
    assert bool(hit) == any(isinstance(piece, (Damaged, Torn)) for piece in scan(spoilt))


def test_damage_in_the_middle_or_in_the_last_frame_is_damage() -> None:
    """One flipped bit, anywhere but in a last frame's first bytes, is reported as damage and never taken for a tear."""
    frames = encode(example(3))
    data = b"".join(frames)
    for position in range(len(data) * 8):
        spoilt = bytearray(data)
        spoilt[position // 8] ^= 1 << position % 8
        kinds = [type(piece) for piece in scan(bytes(spoilt))]
        assert kinds.count(Damaged) == 1, position
        assert kinds.count(Whole) == 2
        assert Torn not in kinds


def test_bytes_removed_or_inserted() -> None:
    """Missing or extra bytes cost at most the frames they lie in: reading goes on at the next whole one."""
    chooser = random.Random(7)
    for _ in range(500):
        found = example(6)
        frames = encode(found)
        victim = chooser.randrange(len(frames) - 1)
        at = chooser.randrange(len(frames[victim]))
        if chooser.random() < 0.5:
            frames[victim] = frames[victim][:at] + frames[victim][at + 1 + chooser.randrange(5) :]
        else:
            frames[victim] = frames[victim][:at] + chooser.randbytes(3) + frames[victim][at:]
        rest = [click for index, click in enumerate(found) if index != victim]
        got = whole(b"".join(frames))
        assert [click for click in got if click != found[victim]] == rest


def test_a_value_cannot_pose_as_a_frame() -> None:
    """The magic is no UTF-8, so no request body holds it; even a value that does is one click while its frame is whole."""
    with pytest.raises(UnicodeDecodeError):
        MAGIC.decode()
    inner = encode_frame(1, 2, b"k", b"forged")
    assert whole(encode_frame(0, 1, b"k", inner)) == [SpooledClick(0, 1, b"k", inner)]


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"text", MAGIC + b"\xff" * 30, MAGIC * 20])
def test_no_frames(data: bytes) -> None:
    """Bytes that were never a frame give no click and end."""
    assert whole(data) == []
    assert not any(isinstance(piece, Whole) for piece in scan(data))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_to_their_end(data: bytes) -> None:
    """Reading never raises and never stands still."""
    whole(data)
    whole(MAGIC + data)


def test_a_head_alone_is_a_tear() -> None:
    """A head whose payload was not written is the beginning of a frame."""
    frame = encode_frame(0, 1, b"k", b"v")
    assert list(scan(frame[:HEAD_BYTES])) == [Torn(0, HEAD_BYTES)]
