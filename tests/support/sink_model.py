"""A small Kafka partition and a small ClickHouse table for the sink's `Owner`, driven one step at a time.

`Owner` runs unchanged, each call of a port is an `Op` (stepping.py). Inserts are modelled as ClickHouse makes them: the
token and the part are two steps, and tokens that are older than any insert can be are forgotten when the test says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from shared.clickhouse import UnknownClickHouseError
from shared.errors import DataError, NotOwned, OutcomeUnknown, TransientError
from shared.events import HEADER_SUSPECT, Status, encode_raw_offset
from shared.seals import StoredBlock, due_range
from sink.blocks import Block, Intake, Limits, Unbuildable
from sink.plans import Plan
from sink.ports import Bounds
from sink.suspects import REMEMBER_S, Asked, Copies
from sink.worker import Owner
from tests.support.stepping import IDLE, Op, Stepped

STREAM = "s1"
BOUNDS = Bounds()
LIMITS = Limits(rows_max=4, bytes_max=1 << 20, age_ms=0)
SEAL_AGE_MS = 120_000
"""Age of a row when it may be sealed: longer than an insert can be in flight, and than a new part can be lost."""


class Record(NamedTuple):
    """A Kafka record as far as the sink reads it."""

    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


@dataclass
class Part:
    """The rows of one insert, by raw offset."""

    rows: dict[int, dict[str, Any]]
    inserted_s: float


@dataclass
class World:
    """Kafka, ClickHouse and time."""

    token_first: bool = True
    now_s: float = 1_000.0
    log: list[Record] = field(default_factory=list)
    written: dict[int, tuple[str, bool]] = field(default_factory=dict)
    """(transaction-id, suspect) of each raw offset."""
    replay_of: dict[int, str] = field(default_factory=dict)
    committed: tuple[int, str] | None = None
    generation: int = 0
    parts: list[Part] = field(default_factory=list)
    tokens: dict[str, float] = field(default_factory=dict)
    """When each token was recorded."""
    poison: set[int] = field(default_factory=set)
    """Raw offsets of records that ClickHouse refuses."""
    rejected: set[int] = field(default_factory=set)
    """Raw offsets of records that the enricher rejected."""
    odd: set[int] = field(default_factory=set)
    """Raw offsets of records that ClickHouse refuses with an error of no known class."""
    odd_errors: int = 0
    """How many inserts and probes will still be answered with an error of no known class."""
    server_starts: int = 0
    seals: list[tuple[int, int]] = field(default_factory=list)
    """First and last raw offset of each, in the order in which they were written."""
    measured: list[tuple[int, int]] = field(default_factory=list)
    """Ranges that some sealer has read and may still write as seals, a stopped one long after."""
    expired: list[Part] = field(default_factory=list)
    """Rows that were stored, sealed and deleted by TTL."""

    def write(self, raw_offset: int) -> None:
        """Append an enriched record."""
        transaction_id, suspect = self.written[raw_offset]
        value = orjson.dumps(
            {
                "v": 1,
                "stream": STREAM,
                "raw_partition": 0,
                "raw_offset": raw_offset,
                "transaction_id": transaction_id,
                "status": Status.REJECTED if raw_offset in self.rejected else Status.ACCEPTED,
                "suspect": suspect,
                "replay_of": self.replay_of.get(raw_offset, ""),
                "is_poison": raw_offset in self.poison,
                "is_odd": raw_offset in self.odd,
                "received_at": 1_700_000_000_000,
                "expires_at": 1_800_000_000_000,
            }
        )
        headers = [("raw_offset", encode_raw_offset(raw_offset))] + ([(HEADER_SUSPECT, b"1")] if suspect else [])
        self.log.append(Record(len(self.log), 1_700_000_000_000, transaction_id.encode(), value, tuple(headers)))

    def forget_old_tokens(self) -> None:
        """The window moves on. Its least size covers more time than an answer of the table and an insert last."""
        oldest_s = self.now_s - BOUNDS.settle_s
        self.tokens = {token: at_s for token, at_s in self.tokens.items() if at_s >= oldest_s}

    def forget_tokens_of(self, part: Part) -> None:
        """The token of a lost part is lost with it, whichever attempt it was."""
        name = f"{STREAM}-0-{min(part.rows)}-{max(part.rows)}"
        self.tokens = {token: at_s for token, at_s in self.tokens.items() if token.partition("#")[0] != name}

    def refuse(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Raise DataError where a row cannot be stored, and the odd error while there are any."""
        kinds = [(row.get("is_odd"), row.get("is_poison")) for row in rows]
        if self.odd_errors or any(is_odd for is_odd, _ in kinds):
            self.odd_errors = max(0, self.odd_errors - 1)
            raise UnknownClickHouseError("code 4711")
        if any(is_poison for _, is_poison in kinds):
            raise DataError("a value that no column takes")

    def rows(self) -> list[dict[str, Any]]:
        """Every stored row."""
        return [row for part in self.parts for row in part.rows.values()]

    def sealed_last(self) -> int:
        """The end of the last seal."""
        return max((last for _, last in self.seals), default=-1)

    def highest(self) -> int:
        """The highest raw offset that is stored or sealed."""
        return max(self.sealed_last(), *(raw for part in self.parts for raw in part.rows), -1)

    def measure_seal(self) -> None:
        """A sealer reads which range is due; its rows must be there, each once."""
        after = self.sealed_last()
        blocks = sorted(
            StoredBlock(min(part.rows), max(part.rows), len(part.rows), int(part.inserted_s * 1000))
            for part in self.parts
            if max(part.rows) > after
        )
        last = due_range(blocks, now_ms=int(self.now_s * 1000), every_ms=60_000, age_ms=SEAL_AGE_MS, rows_max=6)
        if last is not None:
            stored = sorted(raw for part in self.parts for raw in part.rows if after < raw <= last)
            assert stored == list(range(after + 1, last + 1)), "a range that is due does not verify"
            self.measured.append((after + 1, last))

    def write_seal(self, index: int) -> None:
        """A sealer writes what it measured; ClickHouse takes one seal of each beginning (its token)."""
        first, last = self.measured.pop(index)
        if first not in [known for known, _ in self.seals]:
            self.seals.append((first, last))

    def expire(self, raws: Collection[int]) -> None:
        """Delete rows by TTL, in any order."""
        self.expired += [
            Part(gone, part.inserted_s)
            for part in self.parts
            if (gone := {raw: row for raw, row in part.rows.items() if raw in raws})
        ]
        for part in self.parts:
            part.rows = {raw: row for raw, row in part.rows.items() if raw not in raws}
        self.parts = [part for part in self.parts if part.rows]


