"""Pulls by position: which rows come next, decided before the first byte.

The sink stores each partition in the order of raw offsets, so what is stored is everything below the partition's end. A
pull is the part between the reader's position and these ends, or the beginning of it. The same two positions name the
same rows for ever; what is stored later lies behind them. So pulls never miss a row, give none twice, and may be
repeated.

Rows expire. Whose rows are gone cannot be told any more, so a part of which any row is gone, or may go within the hour,
is refused as a whole, with the earliest position from which everything is there: never fewer rows without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from reporting.edr.selection import IN_SPANS, Span, Spans, span_params
from shared import positions, seals
from shared.clickhouse import ClickHouse
from shared.enriched import Stream
from shared.errors import TransientError
from shared.positions import AcceptedGap
from shared.rte import Position

EARLIEST: Final = "earliest"
LATEST: Final = "latest"
CHUNK: Final = 65_536
"""Raw offsets that are counted together when the earliest whole position is looked for."""

_GOING: Final = f"({seals.EXPIRES_AT} <= now() + {seals.EXPIRY_MARGIN_S})"
_STAYING: Final = f"""
SELECT raw_partition, uniqExactIf(raw_offset, NOT {_GOING})
FROM clicks
WHERE {IN_SPANS}
GROUP BY raw_partition
"""  # noqa: S608 # built from constants
_CHUNKS: Final = f"""
SELECT raw_partition, intDiv(raw_offset, {CHUNK}) AS chunk, countIf(NOT {_GOING})
FROM clicks
WHERE {IN_SPANS}
GROUP BY raw_partition, chunk
"""  # noqa: S608 # built from constants
_OFFSETS: Final = f"""
SELECT DISTINCT raw_offset
FROM clicks
WHERE {IN_SPANS} AND NOT {_GOING}
"""  # noqa: S608 # built from constants
_STREAMS: Final = """
SELECT stream
FROM
(
    SELECT stream, 1 AS has_rows, max(inserted_at) AS last
    FROM clicks
    GROUP BY stream
    UNION ALL
    SELECT stream, 0 AS has_rows, max(sealed_at) AS last
    FROM seals
    WHERE version = 1
    GROUP BY stream
)
GROUP BY stream
ORDER BY argMax(last, has_rows), stream
"""
"""All streams in the order in which they ended: by their rows, and by their first seals where the rows have expired."""


class Pull(NamedTuple):
    """What a pull has, and where the next one begins."""

    spans: Spans
    next: Position
    remaining: int
    """raw offsets that are stored behind it already"""


class Expired(Exception):
    """Rows behind the position are gone. `earliest` is the first position from which everything is there."""

    def __init__(self, text: str, earliest: Position) -> None:
        super().__init__(text)
        self.earliest = earliest


async def position_of(clickhouse: ClickHouse, current: Stream, cursor: str) -> Position:
    """The position that a cursor means. Raises ValueError for a text that is none, and as ClickHouse does."""
    if cursor == EARLIEST:
        return await earliest(clickhouse, current)
    if cursor == LATEST:
        return Position(current.id, await _ends(clickhouse, current))
    found = Position.parse(cursor)
    if found.stream == current.id and len(found.offsets) > len(current.starts):
        raise ValueError(f"the position has {len(found.offsets)} partitions, the stream {len(current.starts)}")
    return found


async def plan_pull(clickhouse: ClickHouse, current: Stream, after: Position, rows_max: int) -> Pull:
    """What comes after a position: at most `rows_max` raw offsets, the same number of each partition.

    Raises Expired, and as ClickHouse does.
    """
    pull = await plan(clickhouse, current, after, rows_max)
    await check_whole(clickhouse, current, pull.spans)
    return pull


async def plan(clickhouse: ClickHouse, current: Stream, after: Position, rows_max: int) -> Pull:
    """`plan_pull` without a look at whether every row is there. Raises Expired for a stream that nobody knows."""
    if after.stream == current.id:
        ends = await _ends(clickhouse, current)
        return take(after, tuple(map(current.start, range(len(ends)))), ends, rows_max)
    found = await positions.ends(clickhouse, after.stream)
    if not found:
        raise Expired("no row is known of the cursor's stream", await earliest(clickhouse, current))
    ends = tuple(found.get(partition, 0) for partition in range(max(found) + 1))
    pull = take(after, (0,) * len(ends), ends, rows_max)
    behind = sum(await _ends(clickhouse, current)) - sum(current.starts)
    if pull.spans.size or pull.remaining:
        return pull._replace(remaining=pull.remaining + behind)
    return pull._replace(next=await _begin_of_next(clickhouse, current, after.stream), remaining=behind)


async def _begin_of_next(clickhouse: ClickHouse, current: Stream, stream: str) -> Position:
    """Where the stream behind a former one begins. Streams follow each other as their topics did.

    Raises TransientError when the former one is newer than the current one: then the catalog's copy is behind.
    """
    known = [str(row[0]) for row in await clickhouse.query(_STREAMS)]
    following = next_stream(known, stream, current.id)
    return Position(current.id, current.starts) if following == current.id else Position(following, (0,))


def next_stream(known: Sequence[str], stream: str, current: str) -> str:
    """The stream behind `stream` among those that are known, in their order; `current` may have no row yet.

    Raises TransientError when `stream` is not there, or behind the current one.
    """
    former = known[: known.index(current)] if current in known else known
    if stream not in former:
        raise TransientError(f"stream {stream} is not before the current one, {current}: the catalog's copy is behind")
    return [*former, current][former.index(stream) + 1]


def take(after: Position, starts: Sequence[int], ends: Sequence[int], rows_max: int) -> Pull:
    """What lies between a position and the ends of its stream's partitions; pure, and the same for ever."""
    spans = []
    for partition, end in enumerate(ends):
        first = max(after.offset(partition), starts[partition])
        if first < end:
            spans.append(Span(partition, first, end))
    share = max(1, rows_max // len(spans)) if spans else 0
    taken = tuple(span._replace(end=min(span.end, span.first + share)) for span in spans)
    offsets = {span.partition: span.end for span in taken}
    next_ = tuple(
        offsets.get(partition, max(after.offset(partition), starts[partition])) for partition in range(len(ends))
    )
    rest = sum(span.size for span in spans) - sum(span.size for span in taken)
    return Pull(Spans(after.stream, taken), Position(after.stream, next_), rest)


async def check_whole(clickhouse: ClickHouse, current: Stream, spans: Spans) -> None:
    """Raise Expired unless every row of the spans is there and stays for the next hour; and as ClickHouse does."""
    if not spans.spans:
        return
    gaps = await positions.accepted_gaps(clickhouse, spans.stream)
    found = dict(await clickhouse.query(_STAYING, span_params(spans)))
    for span in spans.spans:
        if found.get(span.partition, 0) < span.size - _in_gaps(gaps, span):
            text = f"rows of partition {span.partition}, raw offsets {span.first} to {span.end - 1}, have expired"
            raise Expired(text, await earliest(clickhouse, current))


async def earliest(clickhouse: ClickHouse, current: Stream) -> Position:
    """The first position from which every row of the current stream is there and stays. Raises as ClickHouse does."""
    ends = await _ends(clickhouse, current)
    spans = Spans(current.id, tuple(Span(p, current.start(p), end) for p, end in enumerate(ends)))
    return Position(current.id, tuple(await first_whole(clickhouse, spans)))


async def first_whole(clickhouse: ClickHouse, spans: Spans) -> list[int]:
    """For each span, however long, the first offset from which every row is there and stays. Raises as ClickHouse does.

    Rows are counted by chunks, so that any number of them costs little memory; that no offset has two is the audit's.
    """
    if not spans.spans:
        return []
    gaps = await positions.accepted_gaps(clickhouse, spans.stream)
    counts: dict[int, dict[int, int]] = {}
    for partition, chunk, count in await clickhouse.query(_CHUNKS, span_params(spans)):
        counts.setdefault(partition, {})[chunk] = count
    return [await _first_whole(clickhouse, spans.stream, span, counts, gaps) for span in spans.spans]


async def _first_whole(
    clickhouse: ClickHouse, stream: str, span: Span, counts: dict[int, dict[int, int]], gaps: Sequence[AcceptedGap]
) -> int:
    """The offset behind the highest one of the span whose row is gone or may go."""
    if span.size <= 0:
        return span.first
    found = counts.get(span.partition, {})
    for chunk in range((span.end - 1) // CHUNK, span.first // CHUNK - 1, -1):
        part = Span(span.partition, max(span.first, chunk * CHUNK), min(span.end, (chunk + 1) * CHUNK))
        if found.get(chunk, 0) >= part.size - _in_gaps(gaps, part):
            continue
        rows = await clickhouse.query(_OFFSETS, span_params(Spans(stream, (part,))))
        there = {int(offset) for (offset,) in rows}
        for offset in range(part.end - 1, part.first - 1, -1):
            if offset not in there and not _in_gaps(gaps, Span(part.partition, offset, offset + 1)):
                return offset + 1
    return span.first


def gaps_in(gaps: Sequence[AcceptedGap], span: Span) -> list[Span]:
    """The parts of a span that are known to be missing."""
    parts = (
        Span(span.partition, max(gap.first, span.first), min(gap.last + 1, span.end))
        for gap in gaps
        if gap.partition == span.partition
    )
    return [part for part in parts if part.size > 0]


def _in_gaps(gaps: Sequence[AcceptedGap], span: Span) -> int:
    """How many raw offsets of the span are known to be missing."""
    return sum(part.size for part in gaps_in(gaps, span))


async def _ends(clickhouse: ClickHouse, current: Stream) -> tuple[int, ...]:
    """The first raw offset of each partition that is not stored yet."""
    found = await positions.ends(clickhouse, current.id)
    partitions = max(len(current.starts), max(found, default=-1) + 1)
    return tuple(max(found.get(partition, 0), current.start(partition)) for partition in range(partitions))
