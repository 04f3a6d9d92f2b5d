"""Sends clicks over many connections and accounts for every one of them.

Theory of operation: open loop. Request n is *due* at start + n / rate, whatever the API does; it is sent then, or as
soon as a connection is free, and its latency counts from when it was due, so a stalled API cannot hide its stall by
slowing its client down. With rate 0 the loop is closed: each connection sends as soon as it has its answer.
Every attempt ends in exactly one of Accepted, Refused, Uncertain (answers.py).
"""

from __future__ import annotations

import asyncio
import heapq
import random
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice

from clickledger.load.answers import (
    CONNECTION_LOST,
    TIMED_OUT,
    Accepted,
    Outcome,
    Refused,
    Uncertain,
    read_answer,
    read_batch_answer,
)
from clickledger.load.clicks import BATCH_PATH, SINGLE_PATH, Click, Target, batch_request, single_request
from clickledger.load.connection import Connection
from clickledger.load.histogram import Histogram

_SWEEP_S = 0.1  # how often time-outs are looked for: small against any sensible time-out
_RECONNECT_S = 0.1
_BACKOFF_S = (0.1, 5.0)  # first and longest wait before a retry
_S = 1_000_000_000

OnOutcome = Callable[[Click, Outcome], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """How to send; `rate` and `batch` multiply to clicks per second."""

    rate: float = 0.0
    """clicks per second over all connections; 0 = as fast as answers come"""
    connections: int = 32
    batch: int = 1
    """clicks per request; above 1 the batch endpoint is used"""
    duration_s: float = 300.0
    """no new click is taken after this"""
    timeout_s: float = 10.0
    """no answer for so long = the connection is given up, the outcome is unknown"""
    retries: int = 0
    """how often a click answered 429 or 5xx, or not at all, is sent again"""


@dataclass(slots=True)
class Tally:
    """What happened, in clicks unless the name says requests."""

    clicks: int = 0
    """taken from the source; each counted once, however often it is retried"""
    requests: int = 0
    retried: int = 0
    accepted: int = 0
    uncertain: int = 0
    """attempts whose record may or may not exist"""
    by_code: dict[str, int] = field(default_factory=dict)
    latency: Histogram = field(default_factory=Histogram)
    """per request, from when it was due to its answer"""
    elapsed_s: float = 0.0
    busy_max: int = 0


@dataclass(slots=True)
class _Request:
    clicks: Sequence[Click]
    due_ns: int
    attempt: int = 0
    sent_ns: int = 0


class Unreachable(Exception):
    """No connection could be opened at the start."""


class Pump:
    """One run; use it once."""

    def __init__(
        self, target: Target, source: Iterator[Click], pace: Pace, on_outcome: OnOutcome | None = None
    ) -> None:
        """Send what `source` yields; `on_outcome` is told every attempt's click and outcome."""
        self.tally = Tally()
        self._target, self._source, self._pace = target, source, pace
        self._on_outcome = on_outcome
        batched = pace.batch > 1
        self._head = target.head(
            BATCH_PATH if batched else SINGLE_PATH, "application/x-ndjson" if batched else "application/json"
        )
        self._step_ns = pace.batch / pace.rate * _S if pace.rate else 0.0
        self._requests_taken = 0
        self._idle: list[Connection] = []
        self._busy: dict[Connection, _Request] = {}
        self._timed_out: set[Connection] = set()
        self._retries: list[tuple[int, int, _Request]] = []
        self._ticket = count()
        self._is_exhausted = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> Tally:
        """Send until the source or the duration ends and every request has its outcome.

        Raises Unreachable when not even the first connection can be opened within the time-out.
        """
        self._loop = asyncio.get_running_loop()
        self._done = self._loop.create_future()
        await self._connect_first()
        self._start_ns = time.monotonic_ns()
        self._stop_ns = self._start_ns + int(self._pace.duration_s * _S)
        for _ in range(self._pace.connections - 1):
            self._spawn_connect()
        sweeper = self._loop.create_task(self._sweep())
        try:
            self._feed()
            await self._done
        finally:
            sweeper.cancel()
            for task in self._tasks:
                task.cancel()
            if self._timer is not None:
                self._timer.cancel()
            for connection in (*self._idle, *self._busy):
                connection.close()
        self.tally.elapsed_s = (time.monotonic_ns() - self._start_ns) / _S
        return self.tally

    def stop(self) -> None:
        """Take no further clicks; `run` returns when the requests under way have their outcome."""
        self._is_exhausted = True
        self._retries.clear()
        self._feed()

    # connections
    async def _connect_first(self) -> None:
        try:
            async with asyncio.timeout(self._pace.timeout_s):
                self._idle.append(await self._open())
        except (OSError, TimeoutError) as exc:
            raise Unreachable(f"{self._target.host}:{self._target.port}: {exc or 'no answer'}") from exc

    async def _open(self) -> Connection:
        tls = ssl.create_default_context() if self._target.tls else None
        _, connection = await self._loop.create_connection(
            lambda: Connection(self), self._target.host, self._target.port, ssl=tls
        )
        return connection

    def _spawn_connect(self) -> None:
        task = self._loop.create_task(self._connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        while not self._done.done():
            try:
                connection = await self._open()
            except OSError:
                await asyncio.sleep(_RECONNECT_S)
                self._feed()  # the end of the duration must be noticed without any connection too
                continue
            self._idle.append(connection)
            self._feed()
            return

    def answered(self, connection: Connection, http_status: int, body: bytes) -> None:
        """Account for an answer and give the connection its next request."""
        request = self._busy.pop(connection)
        self.tally.latency.record((time.monotonic_ns() - request.due_ns) // 1000)
        if self._pace.batch > 1:
            self._settle(request, read_batch_answer(http_status, body, len(request.clicks)))
        else:
            self._settle(request, (read_answer(http_status, body),))
        if connection.is_open:
            self._idle.append(connection)
        self._feed()

    def lost(self, connection: Connection) -> None:
        """Account for a connection that is gone and open another."""
        request = self._busy.pop(connection, None)
        if request is not None:
            why = TIMED_OUT if connection in self._timed_out else CONNECTION_LOST
            self._timed_out.discard(connection)
            self._settle(request, [Uncertain(why)] * len(request.clicks))
        elif connection in self._idle:
            self._idle.remove(connection)
        if not self._done.done():
            self._spawn_connect()
            self._feed()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            oldest_ns = time.monotonic_ns() - int(self._pace.timeout_s * _S)
            for connection in [c for c, request in self._busy.items() if request.sent_ns < oldest_ns]:
                self._timed_out.add(connection)
                connection.abort()

    # requests
    def _feed(self) -> None:
        """Give due requests to idle connections; arm the timer for the next one; finish when all is settled."""
        now_ns = time.monotonic_ns()
        while self._idle:
            request = self._next_due(now_ns)
            if request is None:
                break
            self._send(self._idle.pop(), request)
        if now_ns >= self._stop_ns:
            self._is_exhausted = True
            self._retries.clear()
        if self._is_exhausted and not self._busy and not self._retries and not self._done.done():
            self._done.set_result(None)

    def _next_due(self, now_ns: int) -> _Request | None:
        if self._retries and self._retries[0][0] <= now_ns:
            return heapq.heappop(self._retries)[2]
        if not self._is_exhausted and now_ns < self._stop_ns:
            due_ns = self._start_ns + int(self._requests_taken * self._step_ns) if self._step_ns else now_ns
            if due_ns > now_ns:
                self._wake_at(due_ns)
                return None
            request = self._take(due_ns)
            if request is not None:
                return request
        if self._retries:
            self._wake_at(self._retries[0][0])
        return None

    def _take(self, due_ns: int) -> _Request | None:
        clicks = list(islice(self._source, self._pace.batch))
        if not clicks:
            self._is_exhausted = True
            return None
        self._requests_taken += 1
        self.tally.clicks += len(clicks)
        return _Request(clicks, due_ns)

    def _wake_at(self, due_ns: int) -> None:
        when_ns = min(due_ns, self._stop_ns, self._retries[0][0] if self._retries else due_ns)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, (when_ns - time.monotonic_ns()) / _S), self._feed)

    def _send(self, connection: Connection, request: _Request) -> None:
        build = batch_request(self._head, request.clicks) if self._pace.batch > 1 else None
        request.sent_ns = time.monotonic_ns()
        self._busy[connection] = request
        self.tally.requests += 1
        self.tally.busy_max = max(self.tally.busy_max, len(self._busy))
        connection.send(single_request(self._head, request.clicks[0]) if build is None else build)

    def _settle(self, request: _Request, outcomes: Sequence[Outcome]) -> None:
        """Count each click's outcome; send again what may be."""
        tally, again = self.tally, []
        for click, outcome in zip(request.clicks, outcomes, strict=True):
            tally.by_code[outcome.code] = tally.by_code.get(outcome.code, 0) + 1
            if self._on_outcome is not None:
                self._on_outcome(click, outcome)
            match outcome:
                case Accepted():
                    tally.accepted += 1
                case Uncertain():
                    tally.uncertain += 1
                    again.append(click)
                case Refused() if outcome.may_retry:
                    again.append(click)
        if again and request.attempt < self._pace.retries and not self._is_exhausted_by_time():
            tally.retried += len(again)
            wait_s = min(_BACKOFF_S[1], _BACKOFF_S[0] * 2**request.attempt) * random.uniform(0.5, 1.0)
            due_ns = time.monotonic_ns() + int(wait_s * _S)
            heapq.heappush(self._retries, (due_ns, next(self._ticket), _Request(again, due_ns, request.attempt + 1)))

    def _is_exhausted_by_time(self) -> bool:
        return time.monotonic_ns() >= self._stop_ns
