"""The catalog: links, promotions, tenants, keys and streams, in a compacted topic and a local LMDB copy of it.

One follower per folder (a machine, usually) applies the topic to LMDB under a lock; every process of the machine reads
the same memory-mapped file, so a million links cost no process memory and a restart resumes where it stopped. The
*catalog version* is the offset of the last applied record. Records are JSON objects; their bytes are kept as written.

The copy is rebuilt from the topic when the topic turns out to be shorter than what was applied. `is_ready` says that it
was complete once and is not too old; `is_current` that it was level with the topic a moment ago: only then does "no
such link" mean that there is none.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import random
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple
from weakref import WeakValueDictionary

import lmdb
import orjson

from shared.errors import OffsetLost, OperatorError, TransientError
from shared.kafka import Producer, Reader, Record
from shared.settings import CatalogSettings, KafkaSettings

log = logging.getLogger(__name__)

PARTITION: Final = 0
"""The catalog has one partition, so that one number is its version."""
CURRENT_MS: Final = 5_000
"""How long after the last proof of being level with the topic an unknown link counts as unknown (proofs come each second)."""
HEAR_EVERY_S: Final = 1.0
"""Seconds between two questions for the topic's end."""
PREFIX_SEGMENTS_MAX: Final = 32
"""Path segments of a URL that are tried as prefixes, from the longest down."""
_KEY_BYTES_MAX: Final = 500
"""LMDB takes keys of up to 511 bytes; longer ones are hashed."""
_READERS_MAX: Final = 512


class Kind(StrEnum):
    """What a catalog record describes; the part of its Kafka key before the colon."""

    STREAM = "stream"
    TENANT = "tenant"
    KEY = "key"
    PROMOTION = "promotion"
    LINK = "link"
    SPOOL = "spool"
    CONTROL = "control"


class Match(NamedTuple):
    """A link found for a URL key: by which rule (`exact` or `prefix`), and its record."""

    rule: str
    link: bytes


class Entry(NamedTuple):
    """One change of the catalog; `value` None deletes."""

    kind: Kind
    id: str
    value: Mapping[str, Any] | None


def promotion_key(tenant: str, promotion_id: str) -> str:
    """The id of a promotion's record: promotions belong to a tenant."""
    return f"{tenant}/{promotion_id}"


def _db_key(name: bytes) -> bytes:
    if len(name) <= _KEY_BYTES_MAX:
        return name
    return name[: _KEY_BYTES_MAX - 64] + hashlib.sha256(name).hexdigest().encode()


class _Store:
    """The LMDB environment and its three tables.

    LMDB must not be opened twice in one process, so that a follower and a reader of one folder share a store; it is
    closed with its last user.
    """

    _open: ClassVar[WeakValueDictionary[Path, _Store]] = WeakValueDictionary()

    @classmethod
    def at(cls, path: Path, map_bytes: int) -> _Store:
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
            str(path), map_size=map_bytes, max_dbs=3, max_readers=_READERS_MAX, metasync=False, readahead=False
        )
        self.records = self.env.open_db(b"records")
        self.digests = self.env.open_db(b"digests")
        self.meta = self.env.open_db(b"meta")

    @property
    def heard_file(self) -> Path:
        """Its modification time is when the copy was last proved level with the topic."""
        return self.path / "heard"


def _meta_int(txn: lmdb.Transaction[bytes], store: _Store, name: bytes, default: int) -> int:
    value = txn.get(name, db=store.meta)
    return default if value is None else int(value)


