"""A real uvicorn server on uvloop in a thread, with the fast lane, a scripted endpoint and a small ASGI application.

Tests talk to it through plain blocking sockets: every byte on the wire is theirs.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
import uvloop

from ingest_api.answers import Answers
from shared.http.answer import Answer
from shared.http.exchange import Exchange, Headers
from shared.http.fastlane import protocol_class
from shared.http.lane import Cut, Lane, LaneLimits, Refusals

BODY_BYTES_MAX = 4096
SOCKET_TIMEOUT_S = 20.0


class ScriptedEndpoint:
    """Echoes a body; `hold…` waits for `release`, `bug` raises; a header `x-refuse: 401` is refused before the body."""

    body_bytes_max = BODY_BYTES_MAX

    def __init__(self) -> None:
        self.answers = Answers()
        self.taken: list[Exchange] = []
        self.prechecked = 0

    def precheck(self, method: bytes, headers: Headers, peer: str) -> Answer | None:
        """Refuse by header, as the click endpoint does."""
        self.prechecked += 1
        fields = dict(headers)
        if fields.get(b"x-refuse"):
            return self.answers.plain(int(fields[b"x-refuse"]))
        if int(fields.get(b"content-length", b"0")) > BODY_BYTES_MAX:
            return self.oversized(method, headers, peer)
        return None

    def oversized(self, method: bytes, headers: Headers, peer: str) -> Answer:
        """Refuse and close."""
        return self.answers.plain(413, close=True)

    def take(self, exchange: Exchange) -> Answer | None:
        """Answer, hold or break, as the body says."""
        self.taken.append(exchange)
        body = bytes(exchange.body)
        if exchange.method != b"POST":
            return self.answers.plain(405, headers=((b"allow", b"POST"),))
        if dict(exchange.headers).get(b"x-refuse"):
            return self.answers.plain(int(dict(exchange.headers)[b"x-refuse"]))
        if body == b"bug":
            raise RuntimeError("a bug")
        if body.startswith(b"hold"):
            return None
        return Answer(200, b'"' + body + b'"')


class LaneServer:
    """The running server; `endpoint` shows what was taken."""

    def __init__(self, limits: LaneLimits, graceful_s: int, send_buffer_bytes: int) -> None:
        self.endpoint = ScriptedEndpoint()
        self.slow_started: list[str] = []
        self.clients: list[Client] = []
        self.counted: list[Answer] = []
        plain = self.endpoint.answers.plain
        refusals = Refusals(
            malformed=plain(400, "malformed", close=True),
            head_too_large=plain(400, "header too large", close=True),
            timed_out=plain(408, close=True),
            too_many_connections=plain(500, "too many connections", close=True),
            too_much_unfinished=plain(500, "too much unfinished", close=True),
            bug=plain(500, "bug"),
        )
        self.cuts: list[Cut] = []
        self.lane = Lane({b"/fast": self.endpoint}, refusals, limits, self.counted.append, self.cuts.append)
        config = uvicorn.Config(
            self._application,
            http=protocol_class(self.lane),
            interface="asgi3",
            proxy_headers=False,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=graceful_s,
        )
        self.server = uvicorn.Server(config)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        if send_buffer_bytes:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        self.address = self.listener.getsockname()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            self.loop = runner.get_loop()
            runner.run(self._serve())

    async def _serve(self) -> None:
        await self.server.serve(sockets=[self.listener])
        await self.lane.abort_rest()

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        """Echo a body on any path, as text; `/early` answers before it has read the body, `/close` and closes."""
        self.slow_started.append(scope["path"])
        body = b""
        while scope["path"] not in ("/early", "/close"):
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event["body"]
            if not event["more_body"]:
                break
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-length", str(len(body) + 5).encode()),
                    *([(b"connection", b"close")] if scope["path"] == "/close" else []),
                ],
            }
        )
        await send({"type": "http.response.body", "body": b"slow:" + body})

    def run_in_loop(self, call: Callable[[], None]) -> None:
        """Run a function in the server's loop and wait for it."""
        done = threading.Event()

        def run() -> None:
            call()
            done.set()

        assert self.loop is not None
        self.loop.call_soon_threadsafe(run)
        assert done.wait(SOCKET_TIMEOUT_S)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep the server's loop busy meanwhile: what clients send is all there when it looks again."""
        begun, end = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            end.wait(SOCKET_TIMEOUT_S)

        assert self.loop is not None
        self.loop.call_soon_threadsafe(wait)
        assert begun.wait(SOCKET_TIMEOUT_S)
        try:
            yield
        finally:
            end.set()

    def release(self, index: int, text: bytes) -> None:
        """Answer the held request that was taken as number `index`."""
        self.run_in_loop(lambda: self.endpoint.taken[index].reply(Answer(200, text)))

    def wait_taken(self, count: int) -> None:
        """Wait until the endpoint has taken so many requests."""
        self.wait_until(lambda: len(self.endpoint.taken) >= count)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Let the loop run until the condition holds."""
        for _ in range(2_000):
            if condition():
                return
            self.run_in_loop(lambda: None)
            threading.Event().wait(0.005)
        raise AssertionError("the condition never held")

    def let_time_pass(self) -> None:
        """Wait until the loop's clock, which has milliseconds, has moved on."""
        assert self.loop is not None
        now = self.loop.time()
        self.wait_until(lambda: self.loop is not None and self.loop.time() > now)

    def connect(self, *, receive_buffer_bytes: int = 0) -> Client:
        """Open a connection."""
        sock = socket.socket()
        sock.settimeout(SOCKET_TIMEOUT_S)
        if receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        sock.connect(self.address)
        client = Client(sock)
        self.clients.append(client)
        return client


