"""Duplicates that are not transport: which rows of a block are second copies of a click, in either order.

A click sent with an Idempotency-Key, replayed from a spool or reprocessed is *suspect*: a copy may be stored already,
may stand earlier in the same block, or may come later without being marked. So two questions are asked of a block:

* every suspect's id, and every id that was stored as suspect in this partition a short while ago (`Remembered`), is
  looked up in the table: one query per block, rows before the block only;
* the rows of those ids are compared with each other in the order of the block.

The first accepted copy stays, each later one becomes a `duplicate`. So does, whatever became of the first, every
further replay of one row (`replay_of`): a row is reprocessed once, however many commands send it (docs/adr/0015).
`Remembered` is only a filter that keeps ordinary blocks from being asked about: holding an id too many costs a query,
never a row.

A block that is built again may come out with other bytes (a poison row found this time and not then, an expired first
copy). That is safe: its token is the same, the table takes one of the two bodies whole or neither, and each body is
right by itself, because it was made from the rows below the block, which no longer change once the table has said that
it stands right before the block.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from shared.events import Reason, Status
from shared.ids import created_at_ms
from sink.blocks import BLOCK_AT_MS_MAX
from sink.rows import Row, Rows

REMEMBER_S: Final = 900.0
"""Seconds for which a stored suspect's id is compared with every record: a copy may sit in a producer or a socket."""
REMEMBERED_MAX: Final = 50_000
"""Ids remembered for one partition (10 MB); beyond it every id is looked up, which costs a query per block, no memory."""
CLOCK_SLACK_MS: Final = 300_000
"""How much older than its id's own time a row may be: clocks of API machines differ, by at most this."""
_POSITION: Final = re.compile(r"[0-9A-Za-z_-]{1,64}/[0-9]{1,5}/[0-9]{1,20}")
"""A `replay_of` as the enricher writes it. Anything else names no row of ours and is compared with nothing."""


class Asked(NamedTuple):
    """An id to look up among rows received at or after `not_before_ms`: accepted ones, and replays of `replays`."""

    transaction_id: str
    not_before_ms: int
    replays: tuple[str, ...] = ()
    """What the block's rows of this id are replays of."""


class Copies(NamedTuple):
    """The rows that an id has before a block."""

    accepted: str | None = None
    """Click digest of the accepted row ('' when it has none); None when there is no accepted row."""
    replays: frozenset[str] = frozenset()
    """Those of the asked `replay_of` that a row has already."""


class Remembered:
    """Ids stored as suspect in one partition within `REMEMBER_S` seconds of its latest block; normally empty.

    At most `ids_max` are kept. While there were more (a spool is replayed), every id is watched instead. The window ends
    at the latest stored block and not at the present: while the sink or the enricher stands still, the copy that is still
    to come waits in Kafka, and its time must not run out.
    """

    def __init__(self, ids_max: int = REMEMBERED_MAX) -> None:
        self._ids_max = ids_max
        self._until_s: dict[bytes, float] = {}
        self._all_until_s = float("-inf")

    def __len__(self) -> int:
        return len(self._until_s)

    def add(self, ids: Iterable[bytes], stored_at_s: float) -> None:
        """Remember ids stored at a time of the monotonic clock that `prune` is given."""
        until_s = stored_at_s + REMEMBER_S
        for key in ids:
            if key in self._until_s or len(self._until_s) < self._ids_max:
                self._until_s[key] = max(self._until_s.get(key, until_s), until_s)
            else:
                self._all_until_s = max(self._all_until_s, until_s)

    def prune(self, latest_s: float) -> None:
        """Forget what was stored too long before the partition's latest block, stored at `latest_s`."""
        if self._until_s:
            self._until_s = {key: until for key, until in self._until_s.items() if until > latest_s}
        if self._all_until_s <= latest_s:
            self._all_until_s = float("-inf")

    def watched(self, rows: Rows) -> frozenset[bytes]:
        """The ids of a block that must be looked at: its suspects, and those remembered."""
        if self._all_until_s > float("-inf"):
            return frozenset(rows.keys())
        watched = set(rows.suspect_keys())
        if self._until_s:
            watched.update(key for key in rows.keys() if key in self._until_s)  # noqa: SIM118  # of rows, not of a mapping
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
    by their difference covers it. An id that was not made by us may carry any time: the row's own is a second bound.
    """
    asked: dict[str, Asked] = {}
    for row in rows:
        if row.key in watched and (transaction_id := canonical_id(row.key)):
            record = _decoded(row)
            bound = _not_before_ms(transaction_id, record)
            earlier = asked.get(transaction_id, Asked(transaction_id, bound))
            replays = earlier.replays + ((replay,) if (replay := _replay_of(record)) else ())
            asked[transaction_id] = Asked(transaction_id, min(bound, earlier.not_before_ms), replays)
    return list(asked.values())


def rewritten(rows: Sequence[Row], watched: frozenset[bytes], stored: Mapping[str, Copies]) -> dict[int, bytes]:
    """The rows that become duplicates, by raw offset: their new values. `stored`: what asked ids have before the block."""
    accepted = {copy: found.accepted for copy, found in stored.items() if found.accepted is not None}
    replayed = {(copy, replay) for copy, found in stored.items() for replay in found.replays}
    values: dict[int, bytes] = {}
    for row in rows:
        transaction_id = canonical_id(row.key) if row.key in watched else None
        if transaction_id is None or row.is_broken:
            continue
        record = _decoded(row)
        if replay := _replay_of(record):
            if (transaction_id, replay) in replayed:
                values[row.raw_offset] = _duplicate(record, Reason.REPLAYED)
                continue
            replayed.add((transaction_id, replay))
        if record.get("status") != Status.ACCEPTED:
            continue
        digest = str(record.get("click_digest") or "")
        if transaction_id not in accepted:
            accepted[transaction_id] = digest
            continue
        reason = Reason.REPLAYED if replay else _reason(transaction_id, accepted[transaction_id], digest)
        values[row.raw_offset] = _duplicate(record, reason)
    return values


def _replay_of(record: Mapping[str, Any]) -> str:
    replay = record.get("replay_of")
    return replay if isinstance(replay, str) and _POSITION.fullmatch(replay) else ""


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


def _not_before_ms(transaction_id: str, record: Mapping[str, Any]) -> int:
    received_at, expires_at = record.get("received_at"), record.get("expires_at")
    if type(received_at) is not int or type(expires_at) is not int:
        return 0
    made_at = created_at_ms(transaction_id)
    start = received_at - max(0, expires_at - received_at) if made_at is None else min(made_at, received_at)
    return min(max(0, start - CLOCK_SLACK_MS), BLOCK_AT_MS_MAX)
