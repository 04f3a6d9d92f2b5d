"""Seals: verified ranges of raw offsets, so that rows may expire and audits need not start at the beginning.

A seal says that each raw offset of a range was exactly one row (or lay in an accepted gap) and what the rows were: their
number and two sums of row hashes. Seals of a partition are a chain: each begins where the one before it ended. They are
written once (version 1), by whoever owns the partition; only an erasure writes a further version. The table keeps them
for ever; the rows may go. docs/adr/0014 argues why. Parameters are filled on the server.

The sums do not depend on the order of rows. A row's hash covers its position, so neither exchanged values nor a second
copy cancel out; the sum is taken modulo 2^256 of SHA-256 over the row's bytes in the format RowBinary, both standards
that can be computed elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from shared.clickhouse import ClickHouse
from shared.errors import OperatorError, OutcomeUnknown

COLUMNS: Final[Mapping[int, tuple[str, ...]]] = {
    1: (
        *("v", "stream", "raw_partition", "raw_offset", "transaction_id", "status", "reason", "suspect", "replay_of"),
        *("received_at", "clicked_at", "clicked_at_ignored", "enriched_at", "expires_at", "tenant", "key_id", "source"),
        *("node", "catalog_version", "short_url", "link", "promotion_id", "campaign_id", "deployment_id", "link_name"),
        *("recipient", "long_url", "sent_at", "user_agent", "browser", "browser_version", "os", "os_version", "device"),
        *("device_brand", "device_type", "resolution", "is_bot", "bot_reason", "ip", "ip_kind", "country", "region"),
        *("city", "asn", "agent_rules", "bot_rules", "geo_rules", "click_digest", "raw", "block_at", "inserted_at"),
    )
}
"""The hashed columns in order, by version: a column that is added later makes a new version, and old seals stay valid."""
COLUMNS_VERSION: Final = max(COLUMNS)

PERSONAL: Final[Mapping[str, str]] = {
    "recipient": "''",
    "short_url": "''",
    "link": "''",
    "long_url": "''",
    "user_agent": "''",
    "ip": "''",
    "region": "''",
    "city": "''",
    "asn": "0",
    "click_digest": "''",
    "raw": "''",
}
"""What tells who clicked, and what an erasure writes instead. The second hash leaves these columns out.

`click_digest` goes because a digest of a known body can be guessed, region, city and network because they are the
address in other words. Time, promotion, country and kind of device stay.
"""

EXPIRES_AT: Final = "greatest(toDateTime(expires_at), toDateTime(inserted_at) + INTERVAL 7 DAY)"
"""When TTL may delete a row, as the table's definition has it: a week after its insert at the earliest."""
ROWS_PER_BLOCK_MAX: Final = 100_000
"""Largest block that a sink can be set to."""
BLOCKS_MAX: Final = 20_000
"""Blocks that are looked at for one seal."""

LAST: Final = """
SELECT count(), max(raw_last)
FROM seals
WHERE stream = {stream:String} AND raw_partition = {partition:UInt16}
"""
BLOCKS: Final = """
WITH (
    SELECT min(raw_offset)
    FROM clicks
    WHERE stream = {stream:String} AND raw_partition = {partition:UInt16} AND raw_offset > {after:Int64}
) AS lowest
SELECT toUnixTimestamp64Milli(now64(3)), min(raw_offset), max(raw_offset), count(), toUnixTimestamp64Milli(inserted_at)
FROM clicks
WHERE stream = {stream:String} AND raw_partition = {partition:UInt16}
    AND raw_offset > {after:Int64} AND raw_offset <= lowest + {span:UInt64}
GROUP BY inserted_at
ORDER BY min(raw_offset)
LIMIT {limit:UInt32}
"""
"""The first blocks behind a raw offset. Rows of one block, and of no other of its partition, share `inserted_at`."""


class StoredBlock(NamedTuple):
    """A block as the table shows it."""

    first: int
    """lowest raw offset"""
    last: int
    """highest raw offset"""
    rows: int
    inserted_at_ms: int


