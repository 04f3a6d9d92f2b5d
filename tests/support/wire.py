"""One connection of the fast lane without a socket: bytes in by `data_received`, bytes out in a list."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from ingest_api.answers import Answers
from ingest_api.endpoints import connection_refusals
from shared.http.answer import Answer
from shared.http.exchange import Exchange, Headers
from shared.http.fastlane import FastLaneProtocol, protocol_class
from shared.http.lane import Cut, Endpoints, Lane, LaneLimits
from shared.settings import ApiSettings


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("198.51.100.7", 4711), "sockname": ("127.0.0.1", 8080)})
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        """Keep it."""
        self.written.append(bytes(data))

    def write_eof(self) -> None:
        """Note the end among what was written."""
        self.written.append(b"<end>")

    def can_write_eof(self) -> bool:
        """As a socket."""
        return True

    def get_write_buffer_size(self) -> int:
        """Everything is taken at once."""
        return 0

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.closed

    def close(self) -> None:
        """Close."""
        self.closed = True

    def pause_reading(self) -> None:
        """Nothing to stop."""

    def resume_reading(self) -> None:
        """Nothing to go on with."""


class Echo:
    """Answers each request with its body, and keeps what it was given."""

    body_bytes_max = 64

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, bytes, Headers, bytes]] = []
        self.known = 0

    def precheck(self, _method: bytes, _headers: Headers, _peer: str) -> Answer | None:
        """Never refuses."""

    def oversized(self, _method: bytes, _headers: Headers, _peer: str) -> Answer:
        """Refuse and close."""
        return Answer(413, b"{}", close=True)

    def take(self, exchange: Exchange) -> Answer | None:
        """Echo."""
        self.known += exchange.head is not None
        body = bytes(exchange.body)
        self.taken.append((exchange.method, exchange.target, exchange.headers, body))
        return Answer(200, body)


async def _no_application(_scope: Any, _receive: Any, _send: Any) -> None:
    """Takes no requests."""


def connect(endpoints: Endpoints, limits: LaneLimits | None = None) -> tuple[FastLaneProtocol, Wire]:
    """A connection of a lane with these endpoints; call it on a running loop."""
    refusals = connection_refusals(Answers(), ApiSettings())
    cuts: list[Cut] = []
    http = protocol_class(Lane(endpoints, refusals, limits or LaneLimits(), lambda _answer: None, cuts.append))
    config = uvicorn.Config(_no_application, http=http, interface="asgi3", ws="none", lifespan="off", log_config=None)
    config.load()
    connection, wire = http(config, ServerState(), {}), Wire()
    connection.connection_made(wire)
    return connection, wire
