"""Clicks over HTTP beside a fault, in threads of their own, and how long answers and rows stood still meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from clickledger.load.answers import Accepted, Outcome
from clickledger.load.clicks import Click, Target
from clickledger.load.plan import BadLines, Plan, clicks_of
from clickledger.load.pump import Pace, Pump, Tally
from clickledger.load.report import new_run_id, now_ms
from clickledger.load.verify import MARK
from clickledger.stack.bootstrap import DEFAULT_SHORT_URL
from clickledger.stack.ports import HOST
from tests.torture.books import NUMBER, Books
from tests.torture.world import Stuck, World

CONNECTIONS: Final = 16
CLICKS_PER_SECOND_MAX: Final = 1_000
"""Load goes to this machine only, and no faster than this."""
DURATION_S_MAX: Final = 1_200.0
ROWS_POLL_S: Final = 0.2
ENDS_S_MAX: Final = 60.0
DAY_MS: Final = 86_400_000
MARGIN_MS: Final = 10_000
"""How much earlier than the load's begin its rows may claim to be; clocks that can be set are another matter."""


@dataclass
class Stall:
    """The longest time between two signs of life, from the first one on."""

    longest_s: float = 0.0
    last_at: float | None = None

    def beat(self, now: float) -> None:
        """A sign of life, or the end; monotonic seconds."""
        if self.last_at is not None:
            self.longest_s = max(self.longest_s, now - self.last_at)
        self.last_at = now


@dataclass
class Load:
    """One run of clicks, as a context manager; leaving it ends the sending."""

    world: World
    seed: int
    rate: float
    run: str = field(default_factory=new_run_id)
    books: Books = field(default_factory=Books)
    answers: Stall = field(default_factory=Stall)
    rows: dict[int, Stall] = field(default_factory=dict)
    """by partition"""
    forgiven: set[str] = field(default_factory=set)
    """ids whose only copy a fault destroyed on disk: no row may come of them, and none must"""

    def __post_init__(self) -> None:
        """Prepare; nothing is sent yet."""
        if self.rate > CLICKS_PER_SECOND_MAX:
            raise ValueError(f"at most {CLICKS_PER_SECOND_MAX} clicks per second, not {self.rate}")
        self.since_ms = now_ms() - (2 * DAY_MS if self.world.shape.is_clocked else MARGIN_MS)
        plan = Plan(self.run, [DEFAULT_SHORT_URL], seed=self.seed, is_marked=True)
        clicks = self.books.numbered(clicks_of(plan, now_ms, BadLines()))
        target = Target.of(f"http://{HOST}:{self.world.api_port}", self.world.key)
        self._pump = Pump(target, clicks, Pace(self.rate, CONNECTIONS, duration_s=DURATION_S_MAX), self._note)
        self.tally: Tally = self._pump.tally
        self._is_sending = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._send, self._watch_rows)]
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        """Start sending; returns when rows of the run are stored."""
        self._is_sending.set()
        for thread in self._threads:
            thread.start()
        try:
            self.wait_for_rows()
        except BaseException as exc:  # Ctrl-C, too, must stop the threads
            self.__exit__(type(exc), exc, exc.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take no further clicks and wait until each has its outcome."""
        self._loop.call_soon_threadsafe(self._pump.stop)
        self._threads[0].join(ENDS_S_MAX)
        self._is_sending.clear()
        for thread in self._threads:
            thread.join(ENDS_S_MAX)
        for stall in (self.answers, *self.rows.values()):
            stall.beat(time.monotonic())
        if self._threads[0].is_alive():
            raise Stuck("the sender did not end")
        if self._failure is not None and exc is None:
            raise self._failure

    def wait_for_rows(self) -> None:
        """Wait until clicks that are sent from now on are stored, on every partition."""
        first, partitions = self.books.sent, self.world.located.kafka.partitions
        sql = (
            "SELECT uniqExact(raw_partition) AS found FROM clicks "
            f"WHERE received_at >= fromUnixTimestamp64Milli({self.since_ms}) AND short_url LIKE '%{MARK}={self.run}%' "
            f"AND toUInt64OrZero(extract(short_url, '{NUMBER}=(\\\\d+)$')) >= {first}"
        )

        def is_stored() -> bool:
            if self._failure is not None:
                raise self._failure
            return any(int(row["found"]) == partitions for row in self.world.query(sql))

        self.world.wait(is_stored, f"clicks from number {first} on are stored on every partition")

    def _note(self, click: Click, outcome: Outcome) -> None:
        self.books.note(click, outcome)
        if isinstance(outcome, Accepted):
            self.answers.beat(time.monotonic())

    def _send(self) -> None:
        try:
            self._loop.run_until_complete(self._pump.run())
        except BaseException as exc:  # noqa: BLE001  # raised again in the thread that waits
            self._failure = exc
        finally:
            self._loop.close()

    def _watch_rows(self) -> None:
        known: dict[int, int] = {}
        sql = "SELECT raw_partition AS partition, count() AS rows FROM clicks GROUP BY raw_partition"
        while self._is_sending.is_set():
            for row in self.world.query(sql):
                partition, rows = int(row["partition"]), int(row["rows"])
                if rows > known.get(partition, -1):
                    known[partition] = rows
                    self.rows.setdefault(partition, Stall()).beat(time.monotonic())
            time.sleep(ROWS_POLL_S)

    @property
    def longest_without_row_s(self) -> float:
        """The longest time in which one of the partitions got no row."""
        return max((stall.longest_s for stall in self.rows.values()), default=0.0)
