"""Rewrites a loose copy: into a new store, in the order of its keys, so that its pages are full but for a rest (docs/adr/0043).

LMDB splits a full page in the middle, so that pages of a copy which grew are half to two thirds full. Here the order of the keys
is given to it (`append`), which fills one page after the other; a rest is left free in each, for records that are added later.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import lmdb

from shared.catalog.store import Store, beside, meta_int

log = logging.getLogger(__name__)

PAGES_MIN: Final = 4_096
"""Leaf pages (16 MiB, some 200,000 links) below which a copy stays as it is."""
LOOSE: Final = 1.25
"""A copy is loose when its records take so many times the pages that they took after the last rewriting."""
FREE_BYTES: Final = 384
"""Left in each page. A tenth more links at random keys hardly split any; without it 2 % more would split every second page."""
AT_ONCE: Final = 5_000
"""Records of one transaction: some milliseconds, and what it takes of memory."""
PAUSE_S: Final = 0.005
"""Between two transactions: half of the time is left to clicks that the same process answers."""
_PAGE_BYTES: Final = 4_080
_NODE_BYTES: Final = 10
"""What a page needs for a record beside its key and value."""
_WIDENED_BYTES_MAX: Final = 1_600
"""Of key and value: of more a page holds one or two, and what is widened would get pages of its own and stay there."""
_DENSE: Final = b"dense"
"""Key in `meta`: leaf pages per million entries after the rewriting."""


def is_loose(store: Store) -> bool:
    """Whether rewriting is worth it: the copy is large, and was never rewritten or has grown looser since."""
    with store.env.begin() as txn:
        return _leaf_pages(txn, store) >= PAGES_MIN and _pages_per_million(txn, store) > LOOSE * meta_int(
            txn, store, _DENSE, 0
        )


async def rewrite(source: Store, folder: Path) -> Store | None:
    """A new store in `folder` that holds what `source` held when this began; None where there is no room, which is logged.

    Cancelled, its thread ends with the transaction under way. The caller removes what is left (`store.remove_others`).
    """
    given_up = threading.Event()
    try:
        _require_room(source, folder)
        target = Store.at(beside(folder), source.map_bytes)
        await asyncio.to_thread(_write_all, source, target, given_up)
    except (lmdb.Error, OSError) as exc:
        log.warning("catalog: the copy stays loose, it could not be rewritten: %s", exc)
        return None
    finally:
        given_up.set()
    return target


def _require_room(source: Store, folder: Path) -> None:
    """Raise OSError when the disk has not twice the room of the copy: a spool may need it."""
    if shutil.disk_usage(folder).free < 2 * (source.path / "data.mdb").stat().st_size:
        raise OSError(errno.ENOSPC, "less free on the disk than twice the copy's size")


def _write_all(source: Store, target: Store, given_up: threading.Event) -> None:
    with source.env.begin() as snapshot:
        for table, new in zip(source.tables, target.tables, strict=True):
            with snapshot.cursor(table) as cursor:
                records = cursor.iternext()
                while some := list(islice(records, AT_ONCE)):
                    _write_some(target, new, some)
                    if given_up.wait(PAUSE_S):
                        return
    with target.env.begin(write=True) as txn:
        txn.put(_DENSE, str(_pages_per_million(txn, target)).encode(), db=target.meta)


def _write_some(target: Store, table: Any, records: list[tuple[bytes, bytes]]) -> None:
    """Append records, those that end a page with more bytes than they have; then these as they are."""
    lasts: list[tuple[bytes, bytes]] = []
    with target.env.begin(write=True) as txn, txn.cursor(table) as cursor:
        cursor.putmulti(_widened(records, lasts), append=True)
        cursor.putmulti(lasts)


def _widened(records: list[tuple[bytes, bytes]], lasts: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    page_bytes = 0
    for key, value in records:
        page_bytes += len(key) + len(value) + _NODE_BYTES
        if page_bytes < _PAGE_BYTES - FREE_BYTES or len(key) + len(value) > _WIDENED_BYTES_MAX:
            yield key, value
        else:
            lasts.append((key, value))
            yield key, value + bytes(FREE_BYTES)
            page_bytes = 0


def _leaf_pages(txn: lmdb.Transaction[bytes], store: Store) -> int:
    return int(sum(txn.stat(table)["leaf_pages"] for table in store.tables))


def _pages_per_million(txn: lmdb.Transaction[bytes], store: Store) -> int:
    return _leaf_pages(txn, store) * 1_000_000 // max(1, sum(txn.stat(table)["entries"] for table in store.tables))
