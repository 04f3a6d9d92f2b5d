"""The answer to an export: ClickHouse's bytes passed through at the reader's pace.

Rules. What can fail does so before the first byte and is then an ordinary refusal. An error behind it breaks the body off
(no last chunk), so that no client takes a part for the whole. A client that goes away ends the query at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import NamedTuple

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from reporting.edr.selection import Query
from reporting.metrics import export_bytes_total, exports_total
from reporting.state import Exports
from shared.errors import ClickledgerError

log = logging.getLogger(__name__)


class Planned(NamedTuple):
    """An export that may begin."""

    query: Query
    headers: Mapping[str, str]


class ExportAnswer(Response):
    """Waits for its turn, plans, and streams."""

    def __init__(self, exports: Exports, plan: Callable[[], Awaitable[Planned]]) -> None:
        """`plan` may raise what is to be answered instead."""
        self.background = None
        self._exports = exports
        self._plan = plan

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send the export, unless its client goes away before the end."""
        work = asyncio.create_task(self._work(send))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            work.cancel()
            await asyncio.wait({work, gone})
        if not work.cancelled():
            work.result()

    async def _work(self, send: Send) -> None:
        async with self._exports.turns.one():
            planned = await self._plan()
            query = planned.query
            pieces = self._exports.clickhouse.stream(
                query.sql, query.format, query.params, query.settings, encoding=query.encoding
            )
            async with aclosing(pieces):
                first = await anext(pieces, b"")
                headers = [(name.lower().encode(), value.encode()) for name, value in planned.headers.items()]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await self._pass_on(first, pieces, send)

    async def _pass_on(self, first: bytes, pieces: AsyncIterator[bytes], send: Send) -> None:
        outcome = "gone"
        try:
            await _send_piece(send, first)
            async for piece in pieces:
                await _send_piece(send, piece)
            outcome = "whole"
        except ClickledgerError as exc:
            outcome = "broken"
            log.warning("export broke off: %s", exc)
            return  # without a last chunk: the server closes the connection, and the client sees that the body is cut
        finally:
            exports_total.labels(outcome).inc()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_piece(send: Send, piece: bytes) -> None:
    await send({"type": "http.response.body", "body": piece, "more_body": True})
    export_bytes_total.inc(len(piece))


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
