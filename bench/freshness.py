"""From the API's 200 to a row that a query sees, and to an event of the stream, of every click at 1,000 clicks a second.

The whole local stack. While an open loop sends, the table is asked every 50 ms how many rows it has, which it knows without reading
any: asking for more would cost ClickHouse more than storing. Afterwards each block is found whose rows made up a growth of that
number; a click is visible at the answer that counts its block, so the figure is at most 50 ms too late. A client of `GET /v1/rte` notes
when each event comes.
"""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson

from bench import open_loop, wrk
from bench.fill import KEY
from bench.full import Full, full_stack
from bench.part import Recorder, main
from tests.support.api_service import CLICKS
from tests.support.pipeline import audit_is_clean, query

RATE = 1_000
POLL_S = 0.05
TAIL_S = 3.0


class Seen(NamedTuple):
    """Of one repetition, in seconds."""

    sql: Sequence[float]
    events: Sequence[float]
    rate: float
    late_ms: float


class Beside:
    """A thread that does something again and again until told to stop."""

    def __init__(self, step: Callable[[], None]) -> None:
        self._step = step
        self._stopping = threading.Event()
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._step()
        except Exception as exc:  # noqa: BLE001  # raised again by `stop`
            self._problem = exc

    def stop(self) -> None:
        """Raises what the thread raised."""
        self._stopping.set()
        self._thread.join(10.0)
        if self._problem is not None:
            raise self._problem


class Block(NamedTuple):
    """Rows that became visible together."""

    at_ms: int
    """when its insert began"""
    partition: int
    rows: int


class Polls:
    """How many rows were visible, and when."""

    def __init__(self, full: Full) -> None:
        self._full = full
        self.since_ms = time.time_ns() // 1_000_000
        self._seen: list[tuple[int, float]] = [(self._count(), self.since_ms)]

    def ask(self) -> None:
        """One look at the table."""
        began = time.monotonic()
        self._seen.append((self._count(), time.time() * 1000))
        time.sleep(max(0.0, POLL_S - (time.monotonic() - began)))

    def _count(self) -> int:
        (found,) = query(self._full.stack, "SELECT count() AS rows FROM clicks")
        return int(found["rows"])

    def visible_at(self, blocks: Sequence[Block]) -> dict[Block, float]:
        """The time of the first answer that counts each block, in ms since the epoch. `blocks`: all since the first look.

        Raises RuntimeError where no blocks that had begun make up a growth.
        """
        found: dict[Block, float] = {}
        for (before, _), (after, at_ms) in itertools.pairwise(self._seen):
            begun = [block for block in blocks if block.at_ms <= at_ms and block not in found]
            chosen = making_up(after - before, begun)
            if chosen is None:
                raise RuntimeError(
                    f"{after - before} more rows, which no blocks of {[block.rows for block in begun]} are"
                )
            found |= dict.fromkeys(chosen, at_ms)
        return found


def making_up(rows: int, blocks: Sequence[Block]) -> list[Block] | None:
    """The blocks that have so many rows together, those that began first if there is a choice; None when there are none."""
    if not rows:
        return []
    for place, block in enumerate(blocks):
        if block.rows <= rows:
            others = making_up(rows - block.rows, blocks[place + 1 :])
            if others is not None:
                return [block, *others]
    return None


class Listener:
    """A client of the event stream."""

    def __init__(self, full: Full) -> None:
        self.at_ms: dict[str, float] = {}
        address = urlsplit(full.stack.ready["reports"])
        self._connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=20)
        self._connection.request("GET", "/v1/rte", headers={"Authorization": f"Bearer {KEY}"})
        self._answer = self._connection.getresponse()
        if self._answer.status != http.client.OK:
            raise RuntimeError(f"/v1/rte: {self._answer.status} {self._answer.read()!r}")

    def read(self) -> None:
        """One line."""
        line = self._answer.readline()
        if line.startswith(b"data:"):
            event: Mapping[str, Any] = orjson.loads(line[5:])
            if "id" in event:
                self.at_ms[event["id"]] = time.time() * 1000


def repetition(full: Full, bodies: Sequence[str], seconds: float) -> Seen:
    """Send at the rate and look meanwhile. Each 200 must be a row and an event."""
    rows_before = full.settle()
    polls, listener = Polls(full), Listener(full)
    asking, listening = Beside(polls.ask), Beside(listener.read)
    held = open_loop.hold(full.api_port, CLICKS, bodies, RATE, seconds, full.folder)
    if (stored := full.settle() - rows_before) != held.good:
        raise RuntimeError(f"{held.good} clicks were answered with 200, {stored} rows are stored")
    time.sleep(2 * POLL_S)
    asking.stop()
    until = time.monotonic() + TAIL_S
    while len(listener.at_ms) < held.good and time.monotonic() < until:
        time.sleep(POLL_S)
    listening_ends(full, listening)
    sql = f"""
        SELECT transaction_id AS id, toUnixTimestamp64Milli(inserted_at) AS at, raw_partition AS p
        FROM clicks WHERE inserted_at >= fromUnixTimestamp64Milli({polls.since_ms})
    """  # noqa: S608  # a number
    block_of = {row["id"]: (int(row["at"]), int(row["p"])) for row in query(full.stack, sql)}
    blocks = sorted(Block(*of, rows) for of, rows in Counter(block_of.values()).items())
    visible_at = {block[:2]: at_ms for block, at_ms in polls.visible_at(blocks).items()}
    answers = held.answers[len(held.answers) // 10 :]
    delays = [(visible_at[block_of[name]] - at_ms) / 1000 for name, at_ms in answers]
    events = [(listener.at_ms[name] - at_ms) / 1000 for name, at_ms in answers]
    return Seen(sorted(delays), sorted(events), held.rate, held.late_p99_ms)


def listening_ends(full: Full, listening: Beside) -> None:
    """A last click, so that the reader of the stream wakes up and sees that it is to stop."""
    stopping = threading.Thread(target=listening.stop)
    stopping.start()
    full.takes(0)
    stopping.join(20.0)


def at(sorted_values: Sequence[float], level: float) -> float:
    """A percentile."""
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * level))]


def measure(recorder: Recorder) -> None:
    """Everything about freshness."""
    with full_stack() as full:
        bodies = wrk.clicks(1_000)
        open_loop.hold(full.api_port, CLICKS, bodies, RATE, recorder.scale(5.0, 3.0), full.folder)
        seconds = recorder.scale(20.0, 6.0)
        seen = [repetition(full, bodies, seconds) for _ in range(recorder.repetitions)]
        audit_is_clean(full.stack)
    late = max(each.late_ms for each in seen)
    recorder.figure("rate that was held", [each.rate for each in seen], note=f"driver late by {late:.1f} ms (p99)")
    for level in (50, 99):
        recorder.figure(f"200 to visible in SQL: p{level}", [at(each.sql, level / 100) for each in seen])
        recorder.figure(f"200 to an event of the stream: p{level}", [at(each.events, level / 100) for each in seen])


if __name__ == "__main__":
    main("freshness", measure, __doc__)