@dataclass
class ModelTable:
    """ClickHouse as one owner sees it."""

    world: World
    start: int = 0
    has_turn: bool = False

    async def take_turn(self) -> None:
        """There is always a place."""
        if not self.has_turn:
            await Op("take_turn", lambda: None)
            self.has_turn = True

    def give_turn(self) -> None:
        """Others wait for it."""
        self.has_turn = False

    async def highest(self) -> int:
        """Ask the table."""
        return await Op("highest", self.world.highest)

    async def copies(self, asked: Sequence[Asked], raw_before: int) -> Mapping[str, Copies]:
        """Look up rows before the block."""

        def look() -> dict[str, Copies]:
            before = [row for row in self.world.rows() if row["raw_offset"] <= raw_before]
            found = {}
            for transaction_id, _, replays in asked:
                rows = [row for row in before if row["transaction_id"] == transaction_id]
                is_accepted = any(row["status"] == Status.ACCEPTED for row in rows)
                seen = frozenset(row["replay_of"] for row in rows) & frozenset(replays)
                found[transaction_id] = Copies("" if is_accepted else None, seen)
            return found

        return await Op("copies", look)

    async def recent_suspects(self) -> Sequence[tuple[bytes, float]]:
        """Reload the suspects of the window that ends with the latest part."""

        def look() -> list[tuple[bytes, float]]:
            latest = max((part.inserted_s for part in self.world.parts), default=0.0)
            return [
                (row["transaction_id"].encode(), latest - part.inserted_s)
                for part in self.world.parts
                for row in part.rows.values()
                if row["suspect"] and latest - part.inserted_s <= REMEMBER_S
            ]

        return await Op("recent_suspects", look)

    async def insert(self, body: Iterable[bytes], token: str) -> None:
        """Token and part in two steps, in the order of this server; late ones are ended by the server."""
        world, began_s, began_with = self.world, self.world.now_s, self.world.server_starts
        rows = {row["raw_offset"]: row for row in map(orjson.loads, b"".join(body).splitlines())}

        def check() -> None:
            if world.server_starts != began_with:
                raise OutcomeUnknown("the server went away")
            if world.now_s - began_s > BOUNDS.insert_s:
                raise TransientError("the insert took too long")

        def begin() -> bool:
            check()
            world.refuse(rows.values())
            if token in world.tokens:
                return False
            if world.token_first:
                world.tokens[token] = world.now_s
            return True

        def finish() -> None:
            check()
            if not world.token_first and token in world.tokens:
                return
            world.parts.append(Part(rows, world.now_s))
            world.tokens.setdefault(token, world.now_s)

        if await Op("insert", begin):
            await Op("insert", finish)

    async def probe(self, body: Iterable[bytes]) -> None:
        """As an insert, without an effect."""
        await Op("probe", lambda: self.world.refuse(map(orjson.loads, b"".join(body).splitlines())))


