"""One spool's folder on disk: segment files, what was replayed of them, what was set aside. Blocking; no event loop.

Rules. A folder belongs to the process that holds its lock; the kernel drops the lock when the process ends, a stopped
(SIGSTOP) process keeps it. Bytes are durable when `append` returns. A segment is deleted only by `remove`, after every
click in it was acknowledged by Kafka; bytes that are no frame are copied to a side file first. Segments are read only
after they were closed. `progress` names the segment it speaks of, and segment names are never used twice, so that an
old `progress` cannot skip a new click; when it is lost, clicks are sent again, which is harmless.

    lock                          held by the owner
    000000000012-9f3c2a10.spool   frames, oldest file first
    progress                      {"segment": name, "position": bytes replayed}
    registered                    id of the folder's record in the catalog, while there is one; in further lines those that it had
                                  before and that are not taken back yet
    set-aside/…                   damaged bytes and clicks that Kafka can never take
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from ingest_api.frames import Whole, scan
from shared.errors import OperatorError

SLOTS_MAX: Final = 256
"""Folders of one machine; as many as there may be processes of one service."""
SEGMENT_BYTES: Final = 16 << 20
"""A segment is closed beyond this size: it is read and deleted as a whole."""
PROBE_BYTES: Final = 4_096
_SUFFIX: Final = ".spool"
_PROGRESS: Final = "progress"
_REGISTERED: Final = "registered"
_SET_ASIDE: Final = "set-aside"


class DiskFull(OSError):
    """The disk has less free space than must stay free."""


class NotCutBack(OSError):
    """A write failed and its bytes could not be taken back: what it held may be read later."""


@dataclass(slots=True)
class Segment:
    """A file of frames and what is still to be sent of it."""

    path: Path
    bytes: int
    clicks: int = 0
    first_at_ms: int | None = None
    """Timestamp of the first click that is still to be sent."""
    position: int = 0
    """Bytes at its beginning that were replayed."""
    is_counted: bool = True
    """Whether `clicks` is known: not yet for what an earlier process left."""


class SpoolFolder:
    """A folder that this process holds. Not for two threads at once, but `append` may run beside reads."""

    def __init__(self, path: Path, lock: IO[bytes]) -> None:
        self.path = path
        self._lock = lock
        self._file: int | None = None
        self._written = 0
        self.segments: list[Segment] = []
        """Oldest first; the last one may be open."""
        self.clicks = 0
        """Clicks still to be sent, as far as they were counted."""
        self.bytes = 0
        """Bytes of all segments."""
        self.set_aside_count = len(side_files(path))

    @classmethod
    def claim(cls, path: Path) -> SpoolFolder | None:
        """The folder at `path`, made when it is not there; None while another process holds it. Raises OSError."""
        _make(path)
        lock = (path / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        folder = cls(path, lock)
        folder._load()
        return folder

    @classmethod
    def claim_first(cls, root: Path) -> SpoolFolder:
        """The first folder below `root` that nobody holds. Raises OperatorError when all are taken, OSError."""
        for slot in range(SLOTS_MAX):
            folder = cls.claim(root / str(slot))
            if folder is not None:
                return folder
        raise OperatorError(f"{root}: all {SLOTS_MAX} spool folders are taken")

    @property
    def slot(self) -> str:
        """Its name below the root."""
        return self.path.name

    @property
    def is_counted(self) -> bool:
        """Whether `clicks` counts every segment."""
        return all(segment.is_counted for segment in self.segments)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to be sent and nothing that waits for a human."""
        return not self.segments and not self.set_aside_count

    @property
    def oldest_at_ms(self) -> int | None:
        """When the oldest click that is still to be sent was received."""
        return next((s.first_at_ms for s in self.segments if s.first_at_ms is not None), None)

    def close(self) -> None:
        """Give the folder up."""
        self.close_segment()
        self._lock.close()

    def append(self, frames: bytes, free_bytes_min: int) -> Segment:
        """Write frames behind the newest segment and make them durable; the segment that holds them.

        The caller adds them by `note_appended`. Raises OSError, DiskFull among them: nothing was kept; NotCutBack:
        something may have been.
        """
        self.refuse_full_disk(len(frames), free_bytes_min)
        if self._file is not None and self._written >= SEGMENT_BYTES:
            self.close_segment()
        if self._file is None:
            self._open_segment()
        assert self._file is not None
        try:
            self._write(self._file, frames)
        except OSError as exc:
            self._cut_back(exc)
            raise
        self._written += len(frames)
        return self.segments[-1]

    def _write(self, file: int, frames: bytes) -> None:
        _write_all(file, frames)
        os.fdatasync(file)

    def refuse_full_disk(self, more_bytes: int, free_bytes_min: int) -> None:
        """Raise DiskFull when `more_bytes` would leave less than `free_bytes_min` on the disk."""
        free = shutil.disk_usage(self.path).free
        if free - more_bytes < free_bytes_min:
            raise DiskFull(f"{self.path}: {free:,} bytes are free on this disk, {free_bytes_min:,} must stay free")

    def probe(self, free_bytes_min: int) -> None:
        """Raise OSError while a small file cannot be made durable here."""
        self.refuse_full_disk(PROBE_BYTES, free_bytes_min)
        path = self.path / "probe"
        _write_durably(path, b"\0" * PROBE_BYTES)
        path.unlink()

    def close_segment(self) -> None:
        """Write no more into the open segment, so that it may be read."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    @property
    def is_writing(self) -> bool:
        """Whether the newest segment is still open."""
        return self._file is not None

    def note_progress(self, segment: Segment) -> None:
        """Make `segment.position` durable. Raises OSError."""
        record = {"segment": segment.path.name, "position": segment.position}
        _replace_durably(self.path / _PROGRESS, json.dumps(record).encode())

    def remove(self, segment: Segment) -> None:
        """Delete a segment, all of whose clicks were acknowledged."""
        segment.path.unlink()
        self.segments.remove(segment)
        self.clicks -= segment.clicks
        self.bytes -= segment.bytes

    def set_aside(self, name: str, content: bytes) -> Path:
        """Keep bytes that cannot be published in a side file of their own, durably. Raises OSError."""
        side = self.path / _SET_ASIDE
        _make(side)
        path = side / name
        _replace_durably(path, content)
        self.look_aside()
        return path

    def look_aside(self) -> None:
        """Count the side files again: a human may have taken some away."""
        self.set_aside_count = len(side_files(self.path))

    @property
    def registered(self) -> list[str]:
        """The ids of the folder's records in the catalog, the present one first; none when there is no record."""
        try:
            return (self.path / _REGISTERED).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def note_registered(self, record_ids: Sequence[str]) -> None:
        """Remember the ids of the catalog's records before they are written, and after they were deleted. Raises OSError."""
        if record_ids:
            _replace_durably(self.path / _REGISTERED, "\n".join(record_ids).encode())
        else:
            (self.path / _REGISTERED).unlink(missing_ok=True)

    def _load(self) -> None:
        """Take stock of the segments that are there."""
        progress = _read_progress(self.path / _PROGRESS)
        for path in segment_files(self.path):
            segment = Segment(path, path.stat().st_size, is_counted=False)
            if progress is not None and progress[0] == path.name:
                segment.position = min(progress[1], segment.bytes)
            self.segments.append(segment)
            self.bytes += segment.bytes

    def note_appended(self, segment: Segment, clicks: int, size: int, first_at_ms: int) -> None:
        """Count what `append` wrote."""
        segment.clicks += clicks
        segment.bytes += size
        segment.first_at_ms = first_at_ms if segment.first_at_ms is None else segment.first_at_ms
        self.clicks += clicks
        self.bytes += size

    def note_left(self, segment: Segment, clicks: int, first_at_ms: int | None) -> None:
        """Say how many clicks of a segment are still to be sent, and when the first of them was received."""
        self.clicks += clicks - segment.clicks
        segment.clicks, segment.first_at_ms, segment.is_counted = clicks, first_at_ms, True

    def count(self, segment: Segment) -> tuple[int, int | None]:
        """(clicks still to be sent, the first one's timestamp) of a closed segment. Reads it. Raises OSError."""
        clicks, first_at_ms = 0, None
        for piece in scan(segment.path.read_bytes(), segment.position):
            if isinstance(piece, Whole):
                clicks += 1
                first_at_ms = piece.click.timestamp_ms if first_at_ms is None else first_at_ms
        return clicks, first_at_ms

    def _open_segment(self) -> None:
        newest = max((int(path.name.partition("-")[0]) for path in segment_files(self.path)), default=0)
        path = self.path / f"{newest + 1:012d}-{secrets.token_hex(4)}{_SUFFIX}"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            sync_folder(self.path)  # else a power cut could take the file's name and all that was written to it
        except OSError:
            os.close(file)
            path.unlink()
            raise
        self._file, self._written = file, 0
        self.segments.append(Segment(path, 0))

    def _cut_back(self, cause: OSError) -> None:
        """Take back what a failed write left; the file is not written to again, since a failed sync may drop more."""
        assert self._file is not None
        try:
            os.ftruncate(self._file, self._written)
            os.fdatasync(self._file)
        except OSError as exc:
            raise NotCutBack(f"{self.path}: {cause}; then: {exc}") from exc
        finally:
            self.close_segment()


