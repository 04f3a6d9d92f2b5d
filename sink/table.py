"""ClickHouse as the sink uses it: positions, copies of suspects, inserts with tokens, probes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from shared.clickhouse import ClickHouse
from shared.errors import OutcomeUnknown
from shared.positions import HIGHEST
from sink import cluster
from sink.suspects import REMEMBER_S, REMEMBERED_MAX, Asked, Copies
from sink.watch import copy_queries

RAW_TIMES: Final = "input_format_read_datetime_number_as_raw_value"
"""Servers that know this setting read integers as seconds without it; those that do not, read milliseconds."""
IDS_PER_QUERY: Final = 10_000
"""Ids in one look-up, as many as a block has rows by default: 400 KB of text, with replays 1 MB."""
QUERY_BYTES_MAX: Final = 4 << 20

_COPIES: Final = """
SELECT toString(transaction_id), countIf(status = 'accepted'), anyIf(click_digest, status = 'accepted'),
    groupUniqArrayIf(replay_of, {is_asked_replay})
FROM clicks
WHERE (status = 'accepted' OR {is_asked_replay})
    AND NOT (stream = {{stream:String}} AND raw_partition = {{partition:UInt16}} AND raw_offset > {{before:Int64}})
    AND ({conditions})
GROUP BY transaction_id
"""
_SUSPECTS: Final = """
WITH (
    SELECT max(inserted_at) FROM clicks WHERE stream = {stream:String} AND raw_partition = {partition:UInt16}
) AS latest
SELECT toString(transaction_id), toUnixTimestamp64Milli(latest) - toUnixTimestamp64Milli(inserted_at)
FROM clicks
WHERE stream = {stream:String} AND raw_partition = {partition:UInt16} AND suspect AND status = 'accepted'
    AND inserted_at >= latest - toIntervalSecond({seconds:UInt32})
