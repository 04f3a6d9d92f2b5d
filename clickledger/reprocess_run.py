"""Sends rows that are not accepted through the pipeline again: wait, select, skip what was replayed, send.

Never twice for the same row (docs/adr/0015):

* first everything in Kafka is waited for, so that replays of an earlier command, killed or not, are rows;
* a row that a replay names already is skipped;
* what neither can see (two commands at once, a batch that arrives after its sender died) the sink decides: all replays
  of one row have its id and so its partition, and the second one is stored as `duplicate`.

Rows that appear while the command runs are left to the next one. All is bounded: rows and bytes per query, one batch
outstanding.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from clickledger.audit_run import wait_until_stored
from clickledger.directory import read_catalog
from clickledger.located import Located
from clickledger.reprocess import Replay, Stored, replay_of
from shared.catalog import Catalog, Kind
from shared.clickhouse import ClickHouse
from shared.errors import DataError, OutcomeUnknown, TransientError
from shared.events import HEADER_SUSPECT, Reason, Status
from shared.kafka import Batch, Producer

PAGE_ROWS: Final = 2_000
"""Rows looked at in one query: their ids and positions are 190 KB of its text, the server's limit is 256 KB."""
CHUNK_BYTES_MAX: Final = 4 << 20
"""Bytes of the column `raw` fetched in one query; at least one row, which has 800 KB at most."""

_WHERE: Final = """
FROM clicks
WHERE status = {status:String}
    AND (empty({reasons:Array(String)}) OR has({reasons:Array(String)}, reason))
    AND received_at >= fromUnixTimestamp64Milli({since:Int64})
    AND ({tenant:String} = '' OR tenant = {tenant:String})
    AND raw != ''
    AND (stream != {stream:String} OR raw_offset < transform(raw_partition, {partitions:Array(UInt16)}, {ends:Array(UInt64)}, 0))
"""
"""Rows without bytes are left alone: they were empty, or were erased."""
_COUNT: Final = f"SELECT count() {_WHERE}"  # constants
_PAGE: Final = f"""
SELECT stream, raw_partition, raw_offset, toString(transaction_id), toUnixTimestamp64Milli(received_at), length(raw)
{_WHERE}
    AND (stream, raw_partition, raw_offset) > ({{after_stream:String}}, {{after_partition:UInt16}}, {{after_offset:UInt64}})
ORDER BY stream, raw_partition, raw_offset
LIMIT {{limit:UInt32}}
"""  # constants
_SAME: Final = """
FROM clicks
WHERE transaction_id IN ({ids}) AND received_at >= fromUnixTimestamp64Milli({first})
    AND received_at <= fromUnixTimestamp64Milli({last})
"""
"""Rows of some ids; a replay has the id and the `received_at` of its row, so that both indices help."""


class Selection(NamedTuple):
    """Which rows."""

    status: Status
    reasons: Sequence[Reason] = ()
    """none: all"""
    since_ms: int = 0
    """`received_at` at or after this, in ms"""
    tenant: str = ""
    """none: all"""
    limit: int | None = None
    """rows to send at most"""


class Found(NamedTuple):
    """A selected row without its bytes."""

    stream: str
    partition: int
    offset: int
    transaction_id: str
    received_at_ms: int
    raw_bytes: int

    @property
    def position(self) -> str:
        """As a replay's row names it in `replay_of`."""
        return f"{self.stream}/{self.partition}/{self.offset}"


@dataclass(slots=True)
class Outcome:
    """What was done, in rows."""

    sent: int = 0
    """appended and acknowledged; in a dry run: would be"""
    replayed_before: int = 0
    """skipped, because a replay of the row is stored"""
    unsendable: Counter[str] = field(default_factory=Counter)
    """whose bytes make no record, by reason"""


async def reprocess(
    found: Located,
    selection: Selection,
    outcome: Outcome,
    *,
    dry_run: bool,
    timeout_s: float,
    begin: Callable[[int], None],
    advance: Callable[[int], None],
) -> None:
    """Send every selected row once; `outcome` counts on while it runs. `begin` is told how many rows are selected.

    Raises TransientError when what is in Kafka is not stored within `timeout_s` or Kafka does not take the records:
    what was sent counts, run it again. OperatorError as Kafka and ClickHouse do.
    """
    stream, ends = await wait_until_stored(found, timeout_s)
    producer = Producer(found.kafka, "clickledger-reprocess")
    try:
        async with ClickHouse(found.clickhouse) as clickhouse:
            rows = _Rows(clickhouse, selection, stream, ends)
            begin(await rows.count())
            async with read_catalog(found.kafka, found.catalog, (Kind.LINK,)) as catalog:
                await producer.start()
                sender = _Sender(producer, found.kafka.topic_raw, is_dry=dry_run)
                async for page in rows.pages():
                    await _replay_page(page, rows, catalog, sender, outcome, limit=selection.limit)
                    advance(len(page))
                    if outcome.sent == selection.limit:
                        break
    finally:
        await producer.close()


