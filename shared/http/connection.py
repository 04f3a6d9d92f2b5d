"""One connection as a queue of exchanges: order, writing, time and ends. What it reads is `fastlane`'s business.

Theory of operation. Exchanges stand in the queue in the order in which their requests arrived; only the head may write.
`advance` is the one place that writes, starts and removes; it runs when an exchange completes, when an answer arrives
and when the application has finished. An ASGI request starts when it is the head.

`ended` means that nothing more is read: after a request that asked for it, a refusal in mid-request or an end of file.
A refusal in mid-request shuts down only the sending side and throws away what still arrives for `linger_s`, since
closing a socket with unread bytes resets it and takes the answer with it. Time-outs are found by one sweep over all
connections, so that a request costs no timer.

Nobody starves the others: of one read only `READ_AT_ONCE` bytes are parsed before the other connections have their turn
(`rest` is what is left); what unfinished requests and answers that nobody takes hold is bounded over all connections, and
when that or the number of connections is full, whoever has been without progress longest has to go (`pressure.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from shared.http.answer import Answer
from shared.http.exchange import Exchange
from shared.http.flow import Flow
from shared.http.lane import Cut, Lane
from shared.http.repeat import HEAD_TRIES, Head

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.config import Config
    from uvicorn.server import ServerState

READ_AT_ONCE: Final = 32_768
"""Bytes of one connection that are parsed in one go: about 150 small requests, 4 ms."""


class Phase(Enum):
    """What the parser is in the middle of."""

    BETWEEN = auto()
    HEAD = auto()
    BODY = auto()


BETWEEN, HEAD, BODY = Phase  # an enum's attribute costs twice a global's look-up, several times per request


class Connection(HttpToolsProtocol):
    """Everything of a connection but its parser's callbacks."""

    lane: ClassVar[Lane]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.peer = ""
        """The address at the other end, '' for a socket without one."""
        self.queue: deque[Exchange] = deque()
        self.reading: Exchange | None = None
        self.slow_waiting = 0
        self.phase = BETWEEN
        self.begun = 0  # requests that began in the last read
        self.head_read = 0  # bytes read of an unfinished header
        self.head_bytes = 0  # bytes of its finished fields
        self.head_bytes_max = self.lane.limits.head_bytes_max
        self.slow_bytes = 0  # bytes of an ASGI request's body so far, which its application collects
        self.ended = False
        self.stopping = False
        self.lingering = False
        self.upgrading = False
        self.over_limit = False
        self.since = 0.0
        """When the last step forward was made: made, request begun, answer written, end begun."""
        self.stalled_since = 0.0
        self.flow: Flow
        self.rest = b""
        """Read and not parsed yet."""
        self.rest_is_due = False
        self.head: Head | None = None
        self.head_tries = HEAD_TRIES
        """How often a head may still be remembered in vain."""
        self.completed: Exchange | None = None
        """The last request for a hot path that was completed in this read."""
        self.held = 0
        """Bytes of unfinished requests, as the lane has counted them."""

    # The socket

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection; one over the limit takes an idle one's place, or gets one refusal, or nothing."""
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else ""
        self.flow = Flow(self, transport)
        self.since = self.loop.time()
        self.lane.watch(self.loop, cast("set[Connection]", self.connections))
        if len(self.connections) > self.lane.limits.connections_max:
            self.over_limit = not self.lane.make_room(self.since)
        if self.over_limit and not self.lane.add_refused(1):
            self.cut(Cut.CONNECTIONS_FULL)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what waits: accepted clicks are still published, nobody is left to hear it."""
        for exchange in self.queue:
            exchange.disconnect()
        self.queue.clear()
        self.ended = True
        self.head = None
        self._forget_unfinished()
        if self.over_limit:
            self.lane.add_refused(-1)
        super().connection_lost(exc)

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
        if self.lingering or self.is_idle:
            self._close(linger=False)
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
        if (why := self._overstayed(now)) is not None:
            self.cut(why)
        elif self.ended or self.transport.is_closing():
            return
        elif self.phase is not BETWEEN:
            if now - self.since > limits.request_s:
                self._refuse_connection(self.lane.refusals.timed_out)
        elif self.is_idle and now - self.since > limits.keep_alive_s:
            self.close_idle(Cut.IDLE)

    def _overstayed(self, now: float) -> Cut | None:
        """Why nothing but cutting it off is left; None when there is no reason."""
        limits, still_s = self.lane.limits, now - self.since
        if self.transport.is_closing():  # closed, but the client does not take the last answers
            return Cut.STALLED if still_s > limits.write_stall_s else None
        if self.lingering:
            return Cut.LINGERED if still_s > limits.linger_s else None
        if self.flow.write_paused:
            return Cut.STALLED if now - self.stalled_since > limits.write_stall_s else None
        return Cut.CONNECTIONS_FULL if self.over_limit and still_s > limits.linger_s else None

    @property
    def is_idle(self) -> bool:
        """No request is here, whole or in part."""
        return not (self.queue or self.rest) and self.phase is BETWEEN

    @property
    def waits_for_client(self) -> bool:
        """It is the client's turn: for a request, or for the rest of one."""
        return not (self.ended or self.over_limit or self.queue or self.flow.write_paused)

    @property
    def unread_bytes(self) -> int:
        """Bytes of answers that the client has not taken."""
        return self.transport.get_write_buffer_size()

    def close_idle(self, why: Cut) -> None:
        """Close a connection that owes nobody anything."""
        self.lane.cut(why)
        self._close(linger=False)

    def give_way(self, answer: Answer) -> None:
        """Close without lingering, after a refusal when a request has begun: another needs the room."""
        if self.is_idle:
            self.close_idle(Cut.DISPLACED)
            return
        waited_for = bool(self.queue)
        self._refuse_connection(answer)
        if not waited_for:
            self._close(linger=False)

    def cut(self, why: Cut) -> None:
        """Close at once, counted."""
        self.lane.cut(why)
        self.transport.abort()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()

    # Reading in turns

    def hold(self, size: int) -> None:
        """Note how many bytes this connection's unfinished requests hold now."""
        if size != self.held:
            size, self.held = size - self.held, size
            self.lane.hold(size)

    def read_rest_soon(self) -> None:
        """Parse what is left of the last read when the other connections have had their turn."""
        if not self.rest_is_due:
            self.rest_is_due = True
            self.loop.call_soon(self._read_rest)

    def _read_rest(self) -> None:
        self.rest_is_due = False
        if self.ended:
            self.rest = b""
        if not self.rest or not self.flow.may_parse():
            return
        piece, self.rest = self.rest[:READ_AT_ONCE], self.rest[READ_AT_ONCE:]
        self.parse(piece)
        if self.flow.may_parse() and not self.transport.is_closing():
            self.flow.resume_reading()

    def parse(self, data: bytes) -> None:
        """Parse what was read."""
        raise NotImplementedError

    def _ask_for_body(self) -> None:
        """Send 100 Continue once, if the client waits for it and no earlier answer is still to come."""
        reading = self.reading
        if reading is None or not self.expect_100_continue or self.queue or reading.size:
            return
        self.expect_100_continue = False
        if self.parser.get_http_version() == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.pipeline.appendleft((cycle, app))

    # The queue

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
        if self.stopping and self.is_idle:
            self._close(linger=False)

    def _take_waiting(self) -> None:
        """Take the fast requests that came after an ASGI request which is now answered, up to the next of its kind."""
        for exchange in self.queue:
            if exchange.cycle is not None:
                return
            if not exchange.taken:
                exchange.take(self.lane.refusals.bug)

    def advance(self) -> None:
        """Write or start whatever has become the head of the queue, until the head has to wait."""
        queue = self.queue
        while queue:
            head = queue[0]
            if head.cycle is not None:
                if head.app is not None:
                    app, head.app = head.app, None
                    super()._start_asgi_task(head.cycle, app)
                return
            if head.answer is None:
                return
            queue.popleft()
            self._write(head, head.answer)
        if self.flow.is_held:
            self._resume_reading()
        if self.reading is not None and self.reading.prechecked:
            self._ask_for_body()

    def _enqueue(self, exchange: Exchange) -> None:
        self.queue.append(exchange)
        if len(self.queue) >= self.lane.limits.pipeline_max:
            self.flow.pause_reading()

    def _resume_reading(self) -> None:
        """Read on, when nothing is in the way any more."""
        if len(self.queue) < self.lane.limits.pipeline_max and not self.flow.write_paused and not self.ended:
            self.flow.resume_reading()

    def _write(self, exchange: Exchange, answer: Answer) -> None:
        transport = self.transport
        if transport.is_closing():
            return
        server = self.server_state
        server.total_requests += 1
        close = not exchange.keep_alive or answer.close or (self.stopping and self.is_idle)
        head_only = exchange.method == b"HEAD"
        transport.write(self.lane.encode(answer, server.default_headers, close=close, head_only=head_only))
        if close:
            self._close(linger=exchange.unread)
        elif self.phase is BETWEEN:
            self.since = self.loop.time()

    def write_ready(self, exchange: Exchange, encoded: bytes, now: float) -> bool:
        """Write an answer that is encoded already; False when this one has to go the way of all, by `reply`.

        Nothing is before it, behind it or begun after it, and nothing closes or is held. `now`: the loop's clock.
        """
        queue, transport = self.queue, self.transport
        if len(queue) != 1 or queue[0] is not exchange or not exchange.keep_alive or self.phase is not BETWEEN:
            return False
        if self.stopping or self.flow.is_held or transport.is_closing():
            return False
        queue.clear()
        self.server_state.total_requests += 1
        transport.write(encoded)
        self.since = now
        return True

    def close_after_answer(self) -> None:
        """Close in an orderly way after an answer that may have come before the end of its request."""
        self._close(linger=self.phase is not BETWEEN)

    def _close(self, *, linger: bool) -> None:
        self.ended = True
        self.queue.clear()
        self._forget_unfinished()
        if self.transport.is_closing():
            return
        self.since = self.loop.time()
        if linger and self.transport.can_write_eof():
            self.lingering = True
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()

    # Requests that end before their end

    def _refuse_connection(self, answer: Answer) -> None:
        """A refusal that no endpoint knows of."""
        self.lane.count(answer)
        self._refuse_reading(answer)

    def _refuse_reading(self, answer: Answer) -> None:
        """Answer the request that is being read, in its turn, and read nothing more."""
        method = self.reading.method if self.reading is not None else b""
        if not self._drop_reading():
            self._close(linger=False)
            return
        self.ended = True
        self._forget_unfinished()
        exchange = Exchange(self, None, method, self.url, [], keep_alive=False)
        exchange.answer, exchange.unread = answer, True
        self.queue.append(exchange)
        self.advance()

    def _forget_unfinished(self) -> None:
        self.reading = None
        self.rest = b""
        self.hold(0)

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
