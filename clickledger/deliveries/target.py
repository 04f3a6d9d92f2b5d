"""Where deliveries go: a folder, or a bucket of an object store. Whatever a name stands for appears whole, at once.

`put_new` never replaces: it is what two deliverers at once, or one before and one after a crash, agree by.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore, from_url

from shared.errors import OperatorError, TransientError

SCHEMES: Final = ("s3://", "gs://", "az://")
_WORKING: Final = ".working"
_ERRORS: Final = (BaseError, OSError)
"""What the library raises: a missing bucket or object is Python's own FileNotFoundError."""
_GONE: Final = "404 Not Found"
"""In the text of the library's general error: there is no such bucket."""
_FINAL: Final = ("PermissionDeniedError", "UnauthenticatedError", "NotSupportedError", "InvalidPathError")


class Target(Protocol):
    """A place for deliveries. Its calls raise OperatorError, TransientError or OSError."""

    @property
    def workplace(self) -> Path:
        """This process's folder for files that are being made."""

    async def put_new(self, name: str, content: bytes) -> bool:
        """Store a small object unless the name is taken; whether it was stored."""

    async def put_file(self, name: str, file: Path) -> None:
        """Store a file under a name that says what is in it: an equal one that is there already stays."""

    async def read(self, name: str) -> bytes | None:
        """A small object's content, None without one."""

    async def names(self, folder: str) -> Sequence[str]:
        """The names in a folder, each with the folder's."""

    async def delete(self, name: str) -> None:
        """Delete an object; one that is not there is fine."""


@contextmanager
def open_target(text: str) -> Iterator[Target]:
    """The target of `--to`: a URL of an object store, else a folder. Raises OperatorError for a bad URL."""
    if not text.startswith(SCHEMES):
        if "://" in text:
            raise OperatorError(f"--to {text}: not a folder, nor one of {', '.join(SCHEMES)}…")
        with _workplace(Path(text) / _WORKING) as workplace:  # in the same file system, so that a link is possible
            yield Folder(Path(text), workplace)
        return
    try:
        store = from_url(text)
    except (BaseError, ValueError) as exc:
        raise OperatorError(f"--to {text}: {exc}") from exc
    with _workplace(Path(tempfile.gettempdir()) / f"clickledger-deliveries-{os.getuid()}") as workplace:
        yield Objects(store, workplace)


@contextmanager
def _workplace(base: Path) -> Iterator[Path]:
    """A folder of this process's own, deleted at the end; those of processes that were killed are deleted now."""
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = base / secrets.token_hex(8)
    with _locked(base, fcntl.LOCK_EX):
        for left in base.iterdir():
            with contextlib.suppress(BlockingIOError), _locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(left)
        own.mkdir()
        lock = contextlib.ExitStack()
        lock.enter_context(_locked(own, fcntl.LOCK_EX))
    with lock:
        try:
            yield own
        finally:
            shutil.rmtree(own)


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


class Folder:
    """A folder of this machine, or one that is mounted here. A hard link is refused where the name is taken."""

    def __init__(self, path: Path, workplace: Path) -> None:
        self._path = path
        self.workplace = workplace

    async def put_new(self, name: str, content: bytes) -> bool:
        """Written whole, then linked."""
        working = self.workplace / "new"
        working.write_bytes(content)
        try:
            return self._link(working, name)
        finally:
            working.unlink()

    async def put_file(self, name: str, file: Path) -> None:
        """The same with a file of the workplace."""
        self._link(file, name)

    async def read(self, name: str) -> bytes | None:
        """The file's content."""
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None

    async def names(self, folder: str) -> Sequence[str]:
        """The files of a folder."""
        place = self._path / folder
        return sorted(f"{folder}/{each.name}" for each in place.iterdir()) if place.is_dir() else []

    async def delete(self, name: str) -> None:
        """Unlink it."""
        (self._path / name).unlink(missing_ok=True)

    def _link(self, file: Path, name: str) -> bool:
        place = self._path / name
        _sync(file)
        if not place.parent.is_dir():
            place.parent.mkdir(exist_ok=True)
            _sync(self._path)
        try:
            os.link(file, place)
        except FileExistsError:
            return False
        _sync(place.parent)
        return True


class Objects:
    """A bucket, or a prefix in one. A conditional put decides (`If-None-Match: *`); large files go up in parts."""

    def __init__(self, store: ObjectStore, workplace: Path) -> None:
        self._store = store
        self.workplace = workplace

    async def put_new(self, name: str, content: bytes) -> bool:
        """A put that is refused where the name is taken."""
        try:
            await obstore.put_async(self._store, name, content, mode="create")
        except AlreadyExistsError:
            return False
        except _ERRORS as exc:
            raise _failed(name, exc) from exc
        return True

    async def put_file(self, name: str, file: Path) -> None:
        """Upload it, unless an object of this name and size is there."""
        try:
            found = await obstore.head_async(self._store, name)
            if found["size"] == file.stat().st_size:  # noqa: ASYNC240 # of a local file
                return
        except FileNotFoundError:
            pass  # the usual case
        except _ERRORS as exc:
            raise _failed(name, exc) from exc
        try:
            await obstore.put_async(self._store, name, file, max_concurrency=2)
        except _ERRORS as exc:
            raise _failed(name, exc) from exc

    async def read(self, name: str) -> bytes | None:
        """The object's content."""
        try:
            return bytes(await (await obstore.get_async(self._store, name)).bytes_async())
        except FileNotFoundError:
            return None
        except _ERRORS as exc:
            raise _failed(name, exc) from exc

    async def names(self, folder: str) -> Sequence[str]:
        """The objects below a prefix of whole path segments."""
        found: list[str] = []
        try:
            async for some in obstore.list(self._store, folder):
                found += [each["path"] for each in some]
        except _ERRORS as exc:
            raise _failed(folder, exc) from exc
        return sorted(found)

    async def delete(self, name: str) -> None:
        """Delete it."""
        try:
            await obstore.delete_async(self._store, name)
        except FileNotFoundError:
            return
        except _ERRORS as exc:
            raise _failed(name, exc) from exc


def _failed(name: str, exc: Exception) -> OperatorError | TransientError:
    """The library's error by what is to be done: its retries are over, so what is not about rights may be tried later."""
    text = " ".join(f"object store, {name}: {exc}".split())[:500]
    is_final = isinstance(exc, (FileNotFoundError, PermissionError)) or type(exc).__name__ in _FINAL or _GONE in text
    return OperatorError(text) if is_final else TransientError(text)


def _sync(path: Path) -> None:
    """Bring a file, or the names of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
