"""What all connections of one process share: endpoints, limits, the bytes of answers and the sweep for time-outs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from shared.http.answer import AlikeAnswers, Answer, Header
from shared.http.exchange import Endpoint
from shared.http.pressure import Crowded, largest, longest_still, longest_unfinished

SWEEP_S = 0.25
"""Seconds between two looks for time-outs: all of them are seconds long."""

REFUSED_AT_ONCE = 64
"""Connections over the limit that stay until they have asked something, to be told; more are cut off at once."""

RELIEF_SHARE = 8
"""This part of a bound is freed at once when it is passed, so that a flood does not pay a look at all connections each time."""

COMMON_FIELDS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)
"""Every answer is JSON, is about one request only, and is never to be guessed at."""

HEADS_MAX = 256
"""Beginnings of answers that are kept at most, of about 300 bytes each."""

CLOSE_AND_END = b"connection: close\r\n\r\n"

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
    displace_s: float = 1.0
    """Without progress for so long, a connection gives way to a new one when there are too many."""
    held_bytes_max: int = 64 << 20
    """Of unfinished requests, all connections together."""
    unread_bytes_max: int = 64 << 20
    """Of answers that clients do not take, all connections together."""
    linger_s: float = 2.0
    """After a refusal in mid-request: how long what still arrives is thrown away, so that the answer is not lost."""


@dataclass(frozen=True, slots=True)
class Refusals:
    """Answers that the connection itself gives; all of them close it."""

    malformed: Answer
    head_too_large: Answer
    timed_out: Answer
    too_many_connections: Answer
    too_much_unfinished: Answer
    bug: Answer


class Cut(StrEnum):
    """Why a connection was ended without an answer: closed, one per cause."""

    IDLE = "idle"
    """No request for `keep_alive_s`."""
    DISPLACED = "displaced"
    """Idle, and its place was needed."""
    STALLED = "stalled"
    """Its client did not take its answers for `write_stall_s`."""
    UNREAD = "unread"
    """Its client does not take its answers, and all such answers are too many bytes."""
    LINGERED = "lingered"
    """After a refusal its client neither stopped sending nor closed."""
    CONNECTIONS_FULL = "connections_full"
    """Over the limit, with more of its kind than can be told so."""


class AnswerEncoder:
    """Answers as bytes; what answers of one status, length and fields but the last begin with is joined once per second."""

    def __init__(self) -> None:
        self._defaults: list[tuple[bytes, bytes]] | None = None
        self._heads: dict[tuple[int, int, tuple[Header, ...]], bytes] = {}

    def encode(self, answer: Answer, defaults: list[tuple[bytes, bytes]], *, close: bool, head_only: bool) -> bytes:
        """Return the whole response. `defaults` (date, …) is a new list whenever it changed."""
        status, body, fields = answer[:3]
        head = self._head(status, len(body), fields[:-1], defaults)
        last = b"%b: %b\r\n" % fields[-1] if fields else b""
        return b"%b%b%b%b" % (head, last, CLOSE_AND_END if close else b"\r\n", b"" if head_only else body)

    def encode_alike(self, answers: AlikeAnswers, defaults: list[tuple[bytes, bytes]]) -> list[bytes]:
        """Return the whole response of each, none of which closes."""
        status, headers, name, numbers, before, texts, after = answers
        head = self._head(status, len(before) + len(texts[0]) + len(after), headers, defaults)
        begin, between = b"%b%b: " % (head, name), b"\r\n\r\n" + before
        return [
            b"%b%d%b%b%b" % (begin, number, between, text, after) for number, text in zip(numbers, texts, strict=True)
        ]

    def _head(self, status: int, size: int, same: tuple[Header, ...], defaults: list[tuple[bytes, bytes]]) -> bytes:
        if defaults is not self._defaults or len(self._heads) > HEADS_MAX:
            self._defaults = defaults
            self._heads.clear()
        head = self._heads.get((status, size, same))
        if head is None:
            length = (b"content-length", b"%d" % size)
            head = self._heads[status, size, same] = STATUS_LINE[status] + b"".join(
                b"%b: %b\r\n" % field for field in (*defaults, *COMMON_FIELDS, length, *same)
            )
        return head


class Watched(Crowded, Protocol):
    """A connection as the lane sees it."""

    def sweep(self, now: float) -> None:
        """Close what has overstayed. `now`: seconds of the loop's clock."""

    def give_way(self, answer: Answer) -> None:
        """Close now, with this answer when a request has begun."""

    def cut(self, why: Cut) -> None:
        """Close at once, counted."""

    def abort(self) -> None:
        """Close at once, whatever is still to be read, answered or sent."""