class Catalog:
    """A reader of the local copy; cheap enough for the hot path. Open it after forking; use it on one thread.

    Answers come from one snapshot, renewed by `refresh`.
    """

    def __init__(self, settings: CatalogSettings, path: Path) -> None:
        self._settings = settings
        self._store = _Store.at(path, settings.catalog_map_bytes)
        self._txn = self._store.env.begin()
        self.version = -1
        self.known_end = 0
        """The topic's end offset when the follower last asked."""
        self.age_ms = 0
        """Milliseconds since the copy was last proved level with the topic."""
        self.is_ready = False
        self.is_current = False
        self._complete = False
        self._prefixes = 0
        self._read_meta()

    def refresh(self) -> bool:
        """Renew the snapshot; True when the version changed."""
        before = self.version
        self._txn.abort()
        self._txn = self._store.env.begin()  # the library keeps a spare one, so this is a renewal
        self._read_meta()
        return self.version != before

    def _read_meta(self) -> None:
        self.version = _meta_int(self._txn, self._store, b"version", -1)
        self.known_end = _meta_int(self._txn, self._store, b"end", 0)
        self._prefixes = _meta_int(self._txn, self._store, b"prefixes", 0)
        self._complete = bool(_meta_int(self._txn, self._store, b"complete", 0))
        try:
            heard_s = self._store.heard_file.stat().st_mtime
        except FileNotFoundError:
            heard_s = 0
        self.age_ms = max(0, int((time.time() - heard_s) * 1000))
        self.is_ready = self._complete and self.age_ms <= self._settings.catalog_age_ms_max
        self.is_current = self._complete and self.age_ms <= CURRENT_MS

    def _get(self, name: bytes) -> bytes | None:
        value: bytes | None = self._txn.get(_db_key(name), db=self._store.records)
        return value

    def _record(self, kind: Kind, record_id: str) -> dict[str, Any] | None:
        value = self._get(f"{kind}:{record_id}".encode())
        return None if value is None else orjson.loads(value)

    def link(self, key: str) -> bytes | None:
        """The link record registered under exactly this key (host/path)."""
        return self._get(b"link:" + key.encode())

    def resolve(self, key: str) -> Match | None:
        """The link of a URL key: the exact one, else the longest registered prefix of whole path segments."""
        link = self.link(key)
        if link is not None:
            return Match("exact", link)
        if not self._prefixes:
            return None
        for _ in range(PREFIX_SEGMENTS_MAX):
            key, slash, _rest = key.rpartition("/")
            if not slash:
                return None
            link = self.link(key)
            if link is not None and orjson.loads(link).get("match") == "prefix":
                return Match("prefix", link)
        return None

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

    def scan(self, kind: Kind) -> Iterator[tuple[str, bytes]]:
        """Every record of a kind in key order, as (id, JSON bytes). Ids over 490 bytes come cut and hashed."""
        prefix = f"{kind}:".encode()
        with self._txn.cursor(db=self._store.records) as cursor:
            if not cursor.set_range(prefix):
                return
            for name, value in cursor:
                if not name.startswith(prefix):
                    return
                yield name[len(prefix) :].decode(errors="replace"), value

    async def wait_for(self, version: int, timeout_s: float) -> None:
        """Wait until the copy holds `version`. Raises TransientError after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.version < version:
            if time.monotonic() >= deadline:
                raise TransientError(f"catalog version {version} not reached within {timeout_s} s, at {self.version}")
            await asyncio.sleep(self._settings.catalog_refresh_ms / 1000)
            self.refresh()

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


class CatalogFollower:
    """Applies the catalog topic to the LMDB copy in `path`; of several on one folder, one works and the others wait.

    `kinds` limits what is kept (the version still counts every record).
    """

    def __init__(
        self, settings: CatalogSettings, kafka: KafkaSettings, path: Path, kinds: Collection[Kind] = tuple(Kind)
    ) -> None:
        self._kafka = kafka
        self._store = _Store.at(path, settings.catalog_map_bytes)
        self._kinds = frozenset(str(kind) for kind in kinds)

    async def run(self) -> None:
        """Follow until cancelled. Failures of the environment are logged and retried with back-off."""
        with await _locked(self._store.path / "follower.lock"):
            self._store.env.reader_check()  # slots of killed readers would pin old pages
            delay_s = 0.2
            while True:
                try:
                    await self._follow()
                except (TransientError, OperatorError) as exc:
                    log.warning("catalog follower: %s; again in %.1f s", exc, delay_s)
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.5))  # noqa: S311  # jitter
                delay_s = min(delay_s * 2, 5)

    async def _follow(self) -> None:
        reader = Reader(self._kafka, self._kafka.topic_catalog, client_id="clickledger-catalog")
        try:
            await reader.start()
            reader.assign({PARTITION: await self._start_position(reader)})
            asked_at = 0.0
            while True:
                if time.monotonic() - asked_at >= HEAR_EVERY_S:
                    await self._hear(reader)
                    asked_at = time.monotonic()
                records = (await reader.getmany(timeout_ms=200)).get(PARTITION)
                if records:
                    await asyncio.to_thread(self._apply, records)
                    asked_at = min(asked_at, time.monotonic() - HEAR_EVERY_S / 2)
        except OffsetLost as lost:
            log.warning("catalog: %s; reading all of it again", lost)
            self._wipe(lost.earliest)
        finally:
            await reader.close()

    async def _start_position(self, reader: Reader) -> int:
        begin = (await reader.begin_offsets([PARTITION]))[PARTITION]
        end = (await reader.end_offsets([PARTITION]))[PARTITION]
        with self._store.env.begin() as txn:
            position = _meta_int(txn, self._store, b"version", -1) + 1
        if begin <= position <= end:
            return position
        if position:
            log.warning(
                "catalog: applied up to %d but the topic holds %d to %d; reading all of it", position, begin, end
            )
        self._wipe(begin)
        return begin

    async def _hear(self, reader: Reader) -> None:
        """Ask for the topic's end: proves the contact, and whether the copy is level with it."""
        end = (await reader.end_offsets([PARTITION]))[PARTITION]
        position = await reader.position(PARTITION)
        await asyncio.to_thread(self._note_end, position, end)

    def _note_end(self, position: int, end: int) -> None:
        with self._store.env.begin() as txn:
            noted = (_meta_int(txn, self._store, b"version", -1) + 1, _meta_int(txn, self._store, b"end", 0))
            complete = _meta_int(txn, self._store, b"complete", 0)
        level = position >= end
        if noted != (position, end) or (level and not complete):
            with self._store.env.begin(write=True) as txn:
                txn.put(b"version", str(position - 1).encode(), db=self._store.meta)
                txn.put(b"end", str(end).encode(), db=self._store.meta)
                if level:
                    txn.put(b"complete", b"1", db=self._store.meta)
        if level:
            self._store.heard_file.touch()

    def _wipe(self, begin: int) -> None:
        with self._store.env.begin(write=True) as txn:
            for table in (self._store.records, self._store.digests, self._store.meta):
                txn.drop(table, delete=False)
            txn.put(b"version", str(begin - 1).encode(), db=self._store.meta)

    def _apply(self, records: Sequence[Record]) -> None:
        with self._store.env.begin(write=True) as txn:
            prefixes = _meta_int(txn, self._store, b"prefixes", 0)
            for record in records:
                if record.key and self._is_kept(record.key, record.value):
                    prefixes += self._put(txn, record.key, record.value)
            txn.put(b"prefixes", str(prefixes).encode(), db=self._store.meta)
            txn.put(b"version", str(records[-1].offset).encode(), db=self._store.meta)

    def _is_kept(self, name: bytes, value: bytes | None) -> bool:
        if name.partition(b":")[0].decode(errors="replace") not in self._kinds:
            return False
        if value is not None and not _is_object(value):
            log.error("catalog: %r holds no JSON object, ignored", name[:80])
            return False
        return True

    def _put(self, txn: lmdb.Transaction[bytes], name: bytes, value: bytes | None) -> int:
        """Store or delete one record; by how much the number of prefix links changes."""
        key = _db_key(name)
        before = txn.get(key, db=self._store.records)
        if name.startswith(b"key:"):
            self._index_secrets(txn, name[4:], before, value)
        if value is None:
            txn.delete(key, db=self._store.records)
        else:
            txn.put(key, value, db=self._store.records)
        return _is_prefix(value) - _is_prefix(before) if name.startswith(b"link:") else 0

    def _index_secrets(
        self, txn: lmdb.Transaction[bytes], key_id: bytes, before: bytes | None, after: bytes | None
    ) -> None:
        for digest in _digests(before):
            txn.delete(digest, db=self._store.digests)
        for digest in _digests(after):
            txn.put(digest, key_id, db=self._store.digests)


