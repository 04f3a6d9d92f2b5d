"""The SQL of positions: how far each partition of a stream is stored, for the sink before every insert and for audits.

Parameters are filled on the server: `stream` (String), `partition` (UInt16).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from shared.clickhouse import ClickHouse

HIGHEST: Final = """
SELECT max(is_there), max(last)
FROM
(
    SELECT count() > 0 AS is_there, max(raw_offset) AS last
    FROM clicks
    WHERE stream = {stream:String} AND raw_partition = {partition:UInt16}
    UNION ALL
    SELECT count() > 0 AS is_there, max(raw_last) AS last
    FROM seals
    WHERE stream = {stream:String} AND raw_partition = {partition:UInt16}
)
"""
"""Whether a partition has rows or seals, and the highest raw offset of both, answered from two projections.

Rows expire in another order than they came, so the highest row may be gone while lower ones stand. What is sealed was
stored, so nothing up to a seal's end may be stored again.
"""

ENDS: Final = """
SELECT raw_partition, max(last) + 1
FROM
(
    SELECT raw_partition, max(raw_offset) AS last
    FROM clicks
    WHERE stream = {stream:String}
    GROUP BY raw_partition
    UNION ALL
    SELECT raw_partition, max(raw_last) AS last
    FROM seals
    WHERE stream = {stream:String}
    GROUP BY raw_partition
)
GROUP BY raw_partition
"""
"""`HIGHEST` of all partitions, as the first raw offset that is not stored yet."""

AUDIT: Final = """
SELECT raw_partition, countIf(is_inside), groupBitmapIf(raw_offset, is_inside), maxIf(raw_offset, is_inside), count()
FROM
(
    SELECT raw_partition, raw_offset,
        raw_offset < arrayMin({gap_firsts:Array(UInt64)}) OR raw_offset > arrayMax({gap_lasts:Array(UInt64)}) OR NOT arrayExists(
            (gap_partition, first, last) -> raw_partition = gap_partition AND raw_offset BETWEEN first AND last,
            {gap_partitions:Array(UInt16)}, {gap_firsts:Array(UInt64)}, {gap_lasts:Array(UInt64)}) AS is_inside
    FROM clicks
    WHERE stream = {stream:String} AND raw_offset >= {least:UInt64}
        AND raw_offset >= {firsts:Array(UInt64)}[raw_partition + 1]
)
GROUP BY raw_partition
ORDER BY raw_partition
"""
"""The check in one query, so that its numbers are of one moment: reads every position from each partition's first on.

`groupBitmapIf` counts different offsets as exactly as `uniqExactIf` does, in a set that is made for runs of numbers:
docs/adr/0035. `firsts` stands in order of partitions from 0 on; those behind its end begin at 0. Rows in accepted gaps
are counted apart; most rows lie outside of all of them and are not compared with each.
"""

TOTALS: Final = """
SELECT raw_partition, sum(rows), min(lowest), sumIf(rows, status = 'accepted'), sumIf(rows, status = 'duplicate'),
    sumIf(rows, status = 'rejected'), sumIf(rows, status = 'malformed')
FROM
(
    SELECT raw_partition, status, count() AS rows, min(raw_offset) AS lowest
    FROM clicks
    WHERE stream = {stream:String}
    GROUP BY raw_partition, status
)
GROUP BY raw_partition
"""
"""All rows of a stream's partitions, answered from the projection `positions`."""

BELOW: Final = """
SELECT count()
FROM clicks
WHERE stream = {stream:String} AND raw_partition = {partition:UInt16} AND raw_offset < {first:UInt64}
"""

MISSING: Final = """
SELECT toUInt64(before + 1), toUInt64(raw_offset - 1)
FROM
(
    SELECT toInt64(raw_offset) AS raw_offset,
        lagInFrame(toInt64(raw_offset), 1, {first:Int64} - 1)
            OVER (ORDER BY raw_offset ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS before
    FROM clicks
    WHERE stream = {stream:String} AND raw_partition = {partition:UInt16} AND raw_offset >= {first:Int64}
)
WHERE raw_offset > before + 1
ORDER BY raw_offset
LIMIT {limit:UInt32}
"""
"""The ranges without rows of one partition below its highest row, accepted ones included."""

DOUBLES: Final = """
SELECT raw_offset
FROM clicks
WHERE stream = {stream:String} AND raw_partition = {partition:UInt16} AND raw_offset >= {first:UInt64}
GROUP BY raw_offset
HAVING count() > 1
ORDER BY raw_offset
LIMIT {limit:UInt32}
"""
"""Offsets of one partition with more than one row."""