async def _replay_page(
    page: Sequence[Found], rows: _Rows, catalog: Catalog, sender: _Sender, outcome: Outcome, *, limit: int | None
) -> None:
    catalog.refresh()
    replayed = await rows.replayed(page)
    waiting = [row for row in page if (row.transaction_id, row.position) not in replayed]
    outcome.replayed_before += len(page) - len(waiting)
    for chunk in _chunks(waiting):
        replays: list[Replay] = []
        for stored in await rows.load(chunk):
            if limit is not None and outcome.sent + len(replays) >= limit:
                break
            made = replay_of(stored, catalog, len(rows.ends), time.time_ns() // 1_000_000)
            if isinstance(made, Replay):
                replays.append(made)
            else:
                outcome.unsendable[made] += 1
        await sender.send(replays, outcome)


def _chunks(rows: Iterable[Found]) -> Iterable[list[Found]]:
    chunk: list[Found] = []
    size = 0
    for row in rows:
        if chunk and size + row.raw_bytes > CHUNK_BYTES_MAX:
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += row.raw_bytes
    if chunk:
        yield chunk


@dataclass(frozen=True, slots=True)
class _Rows:
    """The selected rows in the table. `ends`: each partition's end offset, up to which the present stream is looked at."""

    clickhouse: ClickHouse
    selection: Selection
    stream: str
    ends: Mapping[int, int]

    def _parameters(self) -> dict[str, Any]:
        return {
            "status": str(self.selection.status),
            "reasons": [str(reason) for reason in self.selection.reasons],
            "since": self.selection.since_ms,
            "tenant": self.selection.tenant,
            "stream": self.stream,
            "partitions": list(self.ends),
            "ends": list(self.ends.values()),
        }

    async def count(self) -> int:
        ((rows,),) = await self.clickhouse.query(_COUNT, self._parameters())
        return int(rows)

    async def pages(self) -> AsyncIterator[list[Found]]:
        """The rows in order of position, a page at a time."""
        after: tuple[str, int, int] = ("", 0, 0)
        while True:
            place = {"after_stream": after[0], "after_partition": after[1], "after_offset": after[2]}
            rows = await self.clickhouse.query(_PAGE, self._parameters() | place | {"limit": PAGE_ROWS})
            page = [Found(*row) for row in rows]
            if not page:
                return
            yield page
            after = page[-1][:3]

    async def replayed(self, page: Sequence[Found]) -> set[tuple[str, str]]:
        """(id, position) of those rows that a replay names."""
        positions = ",".join(_quoted(row.position) for row in page)
        sql = f"SELECT DISTINCT toString(transaction_id), replay_of {_same(page)} AND replay_of IN ({positions})"  # quoted
        return {(str(transaction_id), str(replay)) for transaction_id, replay in await self.clickhouse.query(sql)}

    async def load(self, chunk: Sequence[Found]) -> list[Stored]:
        """The rows with their bytes, in order."""
        places = ",".join(f"({_quoted(row.stream)},{row.partition},{row.offset})" for row in chunk)
        sql = f"SELECT stream, raw_partition, raw_offset, raw {_same(chunk)} AND (stream, raw_partition, raw_offset) IN ({places})"  # quoted
        raws = {(stream, partition, offset): raw for stream, partition, offset, raw in await self.clickhouse.query(sql)}
        status = self.selection.status
        return [Stored(*row[:5], status, raws[row[:3]]) for row in chunk if row[:3] in raws]


def _same(rows: Sequence[Found]) -> str:
    times = [row.received_at_ms for row in rows]
    ids = ",".join(sorted({_quoted(row.transaction_id) for row in rows}))
    return _SAME.format(ids=ids, first=min(times), last=max(times))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


@dataclass(frozen=True, slots=True)
class _Sender:
    """Appends replays, one batch outstanding."""

    producer: Producer
    topic: str
    is_dry: bool

    async def send(self, replays: Sequence[Replay], outcome: Outcome) -> None:
        """Append all; each counts when it is acknowledged."""
        if self.is_dry:
            outcome.sent += len(replays)
            return
        for partition in sorted({replay.partition for replay in replays}):
            batch = self.producer.new_batch()
            for replay in replays:
                if replay.partition == partition and not self._append(batch, replay):
                    await self._send(partition, batch, outcome)
                    batch = self.producer.new_batch()
                    if not self._append(batch, replay):
                        raise DataError(f"the replay of {replay.key.decode()} does not fit an empty batch")
            await self._send(partition, batch, outcome)

    def _append(self, batch: Batch, replay: Replay) -> bool:
        """Add a record. Its Kafka time is the present: from it Kafka counts how long the record is kept."""
        headers = [(HEADER_SUSPECT, b"1")]
        now_ms = time.time_ns() // 1_000_000
        return batch.append(timestamp=now_ms, key=replay.key, value=replay.value, headers=headers) is not None

    async def _send(self, partition: int, batch: Batch, outcome: Outcome) -> None:
        try:
            await self.producer.send_batch(self.topic, partition, batch)
        except OutcomeUnknown as exc:
            raise TransientError(
                f"{exc}; {outcome.sent:,} were sent; run it again: what did arrive is skipped"
            ) from exc
        except TransientError as exc:
            raise TransientError(f"{exc}; {outcome.sent:,} were sent; run it again for the others") from exc
        outcome.sent += batch.record_count()
