"""From the API's 200 to a row that a query sees, and to an event of the stream, of every click at 1,000 clicks a second.

The whole local stack. While an open loop sends, the table is asked every 50 ms up to which offset its rows go; a click is visible at the
first answer that covers its row, so the figure is at most that much too late. A client of `GET /v1/rte` notes when each event comes.
"""

from __future__ import annotations

import http.client
import threading
import time
from bisect import bisect_left
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


class Polls:
    """Up to which raw offset each partition was visible, and when."""

    def __init__(self, full: Full) -> None:
        self._full = full
        self._seen: dict[int, tuple[list[int], list[float]]] = {}

    def ask(self) -> None:
        """One look at the table."""
        began = time.monotonic()
        rows = query(self._full.stack, "SELECT raw_partition AS p, max(raw_offset) AS top FROM clicks GROUP BY p")
        at_ms = time.time() * 1000
        for row in rows:
            offsets, times = self._seen.setdefault(int(row["p"]), ([], []))
            offsets.append(int(row["top"]))
            times.append(at_ms)
        time.sleep(max(0.0, POLL_S - (time.monotonic() - began)))

    def visible_at(self, partition: int, offset: int) -> float:
        """The time of the first answer that covers it, in ms since the epoch."""
        offsets, times = self._seen[partition]
        return times[bisect_left(offsets, offset)]


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
    since_ms = time.time_ns() // 1_000_000
    held = open_loop.hold(full.api_port, CLICKS, bodies, RATE, seconds, full.folder)
    if (stored := full.settle() - rows_before) != held.good:
        raise RuntimeError(f"{held.good} clicks were answered with 200, {stored} rows are stored")
    time.sleep(2 * POLL_S)
    asking.stop()
    until = time.monotonic() + TAIL_S
    while len(listener.at_ms) < held.good and time.monotonic() < until:
        time.sleep(POLL_S)
    sql = f"SELECT transaction_id AS id, raw_partition AS p, raw_offset AS o FROM clicks WHERE received_at >= fromUnixTimestamp64Milli({since_ms - 1000})"  # noqa: S608  # a number
    places = {row["id"]: (int(row["p"]), int(row["o"])) for row in query(full.stack, sql)}
    listening_ends(full, listening)
    answers = held.answers[len(held.answers) // 10 :]
    delays = [(polls.visible_at(*places[name]) - at_ms) / 1000 for name, at_ms in answers]
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
