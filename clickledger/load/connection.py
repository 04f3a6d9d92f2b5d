"""One keep-alive HTTP/1.1 connection that has at most one request under way.

Why by hand: a general client costs 200-400 us per request, this costs about 20, so that one core can load the API
instead of measuring the client. httptools does the parsing.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import httptools


class Owner(Protocol):
    """Who is told what became of a request."""

    def answered(self, connection: Connection, http_status: int, body: bytes) -> None:
        """Take a complete answer; the connection is free again, or closing when `is_open` is False."""

    def lost(self, connection: Connection) -> None:
        """Take note that the connection is gone, before an answer when it was busy."""


class Connection(asyncio.Protocol):
    """Protocol object for `loop.create_connection`."""

    def __init__(self, owner: Owner) -> None:
        """Report to `owner`."""
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self.is_busy = False
        self.is_open = False

    def send(self, request: bytes) -> None:
        """Write one complete request; only while open and not busy."""
        assert self._transport is not None
        assert not self.is_busy
        self.is_busy = True
        self._transport.write(request)

    def abort(self) -> None:
        """Drop the connection now; `lost` follows."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close the connection after what is written."""
        self.is_open = False
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class, only by behaviour
        self.is_open = True

    def data_received(self, data: bytes) -> None:  # noqa: D102
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002, D102
        self.is_open = False
        self._transport = None
        self._owner.lost(self)

    # httptools callbacks
    def on_body(self, body: bytes) -> None:  # noqa: D102
        self._body.append(body)

    def on_message_complete(self) -> None:  # noqa: D102
        status, body = self._parser.get_status_code(), b"".join(self._body)
        self._body.clear()
        if status < 200:  # 100 Continue is not the answer
            return
        if not self.is_busy:
            self.abort()
            return
        self.is_busy = False
        if not self._parser.should_keep_alive():
            self.close()
        self._owner.answered(self, status, body)
