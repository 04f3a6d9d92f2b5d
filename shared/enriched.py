"""Reads `clicks.enriched` as a stream of raw offsets without holes: each click once, from any position on.

Theory of operation. The records of a partition are a sequence of raw offsets in which the *first* copy of each goes up
by one, and copies may stand anywhere behind it (docs/ARCHITECTURE.md, invariant 4). So a reader needs nothing but the
next raw offset: that one is taken, a lower one is a copy and dropped, a higher one proves that something lies further
back. Where to start reading for a raw offset is found by asking the topic (`_locate`), and need not be exact: when a
higher offset comes first, the reading goes back, further each time. That what is taken goes up by one *is* the proof
that nothing was missed; no copy of any kind, nor a wrong start, can make it miss or repeat a click. (Behind the late
copies of a writer that was paused, a reader that begins there may notice only when the next click is written.)

When going back does not help, either Kafka no longer has the record (`PositionLost`), or it never had it: the partition
stands at its `gap`, as the sink does, until the record is written (`clickledger refill`) or the gap is accepted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from shared.errors import ClickledgerError, TransientError
from shared.events import raw_offset_of
from shared.kafka import Reader, Record
from shared.rte import Position
from shared.settings import KafkaSettings
from shared.track import Gap, Track

BACK_MAX: Final = 1_000_000
"""Records of one partition that are read again at most before it counts as a gap: minutes of a full partition."""
PROBES_MAX: Final = 64
"""Rounds of asking where an offset is; two or three are the rule, halving ends within 63."""
PARTITION_BYTES_MIN: Final = 16 << 10
"""Fetched ahead of one partition, however many there are."""


class PositionLost(ClickledgerError):
    """What comes next at a position is not in Kafka; `earliest` is where the stream begins now."""

    def __init__(self, why: str, earliest: Position) -> None:
        super().__init__(f"{why}; the earliest position is {earliest}")
        self.earliest = earliest


class Taken(NamedTuple):
    """One click, in its turn."""

    partition: int
    raw_offset: int
    value: bytes


class Stream(NamedTuple):
    """A raw topic's stream: its id, and the first raw offset of each partition (0 for later ones)."""

    id: str
    starts: tuple[int, ...]

    def start(self, partition: int) -> int:
        """The first raw offset of a partition."""
        return self.starts[partition] if partition < len(self.starts) else 0


def enricher_group(stream: str) -> str:
    """The consumer group of the enrichers of a stream: derived, so that no setting can split or merge groups."""
    return f"clickledger-enricher-{stream}"


class _Bounds(NamedTuple):
    """What Kafka keeps of a partition: offsets `first` to before `end`."""

    first: int
    end: int