class Client:
    """A blocking connection that reads one response at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.sock.sendall(data)

    def send_often(self, data: bytes, count: int) -> None:
        """Send the same bytes `count` times."""
        for _ in range(count):
            self.sock.sendall(data)

    def post(self, body: bytes, target: bytes = b"/fast", fields: bytes = b"") -> None:
        """Send a whole request."""
        self.send(post(body, target, fields))

    def _more(self) -> bool:
        try:
            data = self.sock.recv(65_536)
        except ConnectionResetError as exc:
            raise AssertionError(f"connection reset after {self.buffer!r}") from exc
        self.buffer += data
        return bool(data)

    def response(self, *, head_only: bool = False) -> tuple[int, dict[bytes, bytes], bytes]:
        """Read one response: status, header fields, body."""
        while b"\r\n\r\n" not in self.buffer:
            assert self._more(), f"closed after {self.buffer!r}"
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        fields = dict(item.split(b": ", 1) for item in lines)
        length = 0 if head_only else int(fields.get(b"content-length", b"0"))
        while len(self.buffer) < length:
            assert self._more(), f"closed after {self.buffer!r}"
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return int(line.split(b" ")[1]), fields, body

    def assert_closed(self) -> None:
        """Nothing more comes, and the other side ends the connection in an orderly way."""
        while self._more():
            pass
        assert self.buffer == b""

    def close(self) -> None:
        """Close this side."""
        self.sock.close()


def post(body: bytes, target: bytes = b"/fast", fields: bytes = b"") -> bytes:
    """A whole request."""
    return b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (target, fields, len(body), body)


@contextmanager
def lane_server(
    limits: LaneLimits | None = None, graceful_s: int = 10, send_buffer_bytes: int = 0
) -> Iterator[LaneServer]:
    """Run a server; stop it and join its thread at the end. A small send buffer shows early who does not read."""
    server = LaneServer(limits or LaneLimits(), graceful_s, send_buffer_bytes)
    server.thread.start()
    try:
        while not server.server.started:
            threading.Event().wait(0.005)
        yield server
    finally:
        server.server.should_exit = True
        server.thread.join(graceful_s + 10)
        for client in server.clients:
            client.close()
        assert not server.thread.is_alive()