class Lane:
    """What all connections of a process share. One per server."""

    def __init__(
        self,
        endpoints: Endpoints,
        refusals: Refusals,
        limits: LaneLimits,
        count: Callable[[Answer], object],
        cut: Callable[[Cut], object],
    ) -> None:
        """`count` hears of every answer that no endpoint gave, `cut` of every end without an answer."""
        self.endpoints = endpoints
        self.refusals = refusals
        self.limits = limits
        self.count = count
        self.cut = cut
        self.held_bytes = 0
        """Of unfinished requests, all connections together."""
        self.unread_bytes = 0
        """Of answers that clients do not take, at the last sweep."""
        self._refused = 0
        self._still: list[Watched] = []
        self._still_at = -SWEEP_S
        encoder = AnswerEncoder()
        self.encode, self.encode_alike = encoder.encode, encoder.encode_alike
        self._connections: Collection[Watched] = ()
        self._loop: asyncio.AbstractEventLoop | None = None

    def endpoint(self, target: bytes) -> Endpoint | None:
        """The endpoint of a raw target; a query does not matter."""
        found = self.endpoints.get(target)
        return found if found is not None else self.endpoints.get(target.partition(b"?")[0])

    def watch(self, loop: asyncio.AbstractEventLoop, connections: Collection[Watched]) -> None:
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
        self._bound_unread()
        self.watch(loop, self._connections)

    # When there is too much of something: who has to go is `pressure`'s business

    def make_room(self, now: float) -> bool:
        """Have the connection that has been without progress longest give way; False when there is none."""
        if now - self._still_at >= SWEEP_S:
            self._still_at = now
            self._still = longest_still(self._connections, now - self.limits.displace_s)
        while self._still:
            connection = self._still.pop()
            if connection.waits_for_client and connection.since <= now - self.limits.displace_s:
                connection.give_way(self.refusals.too_many_connections)
                return True
        return False

    def add_refused(self, change: int) -> bool:
        """Count connections over the limit; whether so many may stay to hear so."""
        self._refused += change
        return self._refused <= REFUSED_AT_ONCE

    def hold(self, growth: int) -> None:
        """Count what unfinished requests hold; over the bound, the longest unfinished of them are refused."""
        self.held_bytes += growth
        if growth > 0 and self.held_bytes > self.limits.held_bytes_max:
            surplus = self.held_bytes - self.limits.held_bytes_max + self.limits.held_bytes_max // RELIEF_SHARE
            for connection in longest_unfinished(self._connections, surplus):
                connection.give_way(self.refusals.too_much_unfinished)

    def _bound_unread(self) -> None:
        """Cut off those who hold the most unread answers until the bound is kept."""
        self.unread_bytes = sum(connection.unread_bytes for connection in self._connections)
        if self.unread_bytes > self.limits.unread_bytes_max:
            for connection in largest(self._connections, self.unread_bytes - self.limits.unread_bytes_max):
                connection.cut(Cut.UNREAD)

    async def abort_rest(self) -> None:
        """Cut off the connections that a graceful stop left over at its deadline."""
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)  # the transports report the end in the loop's next round
