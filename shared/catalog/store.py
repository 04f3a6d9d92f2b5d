"""The LMDB file of a folder, as the follower writes it and readers map it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar, Final
from weakref import WeakValueDictionary

import lmdb

KEY_BYTES_MAX: Final = 500
"""LMDB takes keys of up to 511 bytes; longer ones are hashed."""
_READERS_MAX: Final = 512
FORM: Final = 3
"""Of what the tables hold, in their names: a copy of another form is never read, and its follower begins anew. 2: links have heads;
3: links are compressed."""
_NAMES: Final = tuple(b"%b.%d" % (name, FORM) for name in (b"records", b"digests", b"meta"))
_TABLES_MAX: Final = 6
"""The three, and as many of another form until they are dropped."""


class Store:
    """The LMDB environment and its three tables.

    LMDB must not be opened twice in one process, so that a follower and a reader of one folder share a store; it is
    closed with its last user.
    """

    _open: ClassVar[WeakValueDictionary[Path, Store]] = WeakValueDictionary()

    @classmethod
    def at(cls, path: Path, map_bytes: int) -> Store:
        """The store in a folder, made at its first use."""
        path.mkdir(parents=True, exist_ok=True)
        path = path.resolve()
        store = cls._open.get(path)
        if store is None:
            store = cls._open[path] = cls(path, map_bytes)
        return store

    def __init__(self, path: Path, map_bytes: int) -> None:
        self.path = path
        self.env = lmdb.open(
            str(path),
            map_size=map_bytes,
            max_dbs=_TABLES_MAX,
            max_readers=_READERS_MAX,
            metasync=False,
            readahead=False,
        )
        self.records, self.digests, self.meta = map(self.env.open_db, _NAMES)

    def drop_other_forms(self) -> None:
        """Give the space of copies of other forms back. For the one process that writes."""
        with self.env.begin(write=True) as txn:
            for name in [name for name in txn.cursor().iternext(values=False) if name not in _NAMES]:
                txn.drop(self.env.open_db(name, txn))

    @property
    def heard_file(self) -> Path:
        """Its modification time is when the copy was last proved level with the topic."""
        return self.path / "heard"


def db_key(name: bytes) -> bytes:
    """The LMDB key of a record's Kafka key; a long one is cut and hashed."""
    if len(name) <= KEY_BYTES_MAX:
        return name
    return name[: KEY_BYTES_MAX - 64] + hashlib.sha256(name).hexdigest().encode()


def meta_int(txn: lmdb.Transaction[bytes], store: Store, name: bytes, default: int) -> int:
    """A number of the table `meta`."""
    value = txn.get(name, db=store.meta)
    return default if value is None else int(value)
