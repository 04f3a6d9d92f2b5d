"""What all connections of one process share: endpoints, limits, the bytes of answers and the sweep for time-outs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from ingest_api.answers import Answer
from ingest_api.exchange import Endpoint

SWEEP_S = 0.25
"""Seconds between two looks for time-outs: all of them are seconds long."""

COMMON_FIELDS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)
"""Every answer is JSON, is about one request only, and is never to be guessed at."""

Endpoints = Mapping[bytes, Endpoint]
"""Raw request target (without a query) -> endpoint."""


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """Bounds of one process's connections. Times in seconds (the loop's clock), sizes in bytes."""

    connections_max: int = 10_000
    head_bytes_max: int = 32_768
    pipeline_max: int = 64
    """Requests of one connection that may wait for their answer before reading pauses."""
    keep_alive_s: float = 75.0
    request_s: float = 30.0
    """From a request's first byte to its last."""
    write_stall_s: float = 30.0
    """How long a client may refuse to take its answers."""
    linger_s: float = 2.0
    """After a refusal in mid-request: how long what still arrives is thrown away, so that the answer is not lost."""


@dataclass(frozen=True, slots=True)
class Refusals:
    """Answers that the connection itself gives; all of them close it."""

    malformed: Answer
    head_too_large: Answer
    timed_out: Answer
    too_many_connections: Answer
    bug: Answer


class AnswerEncoder:
    """Answers as bytes; status line and default header fields are joined once per status and second."""

    def __init__(self) -> None:
        self._defaults: list[tuple[bytes, bytes]] | None = None
        self._heads: dict[int, bytes] = {}

    def encode(self, answer: Answer, defaults: list[tuple[bytes, bytes]], *, close: bool, head_only: bool) -> bytes:
        """Return the whole response. `defaults` (date, …) is a new list whenever it changed."""
        if defaults is not self._defaults:
            self._defaults = defaults
            self._heads.clear()
        head = self._heads.get(answer.status)
        if head is None:
            head = self._heads[answer.status] = STATUS_LINE[answer.status] + b"".join(
                b"%b: %b\r\n" % field for field in (*defaults, *COMMON_FIELDS)
            )
        parts = [head, b"content-length: %d\r\n" % len(answer.body)]
        parts += [b"%b: %b\r\n" % field for field in answer.headers]
        parts.append(b"connection: close\r\n\r\n" if close else b"\r\n")
        if not head_only:
            parts.append(answer.body)
        return b"".join(parts)


class Sweepable(Protocol):
    """A connection with time-outs of its own."""

    def sweep(self, now: float) -> None:
        """Close what has overstayed. `now`: seconds of the loop's clock."""

    def abort(self) -> None:
        """Close at once, whatever is still to be read, answered or sent."""


class Lane:
    """What all connections of a process share. One per server."""

    def __init__(
        self, endpoints: Endpoints, refusals: Refusals, limits: LaneLimits, count: Callable[[Answer], object]
    ) -> None:
        """`count` hears of every answer that no endpoint gave."""
        self.endpoints = endpoints
        self.refusals = refusals
        self.limits = limits
        self.count = count
        self.encode = AnswerEncoder().encode
        self._connections: Collection[Sweepable] = ()
        self._loop: asyncio.AbstractEventLoop | None = None

    def endpoint(self, target: bytes) -> Endpoint | None:
        """The endpoint of a raw target; a query does not matter."""
        found = self.endpoints.get(target)
        return found if found is not None else self.endpoints.get(target.partition(b"?")[0])

    def watch(self, loop: asyncio.AbstractEventLoop, connections: Collection[Sweepable]) -> None:
        """Sweep these connections while there are any."""
        if self._loop is None:
            self._loop, self._connections = loop, connections
            loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        loop, self._loop = self._loop, None
        if loop is None or loop.is_closed() or not self._connections:
            return
        now = loop.time()
        for connection in list(self._connections):
            connection.sweep(now)
        self.watch(loop, self._connections)

    async def abort_rest(self) -> None:
        """Cut off the connections that a graceful stop left over at its deadline."""
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)  # the transports report the end in the loop's next round
