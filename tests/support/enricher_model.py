"""A small pair of Kafka topics for the enricher's `PartitionWorker`, driven one step at a time.

`PartitionWorker` runs unchanged, with the real enriching; each call of a port is an `Op` (stepping.py). A batch is
appended whole, or not, or it stays in the air and arrives when the test says so, after its sender was given up or died.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from enricher.feed import Feed
from enricher.refill import Request, decode_metadata
from enricher.worker import PartitionWorker
from shared.errors import NotOwned, OffsetLost, OutcomeUnknown
from shared.events import raw_offset_of
from shared.kafka import Committed
from tests.support.enriching import ID, NOW_MS, STREAM, CatalogInMemory, raw_value, tools
from tests.support.stepping import IDLE, Op, Stepped

BATCH_RECORDS: Final = 3
FETCH_RECORDS: Final = 4
CATALOG_VERSION: Final = 10
AHEAD: Final = raw_value(catalog_version=CATALOG_VERSION + 1)
"""A click stamped with a version that the catalog's copy has not reached."""
QUICK: Final = b"{"
"""A record that takes little time to enrich."""


@dataclass
class Raw:
    """A raw record."""

    offset: int
    value: bytes | None
    partition: int = 1
    timestamp: int = NOW_MS
    key: bytes | None = ID.encode()
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass
class World:
    """The topics and the group."""

    raw: list[bytes] = field(default_factory=list)
    begin: int = 0
    """The first raw offset that Kafka still has."""
    log: list[int] = field(default_factory=list)
    """Raw offsets of the enriched topic, in its order."""
    in_the_air: list[list[int]] = field(default_factory=list)
    """Batches whose acknowledgement nobody waits for any more."""
    is_next_late: bool = False
    """Whether the next batch stays in the air."""
    is_first_fenced: bool = False
    """Whether the first owner loses the partition at once."""
    given_up: set[int] = field(default_factory=set)
    """Raw offsets that an operator gave up."""
    committed: Committed | None = None
    generation: int = 0
    requests: tuple[Request, ...] = ()

    def append(self, offsets: Sequence[int]) -> None:
        """Append a batch; before each record must stand all lower offsets (invariant 4)."""
        for offset in offsets:
            expected = next(o for o in range(len(self.raw) + 1) if o not in self.written() and o not in self.given_up)
            assert offset <= expected, f"offset {offset} where {expected} was expected, behind {self.log}"
            self.log.append(offset)

    def written(self) -> set[int]:
        """The offsets that stand in the enriched topic."""
        return set(self.log)

    def batch_arrives(self) -> None:
        """One that was in the air is appended now."""
        self.append(self.in_the_air.pop(0))

    @property
    def is_done(self) -> bool:
        """Whether everything is committed, every request included."""
        if self.committed is None or self.committed.next_offset != len(self.raw):
            return False
        return {request.id for request in self.requests} <= decode_metadata(self.committed.metadata)

    def assert_complete(self) -> None:
        """Nothing is missing but what was given up."""
        assert self.written() | self.given_up >= set(range(len(self.raw)))


@dataclass
class ModelBatch:
    """At most three records."""

    offsets: list[int] = field(default_factory=list)

    def append(self, *, headers: Any = (), **_record: Any) -> object | None:
        """None when full."""
        if len(self.offsets) >= BATCH_RECORDS:
            return None
        offset = raw_offset_of(headers)
        assert offset is not None
        self.offsets.append(offset)
        return self

    def record_count(self) -> int:
        """Records in the batch."""
        return len(self.offsets)

    def size(self) -> int:
        """Bytes of the batch."""
        return len(self.offsets)


