"""One request from its header to its answer, and what a hot path must offer to answer it on the fast lane."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from shared.http.answer import AlikeAnswers, Answer, Header

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

    from shared.http.connection import Connection
    from shared.http.repeat import Head

logger = logging.getLogger(__name__)

Headers = list[Header]
"""Header fields as the parser gives them: lower-case name, raw value, in order."""


class Endpoint(Protocol):
    """One hot path. The methods run inside the parser's callbacks: they never block and never await."""

    body_bytes_max: int

    def precheck(self, method: bytes, headers: Headers, peer: str, /) -> Answer | None:
        """Refuse from the header alone. Called only when the body has not arrived with its header."""

    def oversized(self, method: bytes, headers: Headers, peer: str, /) -> Answer:
        """The answer, which closes the connection, as soon as a body has passed `body_bytes_max`."""

    def take(self, exchange: Exchange, /) -> Answer | None:
        """Answer a whole request, or return None and call `exchange.reply` exactly once, later, from the loop."""


class Exchange:
    """One request and its answer. With `cycle` it is answered by the ASGI application, else by `endpoint`."""

    __slots__ = (
        "_headers",
        "answer",
        "app",
        "body",
        "connection",
        "cycle",
        "endpoint",
        "head",
        "head_values",
        "keep_alive",
        "method",
        "prechecked",
        "size",
        "taken",
        "target",
        "unread",
    )

    def __init__(
        self,
        connection: Connection,
        endpoint: Endpoint | None,
        method: bytes,
        target: bytes,
        headers: Headers | None,
        *,
        keep_alive: bool,
    ) -> None:
        """`headers` None: those of its remembered head, made when they are asked for."""
        self.connection = connection
        self.endpoint = endpoint
        self.method = method
        self.target = target
        self._headers = headers
        self.keep_alive = keep_alive
        self.body: bytes | bytearray = b""
        self.size = 0
        self.head: Head | None = None
        """The remembered head that it came with, if it did."""
        self.head_values: Sequence[bytes]
        """Of a `VaryingHead` alone: its own values, the length's digits among them, in the head's order."""
        self.answer: Answer | None = None
        self.prechecked = False
        self.taken = False
        self.unread = False
        self.cycle: RequestResponseCycle | None = None
        self.app: ASGI3Application | None = None

    @property
    def headers(self) -> Headers:
        """Header fields, in order."""
        if self._headers is None:
            self._headers = [] if self.head is None else self.head.headers(self)
        return self._headers

    def _path(self) -> bytes:
        """The target for a log line: without its query, which may hold what nobody should read there."""
        return self.target.partition(b"?")[0][:200]

    def add(self, piece: bytes) -> None:
        """Append a piece of the body."""
        if not self.body:
            self.body = piece
        elif isinstance(self.body, bytearray):
            self.body += piece
        else:
            self.body = bytearray(self.body + piece)

    def precheck(self, bug: Answer) -> Answer | None:
        """Ask the endpoint for an early refusal; `bug` is the answer to an unhandled error."""
        self.prechecked = True
        if self.endpoint is None:
            return None
        try:
            return self.endpoint.precheck(self.method, self.headers, self.connection.peer)
        except Exception:  # the process's edge: one request's bug must be answered, not spread
            logger.exception("unhandled error before the body of %s %s", self.method, self._path())
            self.connection.lane.count(bug)
            return bug

    def take(self, bug: Answer) -> None:
        """Give the whole request to its endpoint, unless it was refused already."""
        self.taken = True
        if self.answer is not None or self.endpoint is None:
            return
        try:
            self.answer = self.endpoint.take(self)
        except Exception:  # the process's edge: as above
            logger.exception("unhandled error in %s %s", self.method, self._path())
            self.connection.lane.count(bug)
            self.answer = bug

    def reply(self, answer: Answer) -> None:
        """Give the answer; it is written when every earlier request of the connection has been answered."""
        self.answer = answer
        queue = self.connection.queue
        if queue and queue[0] is self:
            self.connection.advance()

    def answer_last(self) -> None:
        """Close the connection after this answer."""
        self.keep_alive = False
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def disconnect(self) -> None:
        """Tell the application, if it has this one, that nobody waits for its answer."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()


def reply_alike(exchanges: Sequence[Exchange], answers: AlikeAnswers) -> None:
    """Give each of them the answer of its place; an error in one connection is not its neighbours'. At least one."""
    connection = exchanges[0].connection
    ready = connection.lane.encode_alike(answers, connection.server_state.default_headers)
    now = connection.loop.time()
    for place, exchange in enumerate(exchanges):
        try:
            if not exchange.connection.write_ready(exchange, ready[place], now):
                exchange.reply(answers.at(place))
        except Exception:  # one connection's bug must not keep the others' answers back
            logger.exception("unhandled error while answering one of many requests")


def head_without_upgrade(method: bytes, target: bytes, version: str, headers: Headers, *, keep_alive: bool) -> bytes:
    """The head of a request as if it had not asked for an upgrade, which a server may ignore (RFC 9110, 7.8)."""
    kept = [field for field in headers if field[0] not in (b"upgrade", b"http2-settings", b"connection")]
    if not keep_alive:
        kept.append((b"connection", b"close"))
    line = b"%b %b HTTP/%b\r\n" % (method, target, version.encode())
    return line + b"".join(b"%b: %b\r\n" % field for field in kept) + b"\r\n"