IDS: Final = """
SELECT raw_partition, raw_offset, groupArray(toString(transaction_id))
FROM clicks
WHERE stream = {stream:String}
    AND (raw_partition, raw_offset) IN (SELECT arrayJoin(arrayZip({partitions:Array(UInt16)}, {offsets:Array(UInt64)})))
GROUP BY raw_partition, raw_offset
"""
"""The transaction-ids at some positions."""

ACCEPTED_GAPS: Final = """
SELECT raw_partition, raw_first, raw_last, accepted_by, reason
FROM gaps
WHERE stream = {stream:String}
ORDER BY raw_partition, raw_first
"""
"""Missing raw offsets that a human accepted."""


class Position(NamedTuple):
    """How one partition stands in the table from its first offset on."""

    partition: int
    rows: int
    """outside of accepted gaps"""
    distinct: int
    """offsets among them"""
    last: int | None
    """highest offset among them"""
    rows_all: int
    """in accepted gaps too"""


class Total(NamedTuple):
    """All rows of one partition."""

    partition: int
    rows: int
    lowest: int
    accepted: int
    duplicate: int
    rejected: int
    malformed: int


class AcceptedGap(NamedTuple):
    """Raw offsets `first` to `last` (inclusive) that are known to be missing, who accepted it and why."""

    partition: int
    first: int
    last: int
    accepted_by: str
    reason: str


async def highest(clickhouse: ClickHouse, stream: str, partition: int) -> int | None:
    """The highest raw offset of a partition that is stored or sealed, None without any. Raises as ClickHouse does."""
    ((is_there, last),) = await clickhouse.query(HIGHEST, {"stream": stream, "partition": partition})
    return int(last) if is_there else None


async def ends(clickhouse: ClickHouse, stream: str) -> dict[int, int]:
    """The first raw offset that is not stored yet of each partition that has rows or seals. Raises as ClickHouse does."""
    return {int(partition): int(end) for partition, end in await clickhouse.query(ENDS, {"stream": stream})}


async def positions(
    clickhouse: ClickHouse, stream: str, firsts: Mapping[int, int], gaps: Sequence[AcceptedGap] = ()
) -> list[Position]:
    """Every partition of a stream that has rows from its offset in `firsts` on. Raises as ClickHouse does."""
    params = {
        "stream": stream,
        "least": min(firsts.values(), default=0),
        "firsts": [firsts.get(partition, 0) for partition in range(max(firsts, default=-1) + 1)],
        "gap_partitions": [gap.partition for gap in gaps],
        "gap_firsts": [gap.first for gap in gaps],
        "gap_lasts": [gap.last for gap in gaps],
    }
    found = [Position(*row) for row in await clickhouse.query(AUDIT, params)]
    return [position if position.rows else position._replace(last=None) for position in found]


async def totals(clickhouse: ClickHouse, stream: str) -> dict[int, Total]:
    """Every partition of a stream that has rows, in milliseconds. Raises as ClickHouse does."""
    return {int(row[0]): Total(*row) for row in await clickhouse.query(TOTALS, {"stream": stream})}


async def rows_below(clickhouse: ClickHouse, stream: str, partition: int, first: int) -> int:
    """Rows of a partition below an offset. Raises as ClickHouse does."""
    ((rows,),) = await clickhouse.query(BELOW, {"stream": stream, "partition": partition, "first": first})
    return int(rows)


async def missing_ranges(
    clickhouse: ClickHouse, stream: str, partition: int, first: int, limit: int
) -> list[tuple[int, int]]:
    """The first ranges (both ends included) without rows from `first` to the highest row. Raises as ClickHouse does."""
    params = {"stream": stream, "partition": partition, "first": first, "limit": limit}
    return [(int(start), int(end)) for start, end in await clickhouse.query(MISSING, params)]


async def doubled_offsets(clickhouse: ClickHouse, stream: str, partition: int, first: int, limit: int) -> list[int]:
    """The first offsets from `first` on that have more than one row. Raises as ClickHouse does."""
    params = {"stream": stream, "partition": partition, "first": first, "limit": limit}
    return [int(offset) for (offset,) in await clickhouse.query(DOUBLES, params)]


async def transaction_ids(
    clickhouse: ClickHouse, stream: str, places: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], tuple[str, ...]]:
    """The ids stored at (partition, offset) places; places without a row are left out. Raises as ClickHouse does."""
    params = {"stream": stream, "partitions": [p for p, _ in places], "offsets": [offset for _, offset in places]}
    rows = await clickhouse.query(IDS, params) if places else []
    return {(int(partition), int(offset)): tuple(ids) for partition, offset, ids in rows}


async def accepted_gaps(clickhouse: ClickHouse, stream: str) -> list[AcceptedGap]:
    """The accepted gaps of a stream. Raises as ClickHouse does."""
    return [AcceptedGap(*row) for row in await clickhouse.query(ACCEPTED_GAPS, {"stream": stream})]
