"""Rows that can never be stored: found by bisection, and stored all the same as `malformed` rows with their bytes.

Such a row keeps its place in its block, because every raw offset is exactly one row.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import orjson

from shared.errors import DataError
from shared.events import ENRICHED_NAMES, Reason, Status
from sink.blocks import Row
from sink.suspects import canonical_id

KEPT_MS: Final = 90 * 24 * 3600 * 1000
"""How long such a row is kept: the default retention, since the record's own cannot be trusted."""
TIME_MS_MAX: Final = 4_102_444_800_000
"""2100-01-01: a later Kafka timestamp is a broken clock."""


async def find_poison(rows: Sequence[Row], probe: Callable[[Sequence[Row]], Awaitable[None]]) -> list[Row]:
    """The rows on which `probe` raises DataError, by halving: about 2 log2(n) probes for one row among n.

    Other errors of `probe` pass through. Rows that fail only together are not found by halving; the caller then sees
    an empty list.
    """
    try:
        await probe(rows)
    except DataError:
        if len(rows) == 1:
            return list(rows)
        middle = len(rows) // 2
        return [*await find_poison(rows[:middle], probe), *await find_poison(rows[middle:], probe)]
    return []


def not_storable(row: Row, stream: str, partition: int, now_ms: int) -> bytes:
    """The `malformed` row that stands for a record which ClickHouse cannot store, with the record's bytes in `raw`.

    Of the record only its position, its id and its Kafka timestamp (ms) are used: anything else may be what is wrong.
    `now_ms` bounds the expiry from below, since a row that is expired already would vanish and leave a hole.
    """
    at_ms = row.timestamp_ms if 0 <= row.timestamp_ms < TIME_MS_MAX else now_ms
    known: dict[str, Any] = {
        "v": 1,
        "stream": stream,
        "raw_partition": partition,
        "raw_offset": row.raw_offset,
        "transaction_id": canonical_id(row.key) or str(uuid.UUID(int=0)),
        "status": Status.MALFORMED,
        "reason": Reason.NOT_STORABLE,
        "suspect": row.is_suspect,
        "received_at": at_ms,
        "clicked_at": at_ms,
        "clicked_at_ignored": False,
        "enriched_at": at_ms,
        "expires_at": max(at_ms, now_ms) + KEPT_MS,
        "catalog_version": -1,
        "sent_at": None,
        "is_bot": False,
        "asn": 0,
        "raw": _text(row.value),
    }
    return orjson.dumps({name: known.get(name, "") for name in ENRICHED_NAMES})


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(value).decode()
