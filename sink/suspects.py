"""Duplicates that are not transport: which rows of a block are second copies of a click, in either order.

A click sent with an Idempotency-Key, replayed from a spool or reprocessed is *suspect*: a copy may be stored already,
may stand earlier in the same block, or may come later without being marked. So two questions are asked of a block:

* every suspect's id, and every id that was stored as suspect in this partition a short while ago (`Remembered`), is
  looked up in the table: one query per block, `accepted` rows before the block only;
* the rows of those ids are compared with each other in the order of the block.

The first accepted copy stays, each later one becomes a `duplicate`. `Remembered` is only a filter that keeps ordinary
blocks from being asked about: holding an id too many costs a query, never a row.

A block that is built again may come out with other bytes (a poison row found this time and not then, an expired first
copy). That is safe: its token is the same, the table takes one of the two bodies whole or neither, and each body is
right by itself, because it was made from the rows below the block, which no longer change once the table has said that
it stands right before the block.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from shared.events import Reason, Status
from shared.ids import created_at_ms
from sink.blocks import Row

REMEMBER_S: Final = 900.0
"""Seconds for which a stored suspect's id is compared with every record: a copy may sit in a producer or a socket."""
CLOCK_SLACK_MS: Final = 300_000
"""How much older than its id's own time a row may be: clocks of API machines differ, by at most this."""


class Asked(NamedTuple):
    """An id to look up among accepted rows received at or after `not_before_ms`."""

    transaction_id: str
    not_before_ms: int


class Remembered:
    """Ids stored as suspect in one partition within `REMEMBER_S` seconds of its latest block; normally empty.

    The window ends at the latest stored block and not at the present: while the sink or the enricher stands still, the
    copy that is still to come waits in Kafka, and its time must not run out.
    """

    def __init__(self) -> None:
        self._until_s: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._until_s)

    def add(self, ids: Iterable[bytes], stored_at_s: float) -> None:
        """Remember ids stored at a time of the monotonic clock that `prune` is given."""
        for key in ids:
            self._until_s[key] = max(self._until_s.get(key, 0.0), stored_at_s + REMEMBER_S)

    def prune(self, latest_s: float) -> None:
        """Forget what was stored too long before the partition's latest block, stored at `latest_s`."""
        if self._until_s:
            self._until_s = {key: until for key, until in self._until_s.items() if until > latest_s}

    def watched(self, rows: Sequence[Row]) -> frozenset[bytes]:
        """The ids of a block that must be looked at: its suspects, and those remembered."""
        watched = {row.key for row in rows if row.is_suspect}
        if self._until_s:
            watched.update(row.key for row in rows if row.key in self._until_s)
        return frozenset(watched)


def canonical_id(key: bytes) -> str | None:
    """A transaction-id as ClickHouse prints it; None for a Kafka key that is not one."""
    try:
        return str(uuid.UUID(key.decode("ascii")))
    except (UnicodeDecodeError, ValueError):
        return None


def questions(rows: Sequence[Row], watched: frozenset[bytes]) -> list[Asked]:
    """What to ask the table, once per id: back to the id's own time, for keyed ids as far as the tenant's retention.

    A keyed id carries no time. Its record's `expires_at` lies at least the retention after `received_at`, so going back
    by their difference covers it.
    """
    asked: dict[str, Asked] = {}
    for row in rows:
        if row.key in watched and (transaction_id := canonical_id(row.key)):
            made_at = created_at_ms(transaction_id)
            bound = _retention_start_ms(_decoded(row)) if made_at is None else made_at - CLOCK_SLACK_MS
            earlier = asked.get(transaction_id)
            asked[transaction_id] = Asked(transaction_id, min(bound, earlier.not_before_ms) if earlier else bound)
    return list(asked.values())


def rewritten(rows: Sequence[Row], watched: frozenset[bytes], stored: Mapping[str, str]) -> dict[int, bytes]:
    """The rows that become duplicates, by raw offset: their new values.

    `stored`: the click digest ('' when it has none) of the accepted row that each asked id has before this block.
    """
    first: dict[str, str] = dict(stored)
    values: dict[int, bytes] = {}
    for row in rows:
        transaction_id = canonical_id(row.key) if row.key in watched else None
        if transaction_id is None or row.is_broken:
            continue
        record = _decoded(row)
        if record.get("status") != Status.ACCEPTED:
            continue
        digest = str(record.get("click_digest") or "")
        if transaction_id in first:
            values[row.raw_offset] = _duplicate(record, _reason(transaction_id, first[transaction_id], digest))
        else:
            first[transaction_id] = digest
    return values


def _reason(transaction_id: str, first_digest: str, digest: str) -> Reason:
    if created_at_ms(transaction_id) is not None:
        return Reason.REPLAYED
    if first_digest and digest and first_digest != digest:
        return Reason.IDEMPOTENCY_KEY_REUSED
    return Reason.IDEMPOTENCY_KEY_REPEATED


def _duplicate(record: dict[str, Any], reason: Reason) -> bytes:
    return orjson.dumps(record | {"status": Status.DUPLICATE, "reason": reason})


def _decoded(row: Row) -> dict[str, Any]:
    try:
        record = orjson.loads(row.value)
    except orjson.JSONDecodeError:
        return {}
    return record if isinstance(record, dict) else {}


def _retention_start_ms(record: Mapping[str, Any]) -> int:
    received_at, expires_at = record.get("received_at"), record.get("expires_at")
    if type(received_at) is not int or type(expires_at) is not int:
        return 0
    return max(0, received_at - max(0, expires_at - received_at) - CLOCK_SLACK_MS)
