"""What an `Owner` talks to: ClickHouse, the group, the topic, time; and the bounds that all owners keep."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sink.blocks import Block, Unbuildable
from sink.plans import Plan
from sink.suspects import Asked, Copies


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long an answer counts and an insert runs, in seconds; the same for all members of a group."""

    fresh_s: float = 30.0
    """How old the table's answer and our last accepted commit may be when an insert starts."""
    insert_s: float = 30.0
    """How long one insert may run, at the client and at the server."""
    second_tokens: bool = True
    """Whether a block that was acknowledged and is not there may be sent with another token. Not on replicated tables."""

    @property
    def settle_s(self) -> float:
        """After this no insert that was begun before can be in flight; a fifth more than the sum, for slow answers."""
        return 1.2 * (self.fresh_s + self.insert_s)


class Table(Protocol):
    """One partition's rows in ClickHouse. Every call raises the classes of shared.errors."""

    start: int
    """The stream's first raw offset in this partition."""

    async def take_turn(self) -> None:
        """Take one of the member's places for inserting, waited for in order; the one that is held already counts."""

    def give_turn(self) -> None:
        """Give the place back, if one is held."""

    async def highest(self) -> int:
        """The highest raw offset that is stored or sealed; the stream's start - 1 when there is none."""

    async def copies(self, asked: Sequence[Asked], raw_before: int) -> Mapping[str, Copies]:
        """What each asked id has among the rows up to `raw_before`; ids without such a row are left out."""

    async def recent_suspects(self) -> Sequence[tuple[bytes, float]]:
        """(id, seconds from its insert to the partition's latest) of what was stored as suspect a short while ago.

        The newest first, and at most one more than are remembered.
        """

    async def insert(self, body: Iterable[bytes], token: str) -> None:
        """Insert a block as one part."""

    async def probe(self, body: Iterable[bytes]) -> None:
        """Raise DataError where `insert` would, and store nothing."""


class Group(Protocol):
    """The group's committed position of this partition, under one assignment. Both raise NotOwned after its end."""

    async def committed(self) -> tuple[int, str] | None:
        """(next offset, metadata); None when there is none. Raises TransientError when it is unknown."""

    async def commit(self, next_offset: int, metadata: str) -> None:
        """Commit under the generation of this assignment only."""


class Feed(Protocol):
    """Blocks cut from the topic."""

    async def begin_offset(self) -> int:
        """The earliest record kept in Kafka."""

    def restart(self, position: int, taken: int, plan: Plan | None = None) -> None:
        """Read again from a Kafka offset; everything up to raw offset `taken` is stored. `plan`: cut it first."""

    async def next_block(self) -> Block | Unbuildable:
        """Wait until a block is due."""

    async def following_block(self, take_turn: Callable[[], Awaitable[None]]) -> Block | None:
        """The next block when the stream goes on; None when it is idle for a while.

        `take_turn` is awaited before a block that is not full is cut: until it may be stored it takes more records.
        """


class Clock(Protocol):
    """Time that goes on while the process is stopped or the machine sleeps."""

    def now_s(self) -> float:
        """Seconds since an arbitrary moment."""

    def wall_ms(self) -> int:
        """Milliseconds since the epoch."""

    async def pause(self, seconds: float) -> None:
        """Sleep."""