def segment_files(path: Path) -> list[Path]:
    """The segment files of a folder, oldest first; none when there is no such folder."""
    return sorted(path.glob(f"*{_SUFFIX}"))


def side_files(path: Path) -> list[Path]:
    """What was set aside in a folder."""
    return sorted(each for each in (path / _SET_ASIDE).glob("*") if not each.name.startswith("."))


def folders(root: Path) -> list[Path]:
    """Every spool folder below `root`, by slot; none when there is no `root`."""
    return sorted((path for path in root.glob("*") if path.name.isdecimal()), key=lambda path: int(path.name))


def is_orphan(path: Path) -> bool:
    """Whether there is anything to do in a folder: clicks to be sent, or a record in the catalog to be deleted."""
    return (path / _REGISTERED).exists() or bool(segment_files(path))


def progress_of(path: Path, segment: str) -> int:
    """How many bytes of a segment were replayed, as far as the folder knows."""
    progress = _read_progress(path / _PROGRESS)
    return progress[1] if progress is not None and progress[0] == segment else 0


def sync_folder(path: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make(path: Path) -> None:
    """Make a folder and those above it, durably."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    for each in missing:
        sync_folder(each.parent)


def _read_progress(path: Path) -> tuple[str, int] | None:
    """(segment, position); None when nothing readable stands there: then everything is sent again."""
    try:
        record = json.loads(path.read_bytes())
        return str(record["segment"]), max(0, int(record["position"]))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _replace_durably(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")
    _write_durably(fresh, content)
    fresh.replace(path)
    sync_folder(path.parent)


def _write_durably(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
