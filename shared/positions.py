"""The SQL of positions: how far each partition of a stream is stored, for the sink before every insert and for audits.

Parameters are filled on the server: `stream` (String), `partition` (UInt16).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from shared.clickhouse import ClickHouse

HIGHEST: Final = """
SELECT count(), max(raw_offset)
FROM clicks
WHERE stream = {stream:String} AND raw_partition = {partition:UInt16}
"""
"""Rows and highest stored raw offset of one partition, answered from the projection `positions`."""

BY_STATUS: Final = """
SELECT raw_partition, toString(status) AS status, count() AS rows, min(raw_offset) AS first, max(raw_offset) AS last
FROM clicks
WHERE stream = {stream:String}
GROUP BY raw_partition, status
ORDER BY raw_partition, status
"""
"""Rows per partition and status, answered from the projection `positions`."""

DISTINCT: Final = """
SELECT raw_partition, count() AS rows, uniqExact(raw_offset) AS distinct_rows,
    min(raw_offset) AS first, max(raw_offset) AS last
FROM clicks
WHERE stream = {stream:String} AND raw_offset >= 0
GROUP BY raw_partition
ORDER BY raw_partition
"""
"""The whole check: reads every position. `rows = distinct_rows = last - expected first + 1` must hold."""

ACCEPTED_GAPS: Final = """
SELECT raw_partition, raw_first, raw_last, accepted_by, reason
FROM gaps
WHERE stream = {stream:String}
ORDER BY raw_partition, raw_first
"""
"""Missing raw offsets that a human accepted."""


class Position(NamedTuple):
    """How one partition stands in the table."""

    partition: int
    rows: int
    distinct: int
    first: int
    last: int


class StatusCount(NamedTuple):
    """Rows of one status in a partition."""

    partition: int
    status: str
    rows: int
    first: int
    last: int


class AcceptedGap(NamedTuple):
    """Raw offsets `first` to `last` (inclusive) that are known to be missing, who accepted it and why."""

    partition: int
    first: int
    last: int
    accepted_by: str
    reason: str


async def highest(clickhouse: ClickHouse, stream: str, partition: int) -> int | None:
    """The highest stored raw offset of a partition, None when no row is stored. Raises as ClickHouse does."""
    ((rows, last),) = await clickhouse.query(HIGHEST, {"stream": stream, "partition": partition})
    return int(last) if rows else None


async def positions(clickhouse: ClickHouse, stream: str) -> list[Position]:
    """Every partition of a stream that has rows, each position read and counted. Raises as ClickHouse does."""
    return [Position(*row) for row in await clickhouse.query(DISTINCT, {"stream": stream})]


async def by_status(clickhouse: ClickHouse, stream: str) -> list[StatusCount]:
    """Rows of a stream by partition and status. Raises as ClickHouse does."""
    return [StatusCount(*row) for row in await clickhouse.query(BY_STATUS, {"stream": stream})]


async def accepted_gaps(clickhouse: ClickHouse, stream: str) -> list[AcceptedGap]:
    """The accepted gaps of a stream. Raises as ClickHouse does."""
    return [AcceptedGap(*row) for row in await clickhouse.query(ACCEPTED_GAPS, {"stream": stream})]