def due_range(blocks: Sequence[StoredBlock], *, now_ms: int, every_ms: int, age_ms: int, rows_max: int) -> int | None:
    """The raw offset with which the next seal ends; None while none is due. `blocks` are in order of raw offsets.

    Pure, and the same for every caller at any later time: whole blocks whose inserts fall into one slot of `every_ms`
    (slots are counted from the epoch), up to `rows_max` rows but at least one block, when the slot has been over for
    `age_ms` or is filled. All times are the server's.
    """
    if not blocks:
        return None
    slot_end_ms = (blocks[0].inserted_at_ms // every_ms + 1) * every_ms
    is_complete = now_ms >= slot_end_ms + age_ms
    taken: list[StoredBlock] = []
    rows = 0
    for block in blocks:
        if block.inserted_at_ms >= slot_end_ms or (taken and rows + block.rows > rows_max):
            is_complete = True
            break
        taken.append(block)
        rows += block.rows
    is_aged = all(block.inserted_at_ms <= now_ms - age_ms for block in taken)
    return max(block.last for block in taken) if is_complete and is_aged else None


async def last_sealed(clickhouse: ClickHouse, stream: str, partition: int) -> int | None:
    """The last raw offset that is sealed, None when none is. Raises as ClickHouse does."""
    ((seals, last),) = await clickhouse.query(LAST, {"stream": stream, "partition": partition})
    return int(last) if seals else None


async def first_blocks(
    clickhouse: ClickHouse, stream: str, partition: int, after: int, rows_max: int, settings: Mapping[str, Any]
) -> tuple[int, list[StoredBlock]]:
    """The server's time (ms; 0 when there is no block) and the first blocks behind raw offset `after`."""
    params = {
        "stream": stream,
        "partition": partition,
        "after": after,
        "span": rows_max + ROWS_PER_BLOCK_MAX,
        "limit": BLOCKS_MAX,
    }
    rows = await clickhouse.query(BLOCKS, params, settings)
    return (int(rows[0][0]) if rows else 0), [StoredBlock(*map(int, row[1:])) for row in rows]


READ: Final = """
SELECT count(), uniqExact(raw_offset), countIf(NOT in_gap), sum(digest), sum(kept_digest), toUnixTimestamp(min(expiry))
FROM
(
    SELECT raw_offset,
        arrayExists((first, last) -> raw_offset BETWEEN first AND last,
            {{gap_firsts:Array(UInt64)}}, {{gap_lasts:Array(UInt64)}}) AS in_gap,
        {digest} AS digest,
        {kept_digest} AS kept_digest,
        {expires_at} AS expiry
    FROM clicks
    WHERE stream = {{stream:String}} AND raw_partition = {{partition:UInt16}}
        AND raw_offset BETWEEN {{first:UInt64}} AND {{last:UInt64}}
)
"""
CHAIN: Final = """
SELECT stream, raw_partition, raw_first, raw_last, version, rows, gaps, columns_version, digest, kept_digest,
    toUnixTimestamp(expires_first), reason, sealed_by
FROM seals
WHERE {condition}
ORDER BY stream, raw_partition, raw_first, version DESC
LIMIT 1 BY stream, raw_partition, raw_first, raw_last
"""
"""The newest version of each range; ranges that overlap are all there."""


SUMMARY: Final = """
SELECT raw_partition, min(raw_first), max(raw_last), sum(rows), sumIf(rows, expires_first > now() + {margin_s:UInt32})
FROM
(
    SELECT raw_partition, raw_first, raw_last, rows, expires_first
    FROM seals
    WHERE stream = {stream:String}
    ORDER BY raw_partition, raw_first, raw_last, version DESC
    LIMIT 1 BY raw_partition, raw_first, raw_last
)
GROUP BY raw_partition
"""
BREAKS: Final = """
SELECT raw_partition, before + 1, raw_first
FROM
(
    SELECT raw_partition, toInt64(raw_first) AS raw_first,
        lagInFrame(toInt64(raw_last), 1, -2)
            OVER (PARTITION BY raw_partition ORDER BY raw_first, raw_last ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS lag,
        if(lag = -2, toInt64(transform(raw_partition, {partitions:Array(UInt16)}, {starts:Array(UInt64)}, 0)) - 1, lag)
            AS before
    FROM (SELECT DISTINCT raw_partition, raw_first, raw_last FROM seals WHERE stream = {stream:String})
)
WHERE raw_first != before + 1
ORDER BY raw_partition, raw_first
LIMIT {limit:UInt32}
"""
"""Where a seal does not begin at the end of the one before it: partition, where it should and where it does."""
EXPIRY_MARGIN_S: Final = 3_600
"""A range whose first row may be deleted within this time is not compared any more."""


@dataclass(frozen=True, slots=True)
class Seal:
    """What was true of a range when it was sealed."""

    stream: str
    partition: int
    first: int
    last: int
    version: int
    rows: int
    gaps: tuple[tuple[int, int], ...]
    """accepted gaps inside the range, first and last raw offset, in order and apart from each other"""
    columns_version: int
    digest: int
    kept_digest: int
    """without the personal columns"""
    expires_first_s: int
    """when the first of the rows may be deleted, seconds since the epoch"""
    reason: str = ""
    sealed_by: str = ""

    @property
    def token(self) -> str:
        """The name under which ClickHouse takes one seal only."""
        token = f"seal-{self.stream}-{self.partition}-{self.first}"
        return token if self.version == 1 else f"{token}-v{self.version}"


class Summary(NamedTuple):
    """The seals of one partition."""

    partition: int
    first: int
    last: int
    rows: int
    rows_kept: int
    """of seals none of whose rows may be deleted yet"""


class Reading(NamedTuple):
    """What the rows of a range are now."""

    rows: int
    distinct: int
    """different raw offsets"""
    outside_gaps: int
    """rows that lie in no accepted gap"""
    digest: int
    kept_digest: int
    expires_first_s: int


def row_digest(columns: Iterable[str]) -> str:
    """SQL for the hash of one row: a number that can be summed."""
    return f"reinterpretAsUInt256(SHA256(formatRow('RowBinary', {', '.join(columns)})))"


def columns_of(seal: Seal) -> tuple[str, ...]:
    """The columns that a seal was made of. Raises OperatorError for a newer release's seal."""
    if seal.columns_version not in COLUMNS:
        raise OperatorError(f"partition {seal.partition} has seals of a newer release: use that one")
    return COLUMNS[seal.columns_version]


def kept_columns(version: int) -> list[str]:
    """The columns that an erasure leaves alone."""
    return [name for name in COLUMNS[version] if name not in PERSONAL]


def gaps_inside(gaps: Iterable[tuple[int, int]], first: int, last: int) -> tuple[tuple[int, int], ...]:
    """Gaps cut to a range, those that overlap or touch made one, in order."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted((max(start, first), min(end, last)) for start, end in gaps):
        if start > end:
            continue
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return tuple(merged)


def refusal(reading: Reading, first: int, last: int, gaps: Sequence[tuple[int, int]]) -> str:
    """Why a range must not be sealed; '' when each raw offset is exactly one row or lies in an accepted gap."""
    expected = last - first + 1 - sum(end - start + 1 for start, end in gaps)
    if reading.rows > reading.distinct:
        return f"{reading.rows - reading.distinct} rows are doubles"
    if reading.outside_gaps != expected:
        return f"{expected - reading.outside_gaps} of {expected} rows are missing"
    return ""


async def read_range(
    clickhouse: ClickHouse,
    place: tuple[str, int, int, int],
    gaps: Sequence[tuple[int, int]],
    columns_version: int,
    settings: Mapping[str, Any],
) -> Reading:
    """Count and hash the rows of a range: `place` is stream, partition, first and last raw offset."""
    sql = READ.format(
        digest=row_digest(COLUMNS[columns_version]),
        kept_digest=row_digest(kept_columns(columns_version)),
        expires_at=EXPIRES_AT,
    )
    stream, partition, first, last = place
    params = {
        "stream": stream,
        "partition": partition,
        "first": first,
        "last": last,
        "gap_firsts": [start for start, _ in gaps],
        "gap_lasts": [end for _, end in gaps],
    }
    (row,) = await clickhouse.query(sql, params, settings)
    return Reading(*map(int, row))


async def chain(clickhouse: ClickHouse, stream: str, partition: int | None = None) -> list[Seal]:
    """Every seal of a stream (of one partition) in its newest version, in order of ranges. Raises as ClickHouse does."""
    condition = "stream = {stream:String}" + ("" if partition is None else " AND raw_partition = {partition:UInt16}")
    params = {"stream": stream} | ({} if partition is None else {"partition": partition})
    return [_seal(row) for row in await clickhouse.query(CHAIN.format(condition=condition), params)]


async def newest(clickhouse: ClickHouse, seal: Seal) -> Seal:
    """The newest version of a seal's range. Raises as ClickHouse does."""
    condition = "stream = {stream:String} AND raw_partition = {partition:UInt16} AND raw_first = {first:UInt64}"
    params = {"stream": seal.stream, "partition": seal.partition, "first": seal.first}
    rows = await clickhouse.query(CHAIN.format(condition=condition), params)
    return next(found for found in map(_seal, rows) if found.last == seal.last)


async def summaries(clickhouse: ClickHouse, stream: str) -> dict[int, Summary]:
    """The seals of each partition that has any. Raises as ClickHouse does."""
    rows = await clickhouse.query(SUMMARY, {"stream": stream, "margin_s": EXPIRY_MARGIN_S})
    return {int(row[0]): Summary(*map(int, row)) for row in rows}


async def breaks(
    clickhouse: ClickHouse, stream: str, starts: Mapping[int, int], limit: int
) -> list[tuple[int, int, int]]:
    """(partition, expected first offset, found one) of each seal that does not begin where the last one ended."""
    params = {"stream": stream, "partitions": list(starts), "starts": list(starts.values()), "limit": limit}
    return [(int(p), int(expected), int(found)) for p, expected, found in await clickhouse.query(BREAKS, params)]


def _seal(row: Sequence[Any]) -> Seal:
    stream, partition, first, last, version, rows, gaps, *rest = row
    return Seal(stream, partition, first, last, version, rows, tuple((a, b) for a, b in gaps), *rest)


async def server_time_s(clickhouse: ClickHouse) -> int:
    """The server's time, seconds since the epoch. Raises as ClickHouse does."""
    ((now_s,),) = await clickhouse.query("SELECT toUnixTimestamp(now())")
    return int(now_s)


async def partitions_stored(clickhouse: ClickHouse) -> list[tuple[str, int]]:
    """Every (stream, partition) that has rows, from the projection `positions`. Raises as ClickHouse does."""
    sql = "SELECT stream, raw_partition FROM clicks GROUP BY stream, raw_partition ORDER BY stream, raw_partition"
    return [(str(stream), int(partition)) for stream, partition in await clickhouse.query(sql)]


async def write_seal(clickhouse: ClickHouse, seal: Seal, token: str, timeout_s: float) -> None:
    """Insert a seal; ClickHouse drops a second one with the same token. OutcomeUnknown when no answer came in time."""
    row = {
        "stream": seal.stream,
        "raw_partition": seal.partition,
        "raw_first": seal.first,
        "raw_last": seal.last,
        "version": seal.version,
        "rows": seal.rows,
        "gaps": seal.gaps,
        "columns_version": seal.columns_version,
        "digest": str(seal.digest),
        "kept_digest": str(seal.kept_digest),
        "expires_first": seal.expires_first_s,
        "reason": seal.reason,
        "sealed_by": seal.sealed_by,
    }
    settings = {
        "async_insert": 0,
        "insert_deduplicate": 1,
        "insert_deduplication_token": token,
        "max_execution_time": max(1, round(timeout_s)),
    }
    try:
        await asyncio.wait_for(clickhouse.insert_bytes("seals", orjson.dumps(row), settings), timeout_s)
    except TimeoutError as exc:
        raise OutcomeUnknown(f"ClickHouse: seal {token}: no answer within {timeout_s:g} s") from exc
