"""The spool's folder and its writer: durable together, bounded, honest about what failed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from ingest_api.frames import encode_frame
from ingest_api.share import Share
from ingest_api.spool import Spool, SpoolReason
from ingest_api.spool_folder import (
    DiskFull,
    NotCutBack,
    SpoolFolder,
    is_orphan,
    progress_of,
    segment_files,
    side_files,
)
from shared.errors import OutcomeUnknown, TransientError
from tests.support.shares import clicks_of, share_of

WHY = SpoolReason.NOT_CONNECTED


def clicks(count: int, size: int = 100) -> list[Share]:
    """Clicks of `size` bytes of value each, each of a moment of its own."""
    return [share_of([b"v" * size], timestamp_ms=1_000 + number) for number in range(count)]


def frame_bytes(found: Sequence[Share]) -> int:
    """Bytes that the clicks take on disk."""
    return sum(len(encode_frame(0, c.timestamp_ms, c.key, c.value)) for c in clicks_of(found))


class FaultyFolder(SpoolFolder):
    """A folder whose disk fails as the test says, after half of a write reached it."""

    error: OSError | None = None
    cut_error: OSError | None = None

    def _write(self, file: int, frames: bytes) -> None:
        if self.error is not None:
            os.write(file, frames[: len(frames) // 2])
            raise self.error
        super()._write(file, frames)

    def _cut_back(self, cause: OSError) -> None:
        if self.cut_error is not None:
            self.close_segment()
            raise NotCutBack(str(self.cut_error)) from cause
        super()._cut_back(cause)


class CountingFolder(SpoolFolder):
    """A folder that waits for the test before each sync."""

    def __init__(self, path: Path, lock: object) -> None:
        super().__init__(path, lock)  # type: ignore[arg-type]
        self.syncs = 0

    def _write(self, file: int, frames: bytes) -> None:
        self.syncs += 1
        super()._write(file, frames)


Make = Callable[..., Spool]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes spools in a folder of the test's own."""
    made: list[Spool] = []

    def build(kind: type[SpoolFolder] = SpoolFolder, bytes_max: int = 1 << 20, free_bytes_min: int = 0) -> Spool:
        folder = kind.claim(tmp_path / "spool" / str(len(made)))
        assert folder is not None
        made.append(Spool(folder, bytes_max=bytes_max, free_bytes_min=free_bytes_min))
        return made[-1]

    yield build
    for spool in made:
        await spool.close()


async def test_what_was_appended_is_on_disk(make: Make) -> None:
    """When `append` returns the frames are in a segment file, counted, with the oldest one's time."""
    spool = make()
    pair, other = [share_of([b"a", b"bb"], timestamp_ms=1_000)], clicks(1)
    await spool.append(3, pair, WHY)
    await spool.append(1, other, SpoolReason.OUTCOME_UNKNOWN)
    (path,) = segment_files(spool.folder.path)
    expected = [
        encode_frame(p, c.timestamp_ms, c.key, c.value)
        for p, shares in ((3, pair), (1, other))
        for c in clicks_of(shares)
    ]
    assert path.read_bytes() == b"".join(expected)
    assert (spool.folder.clicks, spool.folder.bytes, spool.folder.oldest_at_ms) == (3, len(b"".join(expected)), 1_000)
    assert spool.spooled == {WHY: 2, SpoolReason.OUTCOME_UNKNOWN: 1}


async def test_many_appends_share_a_sync(make: Make) -> None:
    """What arrives while the disk is busy is one write and one sync."""
    spool = make(CountingFolder)
    await asyncio.gather(*(spool.append(number % 6, clicks(1), WHY) for number in range(200)))
    assert isinstance(spool.folder, CountingFolder)
    assert spool.folder.syncs == spool.syncs <= 2
    assert spool.folder.clicks == 200


@pytest.mark.parametrize("spare", [-1, 0, 1])
async def test_bytes_are_bounded(make: Make, spare: int) -> None:
    """A write that reaches the bound exactly is taken, one byte more is refused with words, and room reopens it."""
    size = frame_bytes(clicks(10))
    spool = make(bytes_max=size + spare)
    if spare < 0:
        with pytest.raises(TransientError, match="spool is full"):
            await spool.append(0, clicks(10), WHY)
        assert "CLICKLEDGER_API_SPOOL_BYTES_MAX" in spool.why_not_ready()
        assert (spool.refused, spool.folder.clicks, segment_files(spool.folder.path)) == (10, 0, [])
        return
    await spool.append(0, clicks(10), WHY)
    assert spool.why_not_ready() == ""
    with pytest.raises(TransientError, match="spool is full"):
        await spool.append(0, clicks(1), WHY)
    assert "spool is full" in spool.why_not_ready()
    await spool.close_segment()
    spool.folder.remove(spool.folder.segments[0])
    assert spool.why_not_ready() == ""
    await spool.append(0, clicks(10), WHY)


async def test_waiting_clicks_count(make: Make) -> None:
    """The bound holds for what waits for the disk too: appends at once do not slip past it together."""
    spool = make(bytes_max=frame_bytes(clicks(5)))
    appends = [spool.append(0, clicks(1), WHY) for _ in range(20)]
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 5
    assert spool.folder.clicks == 5


