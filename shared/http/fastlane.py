"""The fast lane: hot paths go from the HTTP parser's callbacks straight to their endpoint, without an ASGI cycle.

A request whose target is a hot path becomes an exchange when its header is complete, collects its body, and is taken by
its endpoint when it is complete, at once unless an ASGI request is before it. Any other request becomes uvicorn's own
request-response cycle. Both stand in the connection's one queue (`connection.py`).
"""

from __future__ import annotations

import asyncio
from typing import cast

import httptools

from shared.http.connection import BETWEEN, BODY, HEAD, READ_AT_ONCE, Connection
from shared.http.exchange import Exchange, Headers, head_without_upgrade
from shared.http.lane import Lane
from shared.http.repeat import HEAD_TRIES, Head, remember


class _StopParsing(Exception):
    """Raised inside a parser callback to end the parsing of what was read; the reason stands in the connection."""


class _HeadTooLarge(Exception):
    """Raised inside a parser callback when the header fields pass their limit."""


class LingeringTransport:
    """The transport as an ASGI cycle sees it: closing it does not take an early answer with it."""

    __slots__ = ("_connection", "is_closing", "write")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing

    def close(self) -> None:
        """Close, after lingering if the request is still arriving."""
        self._connection.close_after_answer()


class FastLaneProtocol(Connection):
    """One connection. `protocol_class` binds it to its lane, since uvicorn builds it from a class."""

    def data_received(self, data: bytes) -> None:
        """Parse it, a large read in turns with the other connections."""
        if self.ended:
            return
        if self.head is not None and self._take_known(self.head, data):
            return
        if len(data) <= READ_AT_ONCE and not self.rest:
            self.parse(data)
            return
        self.rest += data
        self.flow.pause_socket()
        self.read_rest_soon()

    def parse(self, data: bytes) -> None:
        """Parse; afterwards look at a request whose body has not come with its header, and count what is held."""
        is_start = self.phase is BETWEEN
        self._feed(data)
        completed, self.completed = self.completed, None
        if completed is not None and is_start and self.begun == 1 and self.phase is BETWEEN and self.head_tries:
            self.head_tries -= 1
            self.head = remember(completed, data, self.head_bytes_max, self.head)
        if self.phase is not BETWEEN or self.rest:
            body = len(self.reading.body) if self.reading is not None else self.slow_bytes
            self.hold(len(self.rest) + max(self.head_read, self.head_bytes) + body)
        elif self.held:
            self.hold(0)

    def _feed(self, data: bytes) -> None:
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
            if self.head_read > self.head_bytes_max:
                self._refuse_connection(self.lane.refusals.head_too_large)

    def _take_known(self, head: Head, data: bytes) -> bool:
        """Take a request that comes with the remembered head; False when it is for the parser."""
        if self.phase is not BETWEEN or self.rest or self.over_limit:
            return False
        exchange = head.recognise(self, data)
        if exchange is None:
            return False
        self.head_tries = HEAD_TRIES
        self.since = self.loop.time()
        self._take(exchange)
        return True

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
        self.slow_bytes = 0
        self.phase = HEAD
        self.since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        self.url += url
        self.head_bytes += len(url)
        if self.head_bytes > self.head_bytes_max:
            raise _HeadTooLarge

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or a trailer."""
        if self.phase is not HEAD:
            return  # a trailer: never a header field of this request or the next
        self.head_bytes += len(name) + len(value) + 4
        if self.head_bytes > self.head_bytes_max:
            raise _HeadTooLarge
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
            self._refuse_connection(self.lane.refusals.too_many_connections)
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
            if not (self.upgrading or self.cycle.response_complete):
                self.slow_bytes += len(body)
                super().on_body(body)
            return
        reading.size += len(body)
        endpoint = reading.endpoint
        if endpoint is not None and reading.size > endpoint.body_bytes_max:
            self._refuse_reading(reading.answer or endpoint.oversized(reading.method, reading.headers, self.peer))
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
        self.completed = exchange
        self.ended = not exchange.keep_alive
        self._take(exchange)

    def _take(self, exchange: Exchange) -> None:
        if not self.slow_waiting:
            exchange.take(self.lane.refusals.bug)
        if self.queue or exchange.answer is None:
            self._enqueue(exchange)
        else:
            self._write(exchange, exchange.answer)

    # Between header and body

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
        if answer is not None:
            reading.body = b""
        self._ask_for_body()

    def _begin_asgi(self) -> None:
        """Hand the request to uvicorn's code, which builds a cycle and starts it or queues it, both intercepted."""
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        super().on_headers_complete()
        exchange = Exchange(self, None, self.parser.get_method(), url, headers, keep_alive=self.cycle.keep_alive)
        exchange.cycle, exchange.app = self.pipeline.pop()
        exchange.cycle.transport = cast("asyncio.Transport", LingeringTransport(self))
        self.slow_waiting += 1
        self._enqueue(exchange)
        self.advance()

    # Malformed requests

    def _parsing_failed(self, error: httptools.HttpParserError) -> None:
        if self.ended:
            return
        cause = error.__context__
        if isinstance(cause, _HeadTooLarge):
            self._refuse_connection(self.lane.refusals.head_too_large)
        else:
            self._refuse_connection(self.lane.refusals.malformed)

    def _read_without_upgrade(self, rest: bytes) -> None:
        """Read the request again as if it had not asked for an upgrade.

        The parser skips the body of such a request. Java's HttpClient asks for h2c on every plain request by default.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse_connection(self.lane.refusals.malformed)
            return
        version, keep_alive = self.parser.get_http_version(), self.parser.should_keep_alive()
        head = head_without_upgrade(method, self.url, version, self.headers, keep_alive=keep_alive)
        self.phase = BETWEEN
        self.parser = httptools.HttpRequestParser(self)
        self._feed(head + rest)


def protocol_class(lane: Lane) -> type[FastLaneProtocol]:
    """The protocol bound to its lane, as `uvicorn.Config(http=…)` wants it."""
    return type("FastLaneProtocol", (FastLaneProtocol,), {"lane": lane})
