"""Look-ups in the local copy, for any process of the machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from shared.catalog.packing import PackedLink, Unpacker
from shared.catalog.records import Kind, Match, promotion_key
from shared.catalog.store import KEY_BYTES_MAX, Store, current, db_key, heard_file, meta_int
from shared.errors import TransientError
from shared.settings import CatalogSettings
from shared.stored_links import StoredLink, record_of

CURRENT_MS: Final = 5_000
"""How long after the last proof of being level with the topic an unknown link counts as unknown (proofs come each second)."""
PREFIX_SEGMENTS_MAX: Final = 32
"""Path segments of a URL that are tried as prefixes, from the longest down."""


class Catalog:
    """A reader of the local copy; cheap enough for the hot path. Open it after forking; use it on one thread.

    Answers come from one snapshot, renewed by `refresh`.
    """

    def __init__(self, settings: CatalogSettings, path: Path) -> None:
        self._settings = settings
        self._folder = path.resolve()
        heard_s = self._heard_s()
        self._store = Store.of(self._folder, settings.catalog_map_bytes)
        self._txn = self._store.env.begin()
        self.version = -1
        self.known_end = 0
        """The topic's end offset when the follower last asked."""
        self.age_ms = 0
        """Milliseconds since the copy was last proved level with the topic."""
        self.is_ready = False
        self.is_current = False
        self.is_complete = False
        """Whether the copy was level with the topic at least once."""
        self._prefixes = 0
        self._unpacker = Unpacker()
        self._read_meta(heard_s)

    def refresh(self) -> bool:
        """Renew the snapshot; True when the version changed."""
        before = self.version
        self._txn.abort()
        # Before the snapshot: what is known of the topic's end must not be older than its proof.
        heard_s = self._heard_s()
        if current(self._folder) != self._store.path:
            self._store = Store.of(self._folder, self._settings.catalog_map_bytes)
        self._txn = self._store.env.begin()  # the library keeps a spare one, so this is a renewal
        self._read_meta(heard_s)
        return self.version != before

    def _heard_s(self) -> float:
        """When the copy was last proved level with the topic, in seconds since the epoch; 0 for never."""
        try:
            return heard_file(self._folder).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _read_meta(self, heard_s: float) -> None:
        self.version = meta_int(self._txn, self._store, b"version", -1)
        self.known_end = meta_int(self._txn, self._store, b"end", 0)
        self._prefixes = meta_int(self._txn, self._store, b"prefixes", 0)
        self._unpacker.refresh(self._txn, self._store)
        self.is_complete = bool(meta_int(self._txn, self._store, b"complete", 0))
        self.age_ms = max(0, int((time.time() - heard_s) * 1000))
        self.is_ready = self.is_complete and self.age_ms <= self._settings.catalog_age_ms_max
        self.is_current = self.is_complete and self.age_ms <= CURRENT_MS

    def _record(self, kind: Kind, record_id: str) -> dict[str, Any] | None:
        value = self._txn.get(db_key(f"{kind}:{record_id}".encode()), db=self._store.records)
        return None if value is None else orjson.loads(value)

    def link(self, key: str) -> bytes | None:
        """The link record registered under exactly this key (host/path)."""
        stored = self._link(key)
        return None if stored is None else record_of(stored)

    def _link(self, key: str) -> StoredLink | None:
        name = key.encode()
        if not 0 < len(name) <= KEY_BYTES_MAX:
            name = db_key(name)
        packed: PackedLink | None = self._txn.get(name, None, self._store.links)  # type: ignore[assignment]
        return None if packed is None else self._unpacker.unpack(packed)

    def resolve(self, key: str) -> Match | None:
        """The link of a URL key: the exact one, else the longest registered prefix of whole path segments."""
        link = self._link(key)
        if link is not None:
            return tuple.__new__(Match, ("exact", link))  # cheaper than calling the class
        if not self._prefixes:
            return None
        for _ in range(PREFIX_SEGMENTS_MAX):
            key, slash, _rest = key.rpartition("/")
            if not slash:
                return None
            link = self._link(key)
            if link is not None and orjson.loads(record_of(link)).get("match") == "prefix":
                return Match("prefix", link)
        return None

    def exact_links(self, keys: Sequence[str]) -> list[StoredLink] | None:
        """The links registered under exactly these keys, in order; None when any has none. At least one key."""
        get, links = self._txn.get, self._store.links
        names = [key.encode() for key in keys]
        if max(map(len, names)) > KEY_BYTES_MAX or not all(names):
            names = [db_key(name) for name in names]
        packed: list[Any] = [link for name in names if (link := get(name, None, links)) is not None]
        return self._unpacker.unpack_all(packed) if len(packed) == len(names) else None

    def links_behind(self, name: bytes, links_max: int) -> list[tuple[bytes, StoredLink]]:
        """The links that follow a name (a key, or what this gave), with their names in their order; b"" for the first.

        Fewer than `links_max` at the end only. A name is the key, cut and hashed where it is over 500 bytes.
        """
        with self._txn.cursor(db=self._store.links) as cursor:
            if not cursor.set_range(db_key(name)):
                return []
            if cursor.key() == name and not cursor.next():
                return []
            packed: list[tuple[bytes, Any]] = list(islice(cursor.iternext(), links_max))
        links = self._unpacker.unpack_all([link for _, link in packed])
        return [(name, link) for (name, _), link in zip(packed, links, strict=True)]

    def tenant(self, tenant: str) -> dict[str, Any] | None:
        """A tenant's record."""
        return self._record(Kind.TENANT, tenant)

    def key(self, key_id: str) -> dict[str, Any] | None:
        """An API key's record."""
        return self._record(Kind.KEY, key_id)

    def key_by_digest(self, digest: str) -> dict[str, Any] | None:
        """The API key's record that one of whose secrets has this SHA-256 (hex)."""
        key_id = self._txn.get(digest.encode(), db=self._store.digests)
        return None if key_id is None else self.key(key_id.decode())

    def promotion(self, tenant: str, promotion_id: str) -> dict[str, Any] | None:
        """A promotion's record."""
        return self._record(Kind.PROMOTION, promotion_key(tenant, promotion_id))

    def stream(self, topic: str) -> dict[str, Any] | None:
        """The record of the stream that a raw topic carries."""
        return self._record(Kind.STREAM, topic)

    def scan(self, kind: Kind, below: str = "") -> Iterator[tuple[str, bytes]]:
        """Records of a kind whose ids begin with `below`, in key order, as (id, JSON bytes).

        Ids over 490 bytes come cut and hashed; an empty one of a link as a NUL.
        """
        if kind is Kind.LINK:
            for name, packed in self._below(self._store.links, below.encode()):
                yield name.decode(errors="replace"), record_of(self._unpacker.unpack(PackedLink(packed)))
            return
        name_of_kind = f"{kind}:".encode()
        for name, value in self._below(self._store.records, name_of_kind + below.encode()):
            yield name[len(name_of_kind) :].decode(errors="replace"), value

    def _below(self, table: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(db=table) as cursor:
            if not cursor.set_range(prefix):
                return
            for name, value in cursor:
                if not name.startswith(prefix):
                    return
                yield name, value

    def record(self, kind: Kind, record_id: str) -> dict[str, Any] | None:
        """One record of any kind."""
        if kind is not Kind.LINK:
            return self._record(kind, record_id)
        link = self.link(record_id)
        return None if link is None else orjson.loads(link)

    async def wait_for(self, version: int, timeout_s: float) -> None:
        """Wait until the copy holds `version`. Raises TransientError after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.version < version:
            if time.monotonic() >= deadline:
                raise TransientError(f"catalog version {version} not reached within {timeout_s} s, at {self.version}")
            await asyncio.sleep(self._settings.catalog_refresh_ms / 1000)
            self.refresh()

    def require_proof(self) -> None:
        """Count as level with the topic only when that has been proved again: what an earlier follower saw is not enough."""
        heard_file(self._folder).unlink(missing_ok=True)
        self._read_meta(0.0)

    async def wait_until_current(self, timeout_s: float) -> None:
        """Wait until the copy is level with the topic. Raises TransientError after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not self.is_current:
            if time.monotonic() >= deadline:
                raise TransientError(f"the catalog was not complete within {timeout_s} s")
            await asyncio.sleep(self._settings.catalog_refresh_ms / 1000)
            self.refresh()

    def close(self) -> None:
        """Release the snapshot and the file."""
        self._txn.abort()
        del self._txn, self._store