async def test_free_disk_is_kept(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that would leave less than the setting free is refused and readiness says why, until there is room."""
    monkeypatch.setattr("ingest_api.spool.WATCH_EVERY_S", 0.01)
    spool = make(free_bytes_min=1 << 62)
    with pytest.raises(TransientError, match="must stay free"):
        await spool.append(0, clicks(1), WHY)
    assert "must stay free" in spool.why_not_ready()
    watching = asyncio.create_task(spool.watch())
    spool._free_bytes_min = 0
    async with asyncio.timeout(10):
        while spool.why_not_ready():
            await asyncio.sleep(0.01)
    watching.cancel()
    await spool.append(0, clicks(1), WHY)


async def test_a_failed_write_is_taken_back(make: Make) -> None:
    """After a disk error nothing of the write stays, what was durable stays, and the next write has a file of its own."""
    spool = make(FaultyFolder)
    assert isinstance(spool.folder, FaultyFolder)
    await spool.append(0, clicks(3), WHY)
    spool.folder.error = OSError(28, "No space left on device")
    with pytest.raises(TransientError, match="No space left") as failed:
        await spool.append(0, clicks(2), WHY)
    assert not isinstance(failed.value, OutcomeUnknown)
    assert "No space left" in spool.why_not_ready()
    spool.folder.error = None
    with pytest.raises(TransientError, match="No space left"):
        await spool.append(0, clicks(1), WHY)
    spool._blocked = ""
    await spool.append(0, clicks(1), WHY)
    assert [path.stat().st_size for path in segment_files(spool.folder.path)] == [
        frame_bytes(clicks(3)),
        frame_bytes(clicks(1)),
    ]
    assert spool.folder.clicks == 4


async def test_a_write_that_cannot_be_taken_back_is_unknown(make: Make) -> None:
    """When the failed bytes cannot be cut off, the clicks may be published later: their outcome is unknown."""
    spool = make(FaultyFolder)
    assert isinstance(spool.folder, FaultyFolder)
    spool.folder.error = OSError(5, "Input/output error")
    spool.folder.cut_error = OSError(5, "Input/output error")
    with pytest.raises(OutcomeUnknown):
        await spool.append(0, clicks(1), WHY)


async def test_a_disk_that_hangs_is_unknown(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync that does not end is waited for with a bound; meanwhile clicks are refused at once."""
    monkeypatch.setattr("ingest_api.spool.WRITE_S_MAX", 0.05)
    spool = make()
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang() -> None:
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()

    hanging = asyncio.create_task(spool._in_thread(hang))
    await asyncio.sleep(0)
    with pytest.raises(OutcomeUnknown, match="did not answer"):
        await spool.append(0, clicks(1), WHY)
    with pytest.raises(TransientError, match="did not answer"):
        await spool.append(0, clicks(1), WHY)
    go_on.set()
    await hanging


async def test_segments_are_closed_when_large(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments keep their order in their names, and none grows far beyond its bound."""
    monkeypatch.setattr("ingest_api.spool_folder.SEGMENT_BYTES", 1_000)
    spool = make()
    for _ in range(12):
        await spool.append(0, clicks(3), WHY)
    sizes = [path.stat().st_size for path in segment_files(spool.folder.path)]
    assert sum(sizes) == 12 * frame_bytes(clicks(3))
    assert max(sizes) < 1_000 + frame_bytes(clicks(3))
    assert [segment.path for segment in spool.folder.segments] == segment_files(spool.folder.path)


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    """A held folder is not claimed twice; the next slot is; what its owner left is found and counted."""
    first = SpoolFolder.claim_first(tmp_path)
    second = SpoolFolder.claim_first(tmp_path)
    assert (first.slot, second.slot) == ("0", "1")
    assert SpoolFolder.claim(tmp_path / "0") is None
    found = clicks_of(clicks(4))
    first.append(b"".join(encode_frame(0, c.timestamp_ms, c.key, c.value) for c in found), 0)
    first.close()
    assert is_orphan(tmp_path / "0")
    again = SpoolFolder.claim(tmp_path / "0")
    assert again is not None
    (segment,) = again.segments
    assert (again.is_counted, again.count(segment)) == (False, (4, 1_000))
    segment.position = len(encode_frame(0, 1_000, found[0].key, found[0].value))
    again.note_progress(segment)
    again.close()
    assert progress_of(tmp_path / "0", segment.path.name) == segment.position
    last = SpoolFolder.claim(tmp_path / "0")
    assert last is not None
    assert last.count(last.segments[0]) == (3, 1_001)
    last.close()
    second.close()


@pytest.mark.parametrize("content", [b"", b"{", b'{"segment":1}', b"[]", b'{"segment":"other","position":50}'])
def test_an_unreadable_progress_skips_nothing(tmp_path: Path, content: bytes) -> None:
    """A progress that is torn, or speaks of another segment, means that everything is sent again."""
    folder = SpoolFolder.claim(tmp_path)
    assert folder is not None
    folder.append(encode_frame(0, 1, b"k", b"v"), 0)
    folder.close()
    (tmp_path / "progress").write_bytes(content)
    again = SpoolFolder.claim(tmp_path)
    assert again is not None
    assert again.segments[0].position == 0
    again.close()


def test_a_registration_is_work_to_do(tmp_path: Path) -> None:
    """An empty folder is nobody's business, unless the catalog still has a record of it."""
    folder = SpoolFolder.claim(tmp_path)
    assert folder is not None
    assert not is_orphan(tmp_path)
    folder.note_registered(["node/0-5f0c2a91", "node/0"])
    assert is_orphan(tmp_path)
    assert folder.registered == ["node/0-5f0c2a91", "node/0"]
    folder.note_registered([])
    assert folder.registered == []
    assert not is_orphan(tmp_path)
    folder.set_aside("x.damaged", b"abc")
    assert [path.read_bytes() for path in side_files(tmp_path)] == [b"abc"]
    assert not folder.is_done
    folder.close()


def test_the_probe_needs_free_disk(tmp_path: Path) -> None:
    """A disk that may not be filled further is not tried."""
    folder = SpoolFolder.claim(tmp_path)
    assert folder is not None
    folder.probe(0)
    with pytest.raises(DiskFull):
        folder.probe(1 << 62)
    folder.close()