@dataclass
class ModelProducing:
    """Hands out one producer, which is itself."""

    world: World

    async def get(self) -> ModelProducing:
        """A connected producer."""
        return await Op("get", lambda: self)

    async def give_up(self, producer: ModelProducing, why: str) -> None:
        """Close it."""
        await Op("give_up", lambda: None)

    def new_batch(self) -> ModelBatch:
        """An empty batch."""
        return ModelBatch()

    async def send_batch(self, _topic: str, _partition: int, batch: Any) -> int:
        """Append a batch whole, now or later."""
        offsets = list(batch.offsets)

        def effect() -> int:
            if self.world.is_next_late:
                self.world.is_next_late = False
                self.world.in_the_air.append(offsets)
                raise OutcomeUnknown("no acknowledgement in time")
            self.world.append(offsets)
            return len(self.world.log)

        return await Op("send_batch", effect)


@dataclass
class ModelGroup:
    """The group's coordinator, as the owner of one generation sees it."""

    world: World
    generation: int
    is_active: bool = True

    async def committed(self) -> Committed | None:
        """Fetch the committed position."""
        return await Op("committed", lambda: self.world.committed)

    async def commit(self, committed: Committed) -> None:
        """Refused to any but the current generation."""

        def effect() -> None:
            if self.generation != self.world.generation:
                raise NotOwned("fenced")
            self.world.committed = committed

        await Op("commit", effect)

    async def wait_revoked(self, _seconds_max: float) -> None:
        """The rebalance is over."""

        def effect() -> None:
            self.is_active = False

        await Op("wait_revoked", effect)


@dataclass
class ModelGate:
    """A catalog copy that gets to a version when it is waited for."""

    catalog: CatalogInMemory

    async def reach(self, version: int) -> int | None:
        """Wait for a version."""

        def effect() -> None:
            self.catalog.version = version

        await Op("reach", effect)
        return None

    async def until_ready(self) -> None:
        """Complete at once."""
        await Op("until_ready", lambda: None)


class ModelFeed(Feed):
    """The real feed over the model's raw topic."""

    def __init__(self, world: World) -> None:
        super().__init__("raw", 1, self._go_to, lambda: None)
        self._world = world
        self._position = 0

    async def next(self) -> Sequence[Any]:
        """Read until there is something to hand out."""
        while not (self._fetches or self._nudged or self._lost):
            await Op("next" if self._position < len(self._world.raw) else IDLE, self._fetch)
        return await super().next()

    async def wait_for_nudge(self) -> None:
        """Wait for a request."""
        await Op("wait_for_nudge", self.nudge)
        await super().wait_for_nudge()

    def _go_to(self, offset: int) -> None:
        self._position = offset

    def _fetch(self) -> None:
        world, start = self._world, self._position
        if start < world.begin:
            self.fail(OffsetLost("raw", 1, start, world.begin))
        elif start == len(world.raw):
            self.nudge()
        else:
            self._position = min(len(world.raw), start + FETCH_RECORDS)
            self.put([Raw(offset, world.raw[offset]) for offset in range(start, self._position)])


async def _pause(_seconds: float) -> None:
    await Op("pause", lambda: None)


class Process(Stepped):
    """One member's worker of the partition. It lives on after it lost the partition, until it notices or is crashed."""

    LOCAL = Stepped.LOCAL | {"next", "wait_for_nudge", "wait_revoked", "give_up", "until_ready"}

    def __init__(
        self, world: World, worker: type[PartitionWorker[ModelProducing]] = PartitionWorker[ModelProducing]
    ) -> None:
        world.generation += 1
        catalog = CatalogInMemory(CATALOG_VERSION)
        self.group = ModelGroup(world, world.generation)
        if world.is_first_fenced:
            world.is_first_fenced = False
            world.generation += 1
        super().__init__(
            worker(
                stream=STREAM,
                partition=1,
                start_offset=0,
                topic_enriched="enriched",
                feed=ModelFeed(world),
                group=self.group,
                producing=ModelProducing(world),
                tools=tools(catalog),
                gate=ModelGate(catalog),
                requests=lambda _partition: world.requests,
                now_ms=lambda: NOW_MS,
                pause=_pause,
            ).run()
        )
