"""Applies the catalog topic to the local copy; the only writer of the file."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import random
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import lmdb
import orjson

from shared.catalog.packing import PackedLink, Packer
from shared.catalog.records import PARTITION, Kind
from shared.catalog.store import Store, db_key, meta_int
from shared.errors import OffsetLost, OperatorError, TransientError
from shared.kafka import Reader, Record
from shared.settings import CatalogSettings, KafkaSettings
from shared.stored_links import StoredLink, record_of, store_link

log = logging.getLogger(__name__)

HEAR_EVERY_S: Final = 1.0
"""Seconds between two questions for the topic's end."""
RETRY_S_MIN: Final = 0.2
RETRY_S_MAX: Final = 1.0
"""A revocation has a second to arrive once Kafka is reachable, so the pause between two tries is not longer."""
AT_ONCE: Final = 1_000
"""Records that are held decoded, some MB."""
_NEVER: Final = (1 << 63, 0.0)
_LINK: Final = b"link:"
HEALTHY_S: Final = 10.0
"""After following for so long the next failure is a new one: the pauses begin small again."""


class CatalogFollower:
    """Applies the catalog topic to the LMDB copy in `path`; of several on one folder, one works and the others wait.

    `kinds` limits what is kept (the version still counts every record).
    """

    def __init__(
        self,
        settings: CatalogSettings,
        kafka: KafkaSettings,
        path: Path,
        kinds: Collection[Kind] = tuple(Kind),
        topic: str = "",
    ) -> None:
        """`topic`: another one that has the catalog's form."""
        self._kafka = kafka
        self._topic = topic or kafka.topic_catalog
        self._store = Store.at(path, settings.catalog_map_bytes)
        self._kinds = frozenset(str(kind) for kind in kinds)
        self._packer = Packer()
        self._asked = _NEVER
        self._is_level = False

    async def run(self) -> None:
        """Follow until cancelled. Failures of the environment are logged and retried with back-off."""
        with await _locked(self._store.path / "follower.lock"):
            self._store.drop_other_forms()
            self._store.env.reader_check()  # slots of killed readers would pin old pages
            delay_s = RETRY_S_MIN
            while True:
                started = time.monotonic()
                try:
                    await self._follow()
                except (TransientError, OperatorError) as exc:
                    if time.monotonic() - started > HEALTHY_S:
                        delay_s = RETRY_S_MIN
                    log.warning("catalog follower: %s; again in %.1f s", exc, delay_s)
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.5))  # noqa: S311  # jitter
                delay_s = min(delay_s * 2, RETRY_S_MAX)

    async def _follow(self) -> None:
        reader = Reader(self._kafka, self._topic, client_id="clickledger-catalog")
        try:
            await reader.start()
            reader.assign({PARTITION: await self._start_position(reader)})
            asked_at, self._asked, self._is_level = 0.0, _NEVER, False
            while True:
                if time.monotonic() - asked_at >= HEAR_EVERY_S:
                    await self._hear(reader)
                    asked_at = time.monotonic()
                records = (await reader.getmany(timeout_ms=200)).get(PARTITION)
                if records:
                    await asyncio.to_thread(self._apply, records)
                    if not self._is_level and records[-1].offset + 1 >= self._asked[0]:
                        await self._hear(reader)  # whoever starts waits for this: at once, but once only
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
            position = meta_int(txn, self._store, b"version", -1) + 1
            kinds = (txn.get(b"kinds", db=self._store.meta) or b"").decode().split()
        if not self._kinds <= set(kinds):
            if position:
                log.warning("catalog: the copy was made without some of %s; reading all of it", ", ".join(self._kinds))
        elif begin <= position <= end:
            return position
        elif position:
            log.warning(
                "catalog: applied up to %d but the topic holds %d to %d; reading all of it", position, begin, end
            )
        self._wipe(begin)
        return begin

    async def _hear(self, reader: Reader) -> None:
        """Ask for the topic's end: proves the contact, and whether the copy is level with it.

        A copy that has passed the end of the last question was level with the topic then. Without that a topic that is
        written to all the time would have a copy that is never level.
        """
        asked_s = time.time()
        end = (await reader.end_offsets([PARTITION]))[PARTITION]
        position = await reader.position(PARTITION)
        end_before, asked_before_s = self._asked
        level_s = asked_s if position >= end else asked_before_s if position >= end_before else None
        self._asked = (end, asked_s)
        self._is_level = self._is_level or level_s is not None
        await asyncio.to_thread(self._note_end, position, end, level_s)

    def _note_end(self, position: int, end: int, level_s: float | None) -> None:
        """Note the topic's end, and when (seconds since the epoch) the copy was level with it; None: it was not."""
        with self._store.env.begin() as txn:
            noted = (meta_int(txn, self._store, b"version", -1) + 1, meta_int(txn, self._store, b"end", 0))
            complete = meta_int(txn, self._store, b"complete", 0)
        if noted != (position, end) or (level_s is not None and not complete):
            with self._store.env.begin(write=True) as txn:
                txn.put(b"version", str(position - 1).encode(), db=self._store.meta)
                txn.put(b"end", str(end).encode(), db=self._store.meta)
                if level_s is not None:
                    txn.put(b"complete", b"1", db=self._store.meta)
        if level_s is not None:
            self._store.heard_file.touch()
            os.utime(self._store.heard_file, (level_s, level_s))

    def _wipe(self, begin: int) -> None:
        with self._store.env.begin(write=True) as txn:
            for table in (self._store.records, self._store.digests, self._store.meta):
                txn.drop(table, delete=False)
            txn.put(b"version", str(begin - 1).encode(), db=self._store.meta)
            txn.put(b"kinds", " ".join(sorted(self._kinds)).encode(), db=self._store.meta)

    def _apply(self, records: Sequence[Record]) -> None:
        with self._store.env.begin(write=True) as txn:
            self._packer.refresh(txn, self._store)
            prefixes = meta_int(txn, self._store, b"prefixes", 0)
            for begin in range(0, len(records), AT_ONCE):
                prefixes += self._apply_some(txn, records[begin : begin + AT_ONCE])
            txn.put(b"prefixes", str(prefixes).encode(), db=self._store.meta)
            txn.put(b"version", str(records[-1].offset).encode(), db=self._store.meta)

    def _apply_some(self, txn: lmdb.Transaction[bytes], records: Sequence[Record]) -> int:
        """Apply records; by how much the number of prefix links changes."""
        read = [_change(record.key, record.value) for record in records if record.key and self._is_kept(record.key)]
        changes = [change for change in read if change is not None]
        links = [change.link for change in changes if change.link is not None]
        self._packer.look_at(txn, self._store, links)
        return sum([self._put(txn, change) for change in changes])

    def _is_kept(self, name: bytes) -> bool:
        return name.partition(b":")[0].decode(errors="replace") in self._kinds

    def _put(self, txn: lmdb.Transaction[bytes], change: _Change) -> int:
        """Store or delete one record; by how much the number of prefix links changes."""
        name, value, record, link = change
        key = db_key(name)
        stored = txn.get(key, db=self._store.records)
        if value is None:
            txn.delete(key, db=self._store.records)
        else:
            txn.put(key, value if link is None else self._packer.pack(link), db=self._store.records)
        if name.startswith(_LINK):
            before = {} if stored is None else orjson.loads(record_of(self._packer.unpack(PackedLink(stored))))
            return _is_prefix(record) - _is_prefix(before)
        if name.startswith(b"key:"):
            self._index_secrets(txn, name[4:], {} if stored is None else orjson.loads(stored), record)
        return 0

    def _index_secrets(
        self, txn: lmdb.Transaction[bytes], key_id: bytes, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> None:
        for digest in _digests(before):
            txn.delete(digest, db=self._store.digests)
        for digest in _digests(after):
            txn.put(digest, key_id, db=self._store.digests)


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
    except BaseException:  # a cancellation, too, closes the file
        file.close()
        raise