ORDER BY inserted_at DESC
LIMIT 1 BY transaction_id
LIMIT {limit:UInt32}
"""
"""The newest first: what the limit leaves out has no longer to be remembered than the last that it lets through. Each id once,
also where several replicas answer."""


def insert_settings(*, raw_times: bool, timeout_s: float) -> dict[str, Any]:
    """Settings under which one body becomes one part, or nothing. `raw_times`: the server knows `RAW_TIMES`."""
    settings: dict[str, Any] = {
        "async_insert": 0,
        "insert_deduplicate": 1,
        "max_insert_block_size": 10_000_000,
        "min_insert_block_size_rows": 10_000_000,
        "min_insert_block_size_bytes": 1 << 32,
        "input_format_parallel_parsing": 0,
        "input_format_skip_unknown_fields": 0,  # a column that the table lacks is an alarm, not values that are dropped
        "max_execution_time": max(1, round(timeout_s)),
    }
    return settings | ({RAW_TIMES: 1} if raw_times else {})


class Store:
    """The table for all partitions of one member: a client, the insert settings and the places for inserting."""

    def __init__(
        self, clickhouse: ClickHouse, *, raw_times: bool, inserts_at_once: int, insert_timeout_s: float
    ) -> None:
        self.clickhouse = clickhouse
        self.settings = insert_settings(raw_times=raw_times, timeout_s=insert_timeout_s)
        if clickhouse.cluster:
            self.settings |= cluster.INSERT_SETTINGS
        self.timeout_s = insert_timeout_s
        self.places = asyncio.Semaphore(inserts_at_once)

    async def ask(
        self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """The rows of a SELECT about what is stored; on a cluster all replicas are asked. Raises as ClickHouse does."""
        name = self.clickhouse.cluster
        if not name:
            return await self.clickhouse.query(sql, parameters, settings)
        return await self.clickhouse.query(
            cluster.of_every_copy(sql, name), parameters, {**(settings or {}), **cluster.EVERY_COPY}
        )


class PartitionTable:
    """One partition's rows. Every call raises the classes of shared.errors."""

    def __init__(self, store: Store, stream: str, partition: int, start: int) -> None:
        self._store = store
        self._stream, self._partition = stream, partition
        self.start = start
        self._has_turn = False

    @property
    def _parameters(self) -> dict[str, Any]:
        return {"stream": self._stream, "partition": self._partition}

    async def take_turn(self) -> None:
        """See `ports.Table`."""
        if not self._has_turn:
            await self._store.places.acquire()
            self._has_turn = True

    def give_turn(self) -> None:
        """See `ports.Table`."""
        if self._has_turn:
            self._has_turn = False
            self._store.places.release()

    async def highest(self) -> int:
        """The highest raw offset that is stored or sealed; the stream's start - 1 when there is none."""
        ((is_there, last),) = await self._store.ask(HIGHEST, self._parameters, {"max_threads": 1})  # it reads few rows
        return int(last) if is_there else self.start - 1

    async def copies(self, asked: Sequence[Asked], raw_before: int) -> Mapping[str, Copies]:
        """What each asked id has among the rows up to `raw_before`; ids without such a row are left out."""
        found: dict[str, Copies] = {}
        for begin in range(0, len(asked), IDS_PER_QUERY):
            some = asked[begin : begin + IDS_PER_QUERY]
            copy_queries.inc()
            sql = _COPIES.format(conditions=_conditions(some), is_asked_replay=_is_asked_replay(some))
            rows = await self._store.ask(
                sql, self._parameters | {"before": raw_before}, {"max_query_size": QUERY_BYTES_MAX}
            )
            for transaction_id, accepted, digest, replays in rows:
                found[str(transaction_id)] = Copies(str(digest) if accepted else None, frozenset(replays))
        return found

    async def recent_suspects(self) -> Sequence[tuple[bytes, float]]:
        """(id, seconds from its insert to the partition's latest) of what was stored as suspect a short while ago."""
        bounds = {"seconds": round(REMEMBER_S), "limit": REMEMBERED_MAX + 1}
        rows = await self._store.ask(_SUSPECTS, self._parameters | bounds)
        return [(str(transaction_id).encode(), age_ms / 1000) for transaction_id, age_ms in rows]

    async def insert(self, body: Iterable[bytes], token: str) -> None:
        """Insert a block as one part. OutcomeUnknown when no answer came in time."""
        settings = self._store.settings | {"insert_deduplication_token": token}
        await self._bounded(self._store.clickhouse.insert_bytes("clicks", body, settings), "insert")

    async def probe(self, body: Iterable[bytes]) -> None:
        """Raise DataError where `insert` would, and store nothing."""
        await self._bounded(self._store.clickhouse.insert_bytes("clicks_probe", body, self._store.settings), "probe")

    async def _bounded(self, call: Any, what: str) -> None:
        try:
            await asyncio.wait_for(call, self._store.timeout_s)
        except TimeoutError as exc:
            raise OutcomeUnknown(f"ClickHouse: {what}: no answer within {self._store.timeout_s} s") from exc


def _is_asked_replay(asked: Sequence[Asked]) -> str:
    """SQL that is true for rows whose `replay_of` (letters, digits, `_-/` only) is asked about."""
    replays = sorted({replay for question in asked for replay in question.replays})
    return f"replay_of IN ({','.join(map(repr, replays))})" if replays else "false"


def _conditions(asked: Sequence[Asked]) -> str:
    """SQL that is true for rows of the asked ids, as far back as each was asked for.

    Ids are canonical UUIDs (hexadecimal digits and dashes), so they stand in the text as they are. One lower bound for
    each kind of id keeps the text short: the least of all version 7 ids, the least of all others.
    """
    parts = []
    for timed in (True, False):
        group = [question for question in asked if (question.transaction_id[14] == "7") == timed]
        if group:
            ids = ",".join(f"'{question.transaction_id}'" for question in group)
            bound = max(0, min(question.not_before_ms for question in group))
            parts.append(f"(transaction_id IN ({ids}) AND received_at >= fromUnixTimestamp64Milli({bound}))")
    return " OR ".join(parts)
