"""Rows that can never be stored: found by bisection, and stored all the same as `malformed` rows with their bytes.

Such a row keeps its place in its block, because every raw offset is exactly one row. The worst mistake would be to take a
server's fault for a row's, and so to write good clicks off. So whatever class the error has, a row is condemned only when
it is refused alone, again and again, while a row that is known to be good passes in between.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import orjson

from shared.clickhouse import UnknownClickHouseError
from shared.enriched_fields import ENRICHED_FIELDS, ENRICHED_NAMES
from shared.errors import DataError, OperatorError
from shared.events import Reason, Status
from sink.rows import Row
from sink.suspects import canonical_id

KEPT_MS: Final = 90 * 24 * 3600 * 1000
"""How long such a row is kept: the default retention, since the record's own cannot be trusted."""
PROOFS: Final = 2
"""How often a row must be refused, with a good row taken before each time: a fault that comes and goes is not the row's."""
TIME_MS_MAX: Final = 4_102_444_800_000
"""2100-01-01: a later Kafka timestamp is a broken clock."""

Probe: TypeAlias = Callable[[Sequence[Row]], Awaitable[None]]
"""Raises what an insert of these rows would raise, and stores nothing."""

_LARGE: Final[Mapping[str, Any]] = {
    "String": "é",
    "LowCardinality(String)": "é",
    "UUID": "ffffffff-ffff-7fff-bfff-ffffffffffff",
    "Bool": True,
    "UInt8": 1,
    "UInt16": (1 << 16) - 1,
    "UInt32": (1 << 32) - 1,
    "UInt64": (1 << 63) - 1,
    "Int64": (1 << 63) - 1,
}
"""Values of each column type but times: Kafka's offsets and the catalog's versions are signed 64-bit numbers."""


async def find_poison(rows: Sequence[Row], good: Row, probe: Probe) -> list[Row]:
    """The rows that `probe` refuses: about 2 log2(n) probes for one row among n, and `PROOFS` pairs for each found.

    `good` is a row that must pass (`known_good`). Raises OperatorError when it does not: the fault is the server's or the
    schema's, and no row is condemned. Transient and operator errors of `probe` pass through. Rows that fail only together
    are not found by halving; the caller then sees an empty list.
    """
    return [row for row in await _refused(rows, probe) if await _is_condemned(row, good, probe)]


async def _refused(rows: Sequence[Row], probe: Probe) -> list[Row]:
    if not await _refuses(rows, probe):
        return []
    if len(rows) == 1:
        return list(rows)
    middle = len(rows) // 2
    return [*await _refused(rows[:middle], probe), *await _refused(rows[middle:], probe)]


async def _refuses(rows: Sequence[Row], probe: Probe) -> str:
    """Why `probe` refuses these rows; '' when it takes them."""
    try:
        await probe(rows)
    except (DataError, UnknownClickHouseError) as exc:
        return str(exc)
    return ""


async def _is_condemned(row: Row, good: Row, probe: Probe) -> bool:
    for _ in range(PROOFS):
        if why := await _refuses([good], probe):
            raise OperatorError(
                f"even a row that is known to be good is refused, so the schema or the server is: {why}"
            )
        if not await _refuses([row], probe):
            return False
    return True


def known_good(stream: str, partition: int, now_ms: int) -> Row:
    """A row with a value in every column, each as large as the contract allows. Only ever probed, never stored."""
    record = {
        field.name: now_ms if "DateTime64" in field.clickhouse_type else _LARGE[field.clickhouse_type]
        for field in ENRICHED_FIELDS
    }
    known = {"v": 1, "stream": stream, "raw_partition": partition, "status": Status.ACCEPTED}
    return Row(0, 0, now_ms, b"", orjson.dumps(record | known), is_suspect=False, is_broken=False)


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
