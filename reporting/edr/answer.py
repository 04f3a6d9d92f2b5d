"""The answer to an export: ClickHouse's bytes passed through at the reader's pace.

Rules. What can fail does so before the first byte and is then an ordinary refusal. An error behind it breaks the body off
(no last chunk), so that no client takes a part for the whole. A client that goes away ends the query at once; one whose
key is no longer valid does within a minute, and so does one that takes the bytes too slowly, since others wait for its turn.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Final, NamedTuple

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from reporting.edr.selection import Query
from reporting.metrics import export_bytes_total, exports_total
from reporting.state import Exports
from shared.errors import ClickledgerError

log = logging.getLogger(__name__)

KEY_CHECK_S: Final = 60.0
"""Between two looks at the key of an export that runs."""
PATIENCE_S: Final = 60.0
"""Seconds for which a reader may be slower than it must be."""


class TooSlow(Exception):
    """The reader does not take the bytes."""


class Pace:
    """How long a reader may still take: a minute and the time that its bytes need at the least pace. Pure."""

    def __init__(self, bytes_per_s_min: int) -> None:
        self._per_s = bytes_per_s_min
        self._left_s = PATIENCE_S

    def allowed_s(self, size: int) -> float:
        """Seconds in which so many bytes must be taken."""
        return self._left_s + size / self._per_s

    def took(self, size: int, seconds: float) -> None:
        """So many bytes were taken in this time."""
        self._left_s = min(PATIENCE_S, max(0.0, self.allowed_s(size) - seconds))


class Planned(NamedTuple):
    """An export that may begin."""

    query: Query
    headers: Mapping[str, str]


class ExportAnswer(Response):
    """Waits for its turn, plans, and streams."""

    def __init__(
        self, exports: Exports, tenant: str, may_read: Callable[[], bool], plan: Callable[[], Awaitable[Planned]]
    ) -> None:
        """`plan` may raise what is to be answered instead, first of all that the key is no longer valid."""
        self.background = None
        self._exports = exports
        self._tenant, self._may_read, self._plan = tenant, may_read, plan
        self._pace = Pace(exports.bytes_per_s_min)
        self._has_begun = False
        self._outcome = "gone"

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send the export, unless its client goes away before the end."""
        work = asyncio.create_task(self._work(send))
        ends = {asyncio.create_task(_until_gone(receive)), asyncio.create_task(self._until_refused())}
        try:
            await asyncio.wait({work, *ends}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, *ends):
                task.cancel()
            await asyncio.wait({work, *ends})
        if not work.cancelled():
            work.result()

    async def _work(self, send: Send) -> None:
        async with self._exports.turns.one(self._tenant):
            planned = await self._plan()
            query = planned.query
            pieces = self._exports.clickhouse.stream(
                query.sql, query.format, query.params, query.settings, encoding=query.encoding
            )
            async with aclosing(pieces):
                first = await anext(pieces, b"")
                headers = [(name.lower().encode(), value.encode()) for name, value in planned.headers.items()]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                self._has_begun = True
                await self._pass_on(first, pieces, send)

    async def _pass_on(self, first: bytes, pieces: AsyncIterator[bytes], send: Send) -> None:
        try:
            await self._send_piece(send, first)
            async for piece in pieces:
                await self._send_piece(send, piece)
            self._outcome = "whole"
        except TooSlow:
            self._outcome = "slow"
            return
        except ClickledgerError as exc:
            self._outcome = "broken"
            log.warning("export broke off: %s", exc)
            return  # without a last chunk: the server closes the connection, and the client sees that the body is cut
        finally:
            exports_total.labels(self._outcome).inc()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_piece(self, send: Send, piece: bytes) -> None:
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(self._pace.allowed_s(len(piece))):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError as exc:
            raise TooSlow from exc
        self._pace.took(len(piece), time.monotonic() - began_s)
        export_bytes_total.inc(len(piece))

    async def _until_refused(self) -> None:
        """Before the first byte the plan looks at the key, and there is an answer."""
        while not self._has_begun or self._may_read():  # noqa: ASYNC110  # the catalog is looked at, now and then
            await asyncio.sleep(KEY_CHECK_S)
        self._outcome = "key"


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