@dataclass
class Enriched:
    """A reader of one stream. `begin_…` once, then `read` again and again; it may be begun anew after an error."""

    kafka: KafkaSettings
    stream: Stream
    client_id: str
    buffer_bytes: int
    """Fetched ahead, all partitions together."""
    gather_ms: int = 0
    """As for `shared.kafka.Reader`."""
    foreign: int = 0
    """Records seen that no enricher wrote."""
    copies: int = 0
    """Records seen that were given before."""
    _tracks: dict[int, Track] = field(default_factory=dict)
    _taken: list[Taken] = field(default_factory=list)
    _has_moved: bool = False
    """The library reads elsewhere than the tracks say."""
    _reader: Reader | None = None

    @property
    def position(self) -> Position:
        """Behind everything that was given."""
        return Position(self.stream.id, tuple(self._tracks[p].expected for p in sorted(self._tracks)))

    @property
    def gaps(self) -> dict[int, Gap]:
        """The partitions that stand at a gap."""
        return {partition: track.gap for partition, track in self._tracks.items() if track.gap is not None}

    async def open(self) -> None:
        """Connect. Raises TransientError, OperatorError."""
        share = max(PARTITION_BYTES_MIN, self.buffer_bytes // max(1, len(self.stream.starts)))
        reader = Reader(
            self.kafka,
            self.kafka.topic_enriched,
            client_id=self.client_id,
            partition_bytes_max=share,
            gather_ms=self.gather_ms,
        )
        await reader.start()
        self._reader = reader
        self._has_moved = True

    async def close(self) -> None:
        """Disconnect, within a few seconds. What was given is remembered: `open` goes on from there."""
        if self._reader is not None:
            reader, self._reader = self._reader, None
            await reader.close()

    # Where to begin. All of them raise TransientError, OperatorError.

    async def begin_earliest(self) -> None:
        """From the first record that Kafka keeps."""
        self._start(await self._earliest(await self._bounds()))

    async def begin_latest(self, history: int = 0) -> dict[int, int]:
        """From the end, or so many records before it, all partitions together; gives the ends."""
        bounds = await self._bounds()
        share = history // len(bounds)
        if share:
            self._start(
                await self._tracks_at({p: max(first, end - share) for p, (first, end) in bounds.items()}, bounds)
            )
        else:
            last = await self._probe({p: end - 1 for p, (first, end) in bounds.items() if first < end})
            tracks = await self._without_records(bounds)
            for partition, (_, raw_offset) in last.items():
                end = bounds[partition].end
                tracks[partition] = Track.at(raw_offset + 1, end)
            self._start(tracks)
        return {partition: end for partition, (_, end) in bounds.items()}

    async def begin_at(self, time_ms: int) -> None:
        """From the first record whose click was received at this time or later. Raises PositionLost, too."""
        bounds = await self._bounds()
        kept_ms = self.kafka.retention_hours * 3_600_000
        if time_ms < time.time_ns() // 1_000_000 - kept_ms and any(first for first, _ in bounds.values()):
            raise PositionLost("what was received then is no longer in Kafka", await self._earliest_position(bounds))
        found = await self._open_reader.offsets_at(time_ms, bounds)
        ends = {p: bounds[p].end if offset is None else offset for p, offset in found.items()}
        self._start(await self._tracks_at(ends, bounds))

    async def begin(self, position: Position) -> None:
        """From a position. Raises PositionLost, too."""
        bounds = await self._bounds()
        why = await self._why_unknown(position, bounds)
        if not why:
            wanted = {p: position.offset(p) for p in bounds}
            starts = await self._locate(wanted, bounds)
            lost = [p for p, start in starts.items() if start is None]
            if not lost:
                self._start({p: Track.at(wanted[p], start or 0) for p, start in starts.items()})
                return
            why = f"raw offset {wanted[lost[0]]} of partition {lost[0]} is no longer in Kafka (retention)"
        raise PositionLost(why, await self._earliest_position(bounds))

    async def _why_unknown(self, position: Position, bounds: Mapping[int, _Bounds]) -> str:
        """Why a position cannot be one of this stream; empty when it can."""
        if position.stream != self.stream.id:
            return f"the position is of stream {position.stream}, the topic now carries {self.stream.id}"
        if len(position.offsets) > len(bounds):
            return f"the position has {len(position.offsets)} partitions, the topic {len(bounds)}"
        ends = await self._raw_ends()
        for partition, offset in enumerate(position.offsets):
            if offset > ends.get(partition, 0):
                return f"raw offset {offset} of partition {partition} lies beyond the end, {ends.get(partition, 0)}"
        return ""

    # Reading

    async def read(self, timeout_ms: int) -> list[Taken]:
        """The next clicks, in order within each partition; an empty list after `timeout_ms`.

        Raises TransientError (ClientBroken: `close` and `open`), OperatorError (OffsetLost), PositionLost. What was
        taken before an error comes with the next call.
        """
        if self._has_moved:
            self._assign()
        for partition, records in (await self._open_reader.getmany(timeout_ms)).items():
            await self._take(partition, records)
        taken, self._taken = self._taken, []
        return taken

    async def _take(self, partition: int, records: Sequence[Record]) -> None:
        track = self._tracks[partition]
        for record in records:
            raw_offset = raw_offset_of(record.headers)
            if raw_offset is None or record.value is None:
                self.foreign += 1
                continue
            is_next = track.take(record.offset, raw_offset)
            if is_next:
                self._taken.append(Taken(partition, raw_offset, record.value))
            elif is_next is None:
                track.offset, self._has_moved = record.offset, True  # read again from here on, whatever happens now
                await self._go_back(partition, track, raw_offset)
                return
            elif raw_offset < track.expected:
                self.copies += 1

    async def _go_back(self, partition: int, track: Track, raw_offset: int) -> None:
        """Read from further back, or note the gap when that does not help. Raises PositionLost."""
        first = (await self._bounds([partition]))[partition].first
        if track.begun > first and track.back <= BACK_MAX and track.expected - track.begun_with <= BACK_MAX:
            track.offset = track.begun = max(first, track.begun - track.back)
            track.back *= 10
        elif (await self._probe({partition: first}))[partition][1] > track.expected:
            why = f"raw offset {track.expected} of partition {partition} is no longer in Kafka (retention)"
            raise PositionLost(why, await self._earliest_position(await self._bounds()))
        else:
            track.gap = Gap(track.expected, raw_offset - 1, track.offset)

    def pass_gap(self, partition: int, raw_offset: int) -> None:
        """Go on behind a gap: everything below `raw_offset` will never come, and somebody has accepted that."""
        track = self._tracks[partition]
        assert track.gap is not None
        self._tracks[partition] = Track.at(raw_offset, track.gap.behind)
        self._has_moved = True

    async def ends(self) -> dict[int, int]:
        """The topic's ends: proof that Kafka answers. Raises TransientError when it does not within the time-out."""
        try:
            async with asyncio.timeout(self.kafka.kafka_request_timeout_ms / 1000):
                return await self._open_reader.end_offsets(self._tracks)
        except TimeoutError as exc:
            raise TransientError(f"{self.kafka.topic_enriched}: no answer from Kafka") from exc

    def lag(self, ends: Mapping[int, int]) -> int:
        """Records between here and these ends."""
        return sum(max(0, end - self._tracks[p].offset) for p, end in ends.items() if p in self._tracks)

    async def grow(self) -> bool:
        """Read partitions that were added, from their beginning; whether there were any."""
        added = [p for p in await self._open_reader.partitions() if p not in self._tracks]
        if added:
            bounds = await self._bounds(added)
            self._tracks |= {p: Track.at(0, bounds[p].first) for p in added}
            self._has_moved = True
        return bool(added)

    # Asking the topic

    @property
    def _open_reader(self) -> Reader:
        if self._reader is None:
            raise TransientError(f"{self.kafka.topic_enriched}: not connected")
        return self._reader

    def _start(self, tracks: Mapping[int, Track]) -> None:
        self._taken.clear()
        self._tracks = dict(sorted(tracks.items()))
        self._assign()

    def _assign(self) -> None:
        self._has_moved = False
        self._open_reader.assign({partition: track.offset for partition, track in self._tracks.items()})

    async def _bounds(self, partitions: Iterable[int] | None = None) -> dict[int, _Bounds]:
        reader = self._open_reader
        asked = await reader.partitions() if partitions is None else list(partitions)
        firsts, ends = await reader.begin_offsets(asked), await reader.end_offsets(asked)
        return {p: _Bounds(firsts[p], ends[p]) for p in asked}

    async def _raw_ends(self) -> dict[int, int]:
        reader = self._open_reader
        topic = self.kafka.topic_raw
        return await reader.end_offsets(await reader.partitions(topic), topic)

    async def _probe(self, offsets: Mapping[int, int]) -> dict[int, tuple[int, int]]:
        """(offset, raw offset) of the record at each offset, or of the next one behind it. Raises TransientError."""
        found: dict[int, tuple[int, int]] = {}
        deadline = time.monotonic() + self.kafka.kafka_request_timeout_ms / 1000
        while missing := {p: offset for p, offset in offsets.items() if p not in found}:
            if time.monotonic() > deadline:
                raise TransientError(f"{self.kafka.topic_enriched}: no record at {missing} in time")
            self._open_reader.assign(missing)
            for partition, records in (await self._open_reader.getmany(timeout_ms=500)).items():
                numbered = ((record.offset, raw_offset_of(record.headers)) for record in records)
                ours = next(((offset, raw) for offset, raw in numbered if raw is not None), None)
                if ours is not None:
                    found[partition] = ours
        return found

    async def _without_records(self, bounds: Mapping[int, _Bounds]) -> dict[int, Track]:
        """Tracks of the partitions that are empty.

        They begin at the stream's start or, where all records have expired, at what the enricher writes next. That is what
        it committed: records so old were acknowledged long ago, and whatever was not committed is written again.
        """
        empty = {p: end for p, (first, end) in bounds.items() if first == end}
        expired = [p for p, end in empty.items() if end]
        tracks = {p: Track.at(self.stream.start(p), 0) for p, end in empty.items() if not end}
        if not expired:
            return tracks
        group, topic = enricher_group(self.stream.id), self.kafka.topic_raw
        nexts = await self._raw_ends()
        nexts |= await self._open_reader.committed(group, topic, expired)  # less, where raw clicks are not enriched yet
        now = await self._bounds(expired)  # what was written since the end was read may be behind what is committed now
        written = await self._probe({p: empty[p] for p in expired if now[p].end > empty[p]})
        tracks |= {p: Track.at(nexts.get(p, 0), empty[p]) for p in expired}
        return tracks | {p: Track.at(raw_offset, offset) for p, (offset, raw_offset) in written.items()}

    async def _tracks_at(self, offsets: Mapping[int, int], bounds: Mapping[int, _Bounds]) -> dict[int, Track]:
        """Tracks that begin at these offsets of clicks.enriched, with whatever stands there."""
        there = {p: offset for p, offset in offsets.items() if offset < bounds[p].end}
        at_end = {p: bounds[p].end - 1 for p in offsets if p not in there and bounds[p].first < bounds[p].end}
        tracks = await self._without_records(bounds)
        for partition, (offset, raw_offset) in (await self._probe(there)).items():
            tracks[partition] = Track.at(raw_offset, offset)
        for partition, (_, raw_offset) in (await self._probe(at_end)).items():
            end = bounds[partition].end
            tracks[partition] = Track.at(raw_offset + 1, end)
        return tracks

    async def _earliest(self, bounds: Mapping[int, _Bounds]) -> dict[int, Track]:
        return await self._tracks_at({p: first for p, (first, _) in bounds.items()}, bounds)

    async def _earliest_position(self, bounds: Mapping[int, _Bounds]) -> Position:
        tracks = await self._earliest(bounds)
        return Position(self.stream.id, tuple(tracks[p].expected for p in sorted(tracks)))

    async def _locate(self, wanted: Mapping[int, int], bounds: Mapping[int, _Bounds]) -> dict[int, int | None]:
        """Where to begin reading for raw offsets: there, or a little before; None where it is no longer kept.

        Raw offsets go up as offsets do, but for copies, so the distance to the wanted one is a very good guess of the
        next place to ask. Where copies lead astray, the reading itself notices (`_go_back`).
        """
        low = await self._probe({p: first for p, (first, end) in bounds.items() if first < end})
        found: dict[int, int | None] = {p: end for p, (first, end) in bounds.items() if first == end}
        high = {p: end for p, (_, end) in bounds.items()}
        for _ in range(PROBES_MAX):
            for partition, (offset, raw_offset) in low.items():
                if partition in found:
                    continue
                if raw_offset >= wanted[partition] or high[partition] <= offset + 1:
                    found[partition] = None if raw_offset > wanted[partition] else offset
            asked = {p: _between(*at, wanted[p], high[p]) for p, at in low.items() if p not in found}
            if not asked:
                return found
            for partition, (offset, raw_offset) in (await self._probe(asked)).items():
                if raw_offset > wanted[partition]:
                    high[partition] = offset
                else:
                    low[partition] = offset, raw_offset
        return found | {p: offset for p, (offset, _) in low.items() if p not in found}


def _between(offset: int, raw_offset: int, wanted: int, high: int) -> int:
    """The next place to ask above `offset` and below `high`: as far on as raw offsets are missing, else the middle."""
    guess = offset + wanted - raw_offset
    return guess if guess < high else (offset + high) // 2
