"""Files `<data>/health/<name>-<pid>`, in which processes leave their ports for whoever looks for them on this machine.

A file is true as long as its process lives, which its lock says: it ends with the process, however that ends, and knows
no other process that happens to have the same id later. What has no lock is nobody's any more: it is not read, and the
next process that starts here removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self

FOLDER = "health"


class HealthFile:
    """A file of this process, until it is closed; also as a context manager."""

    def __init__(self, data: Path, name: str, pid: int, text: str = "") -> None:
        """Write it, locked before it can be seen. Raises OSError."""
        folder = data / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for path in _files(folder):
            if not is_locked(path):
                path.unlink(missing_ok=True)
        self._path = folder / f"{name}-{pid}"
        scratch = folder / f".{self._path.name}"
        self._file: IO[str] = scratch.open("w", encoding="ascii")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.write(text)
        self._file.flush()
        scratch.replace(self._path)

    def close(self) -> None:
        """Take it away."""
        self._path.unlink(missing_ok=True)
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_port(data: Path, name: str, pid: int) -> int | None:
    """The port that a living process has left under this name; None when there is none."""
    path = data / FOLDER / f"{name}-{pid}"
    with contextlib.suppress(FileNotFoundError):
        if is_locked(path):
            return int(path.read_text(encoding="ascii"))
    return None


def living(data: Path, name: str) -> list[int]:
    """The processes that stand under a name, by their ids."""
    found = (data / FOLDER).glob(f"{name}-*")
    return sorted(int(path.name.rpartition("-")[2]) for path in found if is_locked(path))


def _files(folder: Path) -> Iterator[Path]:
    """All but those that are just being written."""
    return (path for path in folder.iterdir() if not path.name.startswith("."))


def is_locked(path: Path) -> bool:
    """Whether a living process holds the file; False when there is none."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
