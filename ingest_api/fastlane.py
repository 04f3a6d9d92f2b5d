"""The fast lane: hot paths go from the HTTP parser's callbacks straight to their endpoint, without an ASGI cycle.

Theory of operation. A connection is a queue of exchanges in the order in which their requests arrived; only its head
may write. A request whose target is a hot path becomes an exchange when its header is complete, collects its body and
is taken by its endpoint when it is complete, at once unless an ASGI request is before it. Any other request becomes
uvicorn's own request-response cycle, which starts when it is the head. `advance` is the one place that writes, starts
and removes; it runs when an exchange completes, when an answer arrives and when the application has finished.

`ended` means that nothing more is read: after a request that asked for it, a refusal in mid-request or an end of file.
A refusal in mid-request shuts down only the sending side and throws away what still arrives for `linger_s`, since
closing a socket with unread bytes resets it and takes the answer with it. Time-outs are found by one sweep over all
connections, so that a request costs no timer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ingest_api.answers import Answer
from ingest_api.exchange import Exchange, Headers, head_without_upgrade
from ingest_api.lane import Lane

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.config import Config
    from uvicorn.server import ServerState


class _StopParsing(Exception):
    """Raised inside a parser callback to end the parsing of what was read; the reason stands in the connection."""


class _HeadTooLarge(Exception):
    """Raised inside a parser callback when the header fields pass their limit."""


class Phase(Enum):
    """What the parser is in the middle of."""

    BETWEEN = auto()
    HEAD = auto()
    BODY = auto()


BETWEEN, HEAD, BODY = Phase  # an enum's attribute costs twice a global's look-up, several times per request


class FastLaneProtocol(HttpToolsProtocol):
    """One connection. `protocol_class` binds it to its lane, since uvicorn builds it from a class."""

    lane: ClassVar[Lane]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.queue: deque[Exchange] = deque()
        self.reading: Exchange | None = None
        self.slow_waiting = 0
        self.phase = BETWEEN
        self.begun = 0  # requests that began in the last read
        self.head_read = 0  # bytes read of an unfinished header
        self.head_bytes = 0  # bytes of its finished fields
        self.ended = False
        self.stopping = False
        self.lingering = False
        self.upgrading = False
        self.over_limit = False
        self.since = 0.0
        self.stalled_since = 0.0

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection; one over the limit gets one refusal."""
        super().connection_made(transport)
        self.over_limit = len(self.connections) > self.lane.limits.connections_max
        self.since = self.loop.time()
        self.lane.watch(self.loop, cast("set[FastLaneProtocol]", self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what waits: accepted clicks are still published, nobody is left to hear it."""
        for exchange in self.queue:
            exchange.disconnect()
        self.queue.clear()
        self.reading = None
        self.ended = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; afterwards look at a request whose body has not come with its header."""
        if self.ended:
            return
        starts_in_body = self.phase is BODY
        self.begun = 0
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_without_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._parsing_failed(error)
            return
        if self.reading is not None and not self.reading.prechecked:
            self._precheck(self.reading)
        elif self.phase is HEAD and self.begun <= 1 and not starts_in_body:
            self.head_read += len(data)
            if self.head_read > self.lane.limits.head_bytes_max:
                self._refuse_reading(self.lane.refusals.head_too_large)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answer what has arrived whole, then close. True keeps the transport open for writing."""
        if self.phase is not BETWEEN and not self.ended:
            self._drop_reading()
        self.ended = True
        if not self.queue or not self.transport.can_write_eof():
            return None
        self.queue[-1].answer_last()
        return True

    def shutdown(self) -> None:
        """Finish what was accepted, a half-read request too, then close; called once by the server."""
        self.stopping = True
        if self.lingering or not (self.queue or self.reading or self.phase is not BETWEEN):
            self.transport.close()
        elif self.phase is not HEAD and self.queue and self.reading is None:
            self.queue[-1].answer_last()

    def pause_writing(self) -> None:
        """The client takes its answers too slowly: read nothing more until it has."""
        super().pause_writing()
        self.stalled_since = self.loop.time()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """The client took its answers."""
        super().resume_writing()
        self._resume_reading()

    def sweep(self, now: float) -> None:
        """Close a connection that has overstayed its limit for what it is doing. `now`: the loop's clock."""
        limits = self.lane.limits
        if self.lingering:
            if now - self.since > limits.linger_s:
                self.transport.abort()
        elif self.flow.write_paused:
            if now - self.stalled_since > limits.write_stall_s:
                self.transport.abort()
        elif self.ended:
            return
        elif self.phase is not BETWEEN:
            if now - self.since > limits.request_s:
                self._refuse_reading(self.lane.refusals.timed_out)
        elif not self.queue and now - self.since > limits.keep_alive_s:
            self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()

    # The parser's callbacks

    def on_message_begin(self) -> None:
        """A request begins. The ASGI scope is only built where it is needed."""
        if self.ended:
            raise _StopParsing
        self.url = b""
        self.headers: Headers = []
        self.expect_100_continue = False
        self.begun += 1
        self.head_read = self.head_bytes = 0
        self.upgrading = False
        self.phase = HEAD
        self.since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        self.url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or a trailer."""
        if self.phase is not HEAD:
            return  # a trailer: never a header field of this request or the next
        self._count_head(len(name) + len(value) + 4)
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Choose the lane."""
        if self.parser.should_upgrade():
            self.upgrading = True
            return
        if self.over_limit:
            self._refuse_reading(self.lane.refusals.too_many_connections)
            raise _StopParsing
        endpoint = self.lane.endpoint(self.url)
        if endpoint is None:
            self._begin_asgi()
        else:
            parser = self.parser
            keep_alive = parser.should_keep_alive() and parser.get_http_version() == "1.1"
            self.reading = Exchange(self, endpoint, parser.get_method(), self.url, self.headers, keep_alive=keep_alive)
        self.phase = BODY

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        reading = self.reading
        if reading is None:
            if not self.upgrading:
                super().on_body(body)
            return
        reading.size += len(body)
        endpoint = reading.endpoint
        if endpoint is not None and reading.size > endpoint.body_bytes_max:
            self._refuse_reading(reading.answer or endpoint.oversized(reading.method, reading.headers, reading.peer))
            raise _StopParsing
        if reading.answer is None:
            reading.add(body)

    def on_message_complete(self) -> None:
        """Take a fast request; answer it at once if it is first in the queue."""
        if self.upgrading:
            return
        self.phase = BETWEEN
        exchange = self.reading
        if exchange is None:
            super().on_message_complete()
            self.ended = self.ended or not self.cycle.keep_alive
            return
        self.reading = None
        self.ended = not exchange.keep_alive
        if not self.slow_waiting:
            exchange.take(self.lane.refusals.bug)
        if self.queue or exchange.answer is None:
            self._enqueue(exchange)
        else:
            self._write(exchange, exchange.answer)

    # Fast requests

    def _precheck(self, reading: Exchange) -> None:
        """Between header and body: refuse early, or ask for the body.

        A refusal waits for the end of the body, which is thrown away, unless the client waits for our word or the
        answer closes the connection anyway.
        """
        answer = reading.precheck(self.lane.refusals.bug)
        if answer is not None and (answer.close or self.expect_100_continue):
            self._refuse_reading(answer)
            return
        reading.answer = answer
        self._ask_for_body()

    def _ask_for_body(self) -> None:
        """Send 100 Continue once, if the client waits for it and no earlier answer is still to come."""
        reading = self.reading
        if reading is None or not self.expect_100_continue or self.queue or reading.size:
            return
        self.expect_100_continue = False
        if self.parser.get_http_version() == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # Requests for the ASGI application

    def _begin_asgi(self) -> None:
        """Hand the request to uvicorn's code, which builds a cycle and starts it or queues it, both intercepted."""
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        super().on_headers_complete()
        exchange = Exchange(self, None, self.parser.get_method(), url, headers, keep_alive=self.cycle.keep_alive)
        exchange.cycle, exchange.app = self.pipeline.pop()
        self.slow_waiting += 1
        self._enqueue(exchange)
        self.advance()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.pipeline.appendleft((cycle, app))

    def on_response_complete(self) -> None:
        """The application has answered the head of the queue."""
        self.server_state.total_requests += 1
        if self.queue:
            self.queue.popleft()
            self.slow_waiting -= 1
        if self.transport.is_closing():
            return
        if self.phase is BETWEEN:
            self.since = self.loop.time()
        self._take_waiting()
        self.advance()
        if self.stopping and not self.queue and self.phase is BETWEEN:
            self.transport.close()

    def _take_waiting(self) -> None:
        """Take the fast requests that came after an ASGI request which is now answered, up to the next of its kind."""
        for exchange in self.queue:
            if exchange.cycle is not None:
                return
            if not exchange.taken:
                exchange.take(self.lane.refusals.bug)

    # The queue

    def advance(self) -> None:
        """Write or start whatever has become the head of the queue, until the head has to wait."""
        while self.queue:
            head = self.queue[0]
            if head.cycle is not None:
                if head.app is not None:
                    app, head.app = head.app, None
                    super()._start_asgi_task(head.cycle, app)
                return
            if head.answer is None:
                return
            self.queue.popleft()
            self._write(head, head.answer)
        self._resume_reading()
        if self.reading is not None and self.reading.prechecked:
            self._ask_for_body()

    def _enqueue(self, exchange: Exchange) -> None:
        self.queue.append(exchange)
        if len(self.queue) >= self.lane.limits.pipeline_max:
            self.flow.pause_reading()

    def _resume_reading(self) -> None:
        if len(self.queue) < self.lane.limits.pipeline_max and not self.flow.write_paused and not self.ended:
            self.flow.resume_reading()

    def _write(self, exchange: Exchange, answer: Answer) -> None:
        transport = self.transport
        if transport.is_closing():
            return
        self.server_state.total_requests += 1
        last = self.stopping and not self.queue and self.phase is BETWEEN
        close = last or answer.close or not exchange.keep_alive
        defaults = self.server_state.default_headers
        transport.write(self.lane.encode(answer, defaults, close=close, head_only=exchange.method == b"HEAD"))
        if close:
            self._close(linger=exchange.unread)
        elif self.phase is BETWEEN:
            self.since = self.loop.time()

    def _close(self, *, linger: bool) -> None:
        self.ended = True
        self.queue.clear()
        if linger and self.transport.can_write_eof() and not self.transport.is_closing():
            self.lingering = True
            self.since = self.loop.time()
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()

    # Requests that end before their end

    def _count_head(self, size: int) -> None:
        self.head_bytes += size
        if self.head_bytes > self.lane.limits.head_bytes_max:
            raise _HeadTooLarge

    def _parsing_failed(self, error: httptools.HttpParserError) -> None:
        if self.ended:
            return
        cause = error.__context__
        if isinstance(cause, _HeadTooLarge):
            self._refuse_reading(self.lane.refusals.head_too_large)
        else:
            self._refuse_reading(self.lane.refusals.malformed)

    def _refuse_reading(self, answer: Answer) -> None:
        """Answer the request that is being read, in its turn, and read nothing more."""
        method = self.reading.method if self.reading is not None else b""
        if not self._drop_reading():
            self.transport.close()
            return
        self.ended = True
        exchange = Exchange(self, None, method, self.url, [], keep_alive=False)
        exchange.answer, exchange.unread = answer, True
        self.queue.append(exchange)
        self.advance()

    def _drop_reading(self) -> bool:
        """Forget the request that is being read. False if its answer has begun: then only closing is left."""
        slow = self.phase is BODY and self.reading is None and not self.upgrading and self.cycle is not None
        self.reading = None
        if not slow:
            return True
        if not (self.queue and self.queue[-1].cycle is self.cycle) or self.cycle.response_started:
            return False
        self.queue.pop().disconnect()
        self.slow_waiting -= 1
        return True

    def _read_without_upgrade(self, rest: bytes) -> None:
        """Read the request again as if it had not asked for an upgrade.

        The parser skips the body of such a request. Java's HttpClient asks for h2c on every plain request by default.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse_reading(self.lane.refusals.malformed)
            return
        version, keep_alive = self.parser.get_http_version(), self.parser.should_keep_alive()
        head = head_without_upgrade(method, self.url, version, self.headers, keep_alive=keep_alive)
        self.phase = BETWEEN
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(head + rest)


def protocol_class(lane: Lane) -> type[FastLaneProtocol]:
    """The protocol bound to its lane, as `uvicorn.Config(http=…)` wants it."""
    return type("FastLaneProtocol", (FastLaneProtocol,), {"lane": lane})