@dataclass
class ModelGroup:
    """The group's coordinator, as the owner of one generation sees it."""

    world: World
    generation: int

    async def committed(self) -> tuple[int, str] | None:
        """Fetch the committed position."""
        return await Op("committed", lambda: self.world.committed)

    async def commit(self, next_offset: int, metadata: str) -> None:
        """Refused to any but the current generation."""

        def effect() -> None:
            if self.generation != self.world.generation:
                raise NotOwned("fenced")
            self.world.committed = (next_offset, metadata)

        await Op("commit", effect)


class ModelFeed:
    """The real `Intake` over the model's log; `fetch` records come at a time, so that processes cut different blocks."""

    def __init__(self, world: World, fetch: int) -> None:
        self.world = world
        self.fetch = fetch
        self.intake = Intake(STREAM, 0)

    async def begin_offset(self) -> int:
        """Nothing is ever deleted."""
        return await Op("begin_offset", lambda: 0)

    def restart(self, position: int, taken: int, plan: Plan | None = None) -> None:
        """Seek."""
        self.intake.restart(position, taken, plan)

    async def next_block(self) -> Block | Unbuildable:
        """Read until a block is due."""
        while self.intake.due_in_ms(LIMITS, self._now_ms()) != 0:
            await Op(IDLE if self.intake.position >= len(self.world.log) else "read", self._read)
        return self.intake.cut(LIMITS)

    async def following_block(self, take_turn: Callable[[], Awaitable[None]]) -> Block | None:
        """A block that is due already, or after one more look."""
        if self.intake.due_in_ms(LIMITS, self._now_ms()) != 0:
            await Op("read", self._read)
        if self.intake.due_in_ms(LIMITS, self._now_ms()) != 0:
            return None
        if not self.intake.is_full(LIMITS):
            await take_turn()
        block = self.intake.cut(LIMITS)
        return block if isinstance(block, Block) else None

    def _read(self) -> None:
        self.intake.offer(self.world.log[self.intake.position : self.intake.position + self.fetch], self._now_ms())

    def _now_ms(self) -> int:
        return int(self.world.now_s * 1000)


@dataclass
class ModelClock:
    """The world's time; a pause ends when the owner is stepped, and nobody is paused with a place for inserting."""

    world: World
    table: ModelTable

    def now_s(self) -> float:
        """Seconds."""
        return self.world.now_s

    def wall_ms(self) -> int:
        """Milliseconds."""
        return int(self.world.now_s * 1000)

    async def pause(self, seconds: float) -> None:
        """Sleep."""
        assert not self.table.has_turn, "others wait for the place"
        until_s = self.world.now_s + seconds

        def effect() -> None:
            self.world.now_s = max(self.world.now_s, until_s)

        await Op("pause", effect)


class SilentWatch:
    """Counts what is reported by name."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: self.seen.append((name, args))


class Process(Stepped):
    """One member's owner coroutine. It lives on after it lost the partition, until it notices or is crashed."""

    table: type[ModelTable] = ModelTable
    bounds = BOUNDS

    def __init__(self, world: World, fetch: int = 2) -> None:
        world.generation += 1
        self.watch = SilentWatch()
        self.feed = ModelFeed(world, fetch)
        table = self.table(world)
        owner = Owner(
            STREAM,
            0,
            table=table,
            group=ModelGroup(world, world.generation),
            feed=self.feed,
            clock=ModelClock(world, table),
            watch=self.watch,
            bounds=self.bounds,
        )
        super().__init__(owner.run())

    @property
    def is_idle(self) -> bool:
        """Whether it waits for records and holds none."""
        return self.pending is not None and self.pending.name == IDLE and not len(self.feed.intake)

    def disconnect(self) -> None:
        """The connection to ClickHouse breaks: an answer on its way is lost."""
        if self.pending is not None and self.pending.name in {
            "highest",
            "copies",
            "recent_suspects",
            "insert",
            "probe",
        }:
            self.lose_answer()