def _is_object(value: bytes) -> bool:
    try:
        return isinstance(orjson.loads(value), dict)
    except orjson.JSONDecodeError:
        return False


def _digests(record: bytes | None) -> list[bytes]:
    return [] if record is None else [s["digest"].encode() for s in orjson.loads(record).get("secrets", ())]


def _is_prefix(record: bytes | None) -> int:
    return int(record is not None and orjson.loads(record).get("match") == "prefix")


async def _locked(path: Path) -> Any:
    """Wait for the lock on `path`; a context manager that releases it."""
    file = path.open("w")
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(0.5)
            else:
                return file
    except BaseException:
        file.close()
        raise


class CatalogWriter:
    """Writes changes to the catalog topic. Each call returns the version that holds them."""

    def __init__(self, kafka: KafkaSettings, producer: Producer) -> None:
        self._topic = kafka.topic_catalog
        self._producer = producer

    async def put(self, kind: Kind, record_id: str, value: Mapping[str, Any] | None) -> int:
        """Write one record, or delete it with None; its version. Raises TransientError, OutcomeUnknown, OperatorError."""
        return await self.put_many([Entry(kind, record_id, value)])

    async def put_many(self, entries: Iterable[Entry]) -> int:
        """Write records in order, in as few batches as possible; the version of the last. At least one entry."""
        now_ms = time.time_ns() // 1_000_000
        version, batch = -1, self._producer.new_batch()
        for kind, record_id, value in entries:
            record = {
                "timestamp": now_ms,
                "key": f"{kind}:{record_id}".encode(),
                "value": None if value is None else orjson.dumps(value),
                "headers": [],
            }
            if batch.append(**record) is None:  # type: ignore[arg-type]
                version = await self._send(batch)
                batch = self._producer.new_batch()
                batch.append(**record)  # type: ignore[arg-type]
        return await self._send(batch) if batch.record_count() else version

    async def _send(self, batch: Any) -> int:
        return await self._producer.send_batch(self._topic, PARTITION, batch) + int(batch.record_count()) - 1


@asynccontextmanager
async def followed(catalog: Catalog, follower: CatalogFollower) -> AsyncIterator[Catalog]:
    """Run `follower` in the background for the body, then close `catalog`: for commands that need it for a moment."""
    task = asyncio.ensure_future(follower.run())
    try:
        yield catalog
    finally:
        task.cancel()
        await asyncio.wait([task])
        catalog.close()
