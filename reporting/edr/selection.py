"""Which rows an export has: a tenant's, by filters, within a time range or a range of positions; as SQL with parameters.

A time range comes in no order, because sorting any number of rows needs any amount of memory. Ranges of positions are
bounded, and come in the order of their positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple

from reporting.edr.columns import NAMES, NAMES_OF_CLICKHOUSE, Shape, expressions
from shared.rte import Filter

ROWS: Final = "X-Rows"
"""The header with what `count_of` counted."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_END: Final = datetime(2262, 1, 1, tzinfo=UTC)
"""Times that ClickHouse's DateTime64 can hold with any precision."""

_WANTED: Final = """tenant = {tenant:String}
        AND (empty({statuses:Array(String)}) OR status IN {statuses:Array(String)})
        AND (empty({promotions:Array(String)}) OR promotion_id IN {promotions:Array(String)})
        AND (empty({links:Array(String)}) OR link IN {links:Array(String)} OR short_url IN {links:Array(String)})
        AND ({bots:Int8} < 0 OR is_bot = {bots:Int8})"""
_IN_TIME: Final = """{time} >= fromUnixTimestamp64Milli({{first_ms:Int64}}, 'UTC')
        AND {time} < fromUnixTimestamp64Milli({{end_ms:Int64}}, 'UTC')"""
IN_SPANS: Final = """stream = {stream:String} AND raw_offset >= {least:UInt64} AND raw_offset < {most:UInt64}
        AND raw_offset >= transform(raw_partition, {partitions:Array(UInt16)}, {firsts:Array(UInt64)}, {most:UInt64})
        AND raw_offset < transform(raw_partition, {partitions:Array(UInt16)}, {ends:Array(UInt64)}, {least:UInt64})"""
"""Rows of spans; see `span_params`."""


class Clock(StrEnum):
    """Which time a range is about."""

    RECEIVED_AT = "received_at"
    CLICKED_AT = "clicked_at"


class TimeRange(NamedTuple):
    """Milliseconds since the epoch: `first_ms` is in it, `end_ms` is not."""

    clock: Clock
    first_ms: int
    end_ms: int


class Span(NamedTuple):
    """Raw offsets of one partition: `first` is in it, `end` is not."""

    partition: int
    first: int
    end: int

    @property
    def size(self) -> int:
        """How many."""
        return self.end - self.first


@dataclass(frozen=True, slots=True)
class Spans:
    """A part of each partition of one stream; empty ones are left out."""

    stream: str
    spans: tuple[Span, ...]

    @property
    def size(self) -> int:
        """Raw offsets in all."""
        return sum(span.size for span in self.spans)


class Query(NamedTuple):
    """What ClickHouse is asked for."""

    sql: str
    params: Mapping[str, Any]
    format: str
    settings: Mapping[str, Any]
    encoding: str


def time_range(clock: Clock, first: str, end: str, now: datetime) -> TimeRange:
    """The range between two times as somebody wrote them; `end` may be empty: `now`, which is aware.

    Raises ValueError, naming the parameter.
    """
    found = TimeRange(clock, _milliseconds("from", first), _milliseconds("to", end) if end else _ms(now))
    if found.first_ms >= found.end_ms:
        raise ValueError(f"from ({first}) must be before to ({end or 'now'})")
    return found


def query_of(shape: Shape, wanted: Filter, where: TimeRange | Spans) -> Query:
    """The query of an export; `wanted` names a tenant."""
    condition, params = _condition(where)
    order = "\nORDER BY raw_partition, raw_offset" if isinstance(where, Spans) else ""
    sql = (
        f"SELECT\n    {expressions(shape.format)}\nFROM\n(\n    SELECT {', '.join(NAMES)}\n    FROM edr\n"  # noqa: S608 # of constants
        f"    WHERE {_WANTED}\n        AND {condition}\n){order}"
    )
    return Query(
        sql, {**filter_params(wanted), **params}, NAMES_OF_CLICKHOUSE[shape.format], shape.settings, shape.encoding
    )


def count_of(wanted: Filter, where: TimeRange | Spans) -> tuple[str, dict[str, Any]]:
    """The query that counts the same rows, and its parameters."""
    condition, params = _condition(where)
    return f"SELECT count() FROM edr WHERE {_WANTED}\n        AND {condition}", {**filter_params(wanted), **params}  # noqa: S608 # of constants


def _condition(where: TimeRange | Spans) -> tuple[str, dict[str, Any]]:
    if isinstance(where, Spans):
        return IN_SPANS, span_params(where)
    return _IN_TIME.format(time=where.clock.value), {"first_ms": where.first_ms, "end_ms": where.end_ms}


def filter_params(wanted: Filter) -> dict[str, Any]:
    """The parameters of a filter. Raises ValueError without a tenant: nobody reads everybody's clicks."""
    if wanted.tenant is None:
        raise ValueError("an export needs a tenant")
    return {
        "tenant": wanted.tenant,
        "statuses": sorted(wanted.statuses),
        "promotions": sorted(wanted.promotions),
        "links": sorted(wanted.links),
        "bots": -1 if wanted.bots is None else int(wanted.bots),
    }


def span_params(spans: Spans) -> dict[str, Any]:
    """The parameters of `IN_SPANS`."""
    each = spans.spans or (Span(0, 0, 0),)  # transform() wants arrays that are not empty
    return {
        "stream": spans.stream,
        "least": min(span.first for span in each),
        "most": max(span.end for span in each),
        "partitions": [span.partition for span in each],
        "firsts": [span.first for span in each],
        "ends": [span.end for span in each],
    }


def _milliseconds(name: str, text: str) -> int:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ValueError(f"{name}: {text[:64]!r} is not a time such as 2026-05-31T00:00:00Z") from exc
    if found.tzinfo is None:
        raise ValueError(f"{name}: {text[:64]!r} has no zone: end it with Z, or with an offset (%2B02:00 in a URL)")
    if not _EPOCH <= found < _END:
        raise ValueError(f"{name}: {text[:64]!r} is not between the years 1970 and 2261")
    return _ms(found)


def _ms(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(milliseconds=1)
