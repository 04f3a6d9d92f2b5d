"""Accepting a gap: the row that says who gave up which raw offsets and why. The sink passes it, the audit counts it."""

from __future__ import annotations

import re
from typing import Final

import orjson

from clickledger.audit import Span
from clickledger.audit_run import read_stream
from clickledger.located import Located
from shared import positions
from shared.clickhouse import ClickHouse
from shared.errors import OperatorError
from shared.kafka import Reader
from shared.seals import last_sealed

_GAP: Final = re.compile(r"([0-9]{1,4}):([0-9]{1,18})(?:-([0-9]{1,18}))?")


def parse_gap(text: str) -> tuple[int, Span]:
    """Read `partition:first-last` or `partition:offset`. Raises ValueError that shows the form."""
    matched = _GAP.fullmatch(text)
    if matched is None:
        raise ValueError(f"{text!r} is no gap: write partition:first-last, for example 3:1200-1207")
    first = int(matched[2])
    span = Span(first, int(matched[3] or first))
    if span.last < span.first:
        raise ValueError(f"{text!r} ends before it begins")
    return int(matched[1]), span


async def _raw_end(found: Located, partition: int) -> int:
    """The next raw offset of a partition. Raises OperatorError when there is no such partition."""
    raw = Reader(found.kafka, found.kafka.topic_raw, client_id="clickledger-audit")
    try:
        await raw.start()
        partitions = await raw.partitions()
        if partition not in partitions:
            raise OperatorError(
                f"{found.kafka.topic_raw} has {len(partitions)} partitions, none with number {partition}"
            )
        return (await raw.end_offsets([partition]))[partition]
    finally:
        await raw.close()


async def accept_gap(found: Located, partition: int, span: Span, *, who: str, reason: str) -> None:
    """Write the row. Raises OperatorError for what is no gap: rows are stored inside, or the offsets are still to come."""
    record, _ = await read_stream(found)
    end = await _raw_end(found, partition)
    if span.last >= end:
        raise OperatorError(f"partition {partition} of {found.kafka.topic_raw} ends at {end}: {span} is still to come")
    async with ClickHouse(found.clickhouse) as clickhouse:
        sql = (
            "SELECT count() FROM clicks WHERE stream = {stream:String} AND raw_partition = {partition:UInt16} "
            "AND raw_offset BETWEEN {first:UInt64} AND {last:UInt64}"
        )
        params = {"stream": record.stream, "partition": partition, "first": span.first, "last": span.last}
        ((stored,),) = await clickhouse.query(sql, params)
        sealed = await last_sealed(clickhouse, record.stream, partition)
        if sealed is not None and span.first <= sealed:
            raise OperatorError(f"partition {partition}: all up to raw offset {sealed} is sealed, so {span} was stored")
        if stored:
            raise OperatorError(f"partition {partition}: {stored} of raw offsets {span} are stored: give the gap alone")
        row = {
            "stream": record.stream,
            "raw_partition": partition,
            "raw_first": span.first,
            "raw_last": span.last,
            "accepted_by": who,
            "reason": reason,
        }
        if any(
            (gap.partition, gap.first, gap.last) == (partition, span.first, span.last)
            for gap in await positions.accepted_gaps(clickhouse, record.stream)
        ):
            return
        await clickhouse.insert_bytes("gaps", orjson.dumps(row), {})
