"""The LMDB file of a folder's copy, as the follower writes it and readers map it.

A copy stands in the folder itself until it is rewritten (docs/adr/0043), then in a subfolder to which the link `current` points.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from pathlib import Path
from typing import ClassVar, Final
from weakref import WeakValueDictionary

import lmdb

KEY_BYTES_MAX: Final = 500
"""LMDB takes keys of up to 511 bytes; longer ones are hashed."""
_READERS_MAX: Final = 512
FORM: Final = 4
"""Of what the tables hold, in their names: a copy of another form is never read, and its follower begins anew. 2: links have heads;
3: links are compressed; 4: links have a table of their own."""
_NAMES: Final = tuple(b"%b.%d" % (name, FORM) for name in (b"links", b"records", b"digests", b"meta"))
_TABLES_MAX: Final = 8
"""The four, and as many of another form until they are dropped."""
_CURRENT: Final = "current"
_REWRITTEN: Final = "copy-"
_FILES: Final = ("data.mdb", "lock.mdb")


class Store:
    """The LMDB environment and its four tables.

    Links stand by host and path, other records by `kind:id`, ids of keys by digest, and in `meta` what the copy says of itself.

    LMDB must not be opened twice in one process, so that a follower and a reader of one folder share a store; it is
    closed, and its pages leave the process, with its last user.
    """

    _open: ClassVar[WeakValueDictionary[Path, Store]] = WeakValueDictionary()

    @classmethod
    def of(cls, folder: Path, map_bytes: int) -> Store:
        """The store that a folder's copy stands in now, made at its first use."""
        while True:
            path = current(folder)
            try:
                store = cls.at(path, map_bytes)
            except (OSError, lmdb.Error):
                if current(folder) == path:
                    raise
                continue  # it was removed meanwhile
            if current(folder) == path:  # else it may be an empty one, in the place of one that was removed
                return store

    @classmethod
    def at(cls, path: Path, map_bytes: int) -> Store:
        """The store in this very folder, made at its first use."""
        path.mkdir(parents=True, exist_ok=True)
        path = path.resolve()
        store = cls._open.get(path)
        if store is None:
            store = cls._open[path] = cls(path, map_bytes)
        return store

    def __init__(self, path: Path, map_bytes: int) -> None:
        self.path = path
        self.map_bytes = map_bytes
        self.env = lmdb.open(
            str(path),
            map_size=map_bytes,
            max_dbs=_TABLES_MAX,
            max_readers=_READERS_MAX,
            metasync=False,
            readahead=False,
        )
        self.tables = tuple(map(self.env.open_db, _NAMES))
        self.links, self.records, self.digests, self.meta = self.tables

    def drop_other_forms(self) -> None:
        """Give the space of copies of other forms back. For the one process that writes."""
        with self.env.begin(write=True) as txn:
            for name in [name for name in txn.cursor().iternext(values=False) if name not in _NAMES]:
                txn.drop(self.env.open_db(name, txn))


def current(folder: Path) -> Path:
    """Where the copy of a folder stands now."""
    try:
        return folder / (folder / _CURRENT).readlink()
    except FileNotFoundError:
        return folder


def beside(folder: Path) -> Path:
    """Where a folder's copy may be rewritten: another place each time, for a process may still have the last one open."""
    return folder / f"{_REWRITTEN}{secrets.token_hex(8)}"


def turn_to(folder: Path, path: Path) -> None:
    """Make `path` the place of the folder's copy, at one stroke; readers see it with their next snapshot."""
    link = folder / f"{_CURRENT}.new"
    link.unlink(missing_ok=True)
    link.symlink_to(path.name)
    link.replace(folder / _CURRENT)


def remove_others(folder: Path) -> None:
    """Remove the files of former and of half-written copies. Whoever has one open keeps it until it lets go of it."""
    now = current(folder)
    for path in folder.glob(f"{_REWRITTEN}*"):
        if path != now:
            shutil.rmtree(path, ignore_errors=True)  # somebody may just be opening it; it is removed the next time
    if now != folder:
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)


def heard_file(folder: Path) -> Path:
    """Its modification time is when the folder's copy was last proved level with the topic."""
    return folder / "heard"


def db_key(name: bytes) -> bytes:
    """The LMDB key of a link or of a record's Kafka key; a long one is cut and hashed, and an empty one, which LMDB has not, a NUL."""
    if len(name) <= KEY_BYTES_MAX:
        return name or b"\0"
    return name[: KEY_BYTES_MAX - 64] + hashlib.sha256(name).hexdigest().encode()


def meta_int(txn: lmdb.Transaction[bytes], store: Store, name: bytes, default: int) -> int:
    """A number of the table `meta`."""
    value = txn.get(name, db=store.meta)
    return default if value is None else int(value)
