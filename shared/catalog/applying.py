"""Writes records of the catalog topic into a copy."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import lmdb
import orjson

from shared.catalog.packing import PackedLink, Packer
from shared.catalog.store import Store, db_key, meta_int
from shared.kafka import Record
from shared.stored_links import StoredLink, record_of, store_link

log = logging.getLogger(__name__)

AT_ONCE: Final = 1_000
"""Records that are held decoded, some MB."""
_LINK: Final = b"link:"


class Noted(NamedTuple):
    """What a copy says of itself."""

    position: int
    """The topic's offset from which on it is to be read."""
    end: int
    """The topic's end when it was last asked for."""
    is_complete: bool
    """Whether it was level with the topic at least once."""
    kinds: frozenset[str]
    """What was kept of the topic."""


class Copy:
    """The copy in a store, for the one process that writes it. `kinds` limits what is kept; every record counts for the version."""

    def __init__(self, store: Store, kinds: Collection[str]) -> None:
        self.store = store
        self._kinds = frozenset(kinds)
        self._packer = Packer()

    def noted(self) -> Noted:
        """What it says of itself; of an empty one no kinds."""
        with self.store.env.begin() as txn:
            return Noted(
                meta_int(txn, self.store, b"version", -1) + 1,
                meta_int(txn, self.store, b"end", 0),
                bool(meta_int(txn, self.store, b"complete", 0)),
                frozenset((txn.get(b"kinds", db=self.store.meta) or b"").decode().split()),
            )

    def note(self, position: int, end: int, *, is_complete: bool) -> None:
        """Note how far the topic was read, and its end."""
        with self.store.env.begin(write=True) as txn:
            txn.put(b"version", str(position - 1).encode(), db=self.store.meta)
            txn.put(b"end", str(end).encode(), db=self.store.meta)
            if is_complete:
                txn.put(b"complete", b"1", db=self.store.meta)

    def wipe(self, begin: int) -> None:
        """Begin anew, with the topic's record at `begin`."""
        with self.store.env.begin(write=True) as txn:
            for table in self.store.tables:
                txn.drop(table, delete=False)
            txn.put(b"version", str(begin - 1).encode(), db=self.store.meta)
            txn.put(b"kinds", " ".join(sorted(self._kinds)).encode(), db=self.store.meta)

    def apply(self, records: Sequence[Record]) -> None:
        """Apply records in order, all or none."""
        with self.store.env.begin(write=True) as txn:
            self._packer.refresh(txn, self.store)
            prefixes = meta_int(txn, self.store, b"prefixes", 0)
            for begin in range(0, len(records), AT_ONCE):
                prefixes += self._apply_some(txn, records[begin : begin + AT_ONCE])
            txn.put(b"prefixes", str(prefixes).encode(), db=self.store.meta)
            txn.put(b"version", str(records[-1].offset).encode(), db=self.store.meta)

    def _apply_some(self, txn: lmdb.Transaction[bytes], records: Sequence[Record]) -> int:
        """Apply records; by how much the number of prefix links changes."""
        read = [_change(record.key, record.value) for record in records if record.key and self._is_kept(record.key)]
        changes = [change for change in read if change is not None]
        links = [change.link for change in changes if change.link is not None]
        self._packer.look_at(txn, self.store, links)
        return sum([self._put(txn, change) for change in changes])

    def _is_kept(self, name: bytes) -> bool:
        return name.partition(b":")[0].decode(errors="replace") in self._kinds

    def _put(self, txn: lmdb.Transaction[bytes], change: _Change) -> int:
        """Store or delete one record; by how much the number of prefix links changes."""
        name, value, record, link = change
        is_link = name.startswith(_LINK)
        table, key = (self.store.links, db_key(name[len(_LINK) :])) if is_link else (self.store.records, db_key(name))
        stored = txn.get(key, db=table)
        if value is None:
            txn.delete(key, db=table)
        else:
            txn.put(key, value if link is None else self._packer.pack(link), db=table)
        if is_link:
            before = {} if stored is None else orjson.loads(record_of(self._packer.unpack(PackedLink(stored))))
            return _is_prefix(record) - _is_prefix(before)
        if name.startswith(b"key:"):
            self._index_secrets(txn, name[4:], {} if stored is None else orjson.loads(stored), record)
        return 0

    def _index_secrets(
        self, txn: lmdb.Transaction[bytes], key_id: bytes, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> None:
        for digest in _digests(before):
            txn.delete(digest, db=self.store.digests)
        for digest in _digests(after):
            txn.put(digest, key_id, db=self.store.digests)


class _Change(NamedTuple):
    """A record of the topic."""

    name: bytes
    value: bytes | None
    """None deletes."""
    record: Mapping[str, Any]
    """What `value` holds; empty for a deletion."""
    link: StoredLink | None
    """A link as it is to be stored."""


def _change(name: bytes, value: bytes | None) -> _Change | None:
    if value is None:
        return _Change(name, None, {}, None)
    record = _object_of(value)
    if record is None:
        log.error("catalog: %r holds no JSON object, ignored", name[:80])
        return None
    return _Change(name, value, record, store_link(value, record) if name.startswith(_LINK) else None)


def _object_of(value: bytes) -> dict[str, Any] | None:
    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def _digests(record: Mapping[str, Any]) -> list[bytes]:
    return [secret["digest"].encode() for secret in record.get("secrets", ())]


def _is_prefix(record: Mapping[str, Any]) -> int:
    return int(record.get("match") == "prefix")
