"""One request and its answer on the event loop; the statement itself runs in a worker thread (execution.py).

Three things go on at once: the body is pumped to the worker, the result is read from the pipe, and the client's going
away is watched for. The first MiB of a result is held back, so that a statement that fails early gets its proper status
and a short result gets its summary; ClickHouse does the same with its buffer.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from concurrent.futures import Executor
from typing import Any, Final

from clickledger.clickhouse_server.answers import SERVER_NAME, content_type, exception_block, summary
from clickledger.clickhouse_server.blocks import compress_blocks
from clickledger.clickhouse_server.bodies import PIECE_BYTES
from clickledger.clickhouse_server.engine import Counts, Engine
from clickledger.clickhouse_server.errors import StatementError
from clickledger.clickhouse_server.execution import Execution
from clickledger.clickhouse_server.pipe import ResultPipe

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

HARMLESS_HEADERS: Final[Headers] = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; sandbox"),
]
"""Of every answer: a browser takes none of it for a page or a script of this origin, FORMAT HTML included."""
HELD_BYTES: Final = 1 << 20  # the server's buffer of 1 MiB
HELD_BYTES_WAITING: Final = 16 << 20  # with wait_end_of_query=1; what is larger is streamed nevertheless
SENT_BYTES: Final = 64 << 10  # what a client must take within the idle time: a slow reader is not an idle one
KILL_AGAIN_SECONDS: Final = 0.5  # a kill can come before the engine has listed the query


class Exchange:
    """The answer to one admitted request."""

    def __init__(
        self, execution: Execution, pipe: ResultPipe, receive: Receive, send: Send, idle_seconds: float
    ) -> None:
        self._execution = execution
        self._pipe = pipe
        self._receive = receive
        self._send = send
        self._idle_seconds = idle_seconds
        self._tag = secrets.token_hex(8)
        self._is_gone = asyncio.Event()

    def cancel(self) -> None:
        """End a reading statement as if its client had gone; one that writes goes on."""
        self._is_gone.set()

    async def run(self, workers: Executor) -> None:
        """Run the statement and send its answer; returns when the worker is done."""
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(workers, self._execution.run)
        work.add_done_callback(lambda _: self._pipe.end())
        client = asyncio.create_task(self._pump())
        killer = asyncio.create_task(self._kill_when_gone(work))
        try:
            await self._answer(work)
        finally:
            client.cancel()
            self._pipe.close()  # an engine that writes to a full pipe could not even be killed
            if not work.done():
                self._is_gone.set()
            await asyncio.wait([work])
            killer.cancel()
            await asyncio.gather(client, killer, return_exceptions=True)

    async def _pump(self) -> None:
        """Body to the worker in pieces of about PIECE_BYTES, then watch for the client's going away."""
        waiting: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._execution.body.abort()
                self._is_gone.set()
                return
            more = message.get("more_body", False)
            if chunk := message.get("body", b""):
                waiting.append(chunk)
                size += len(chunk)
            if size >= PIECE_BYTES or (size and not more):
                await self._execution.body.put(b"".join(waiting))
                waiting, size = [], 0
        self._execution.body.finish()
        await self._receive()  # only a disconnect can follow
        self._is_gone.set()

    async def _kill_when_gone(self, work: "asyncio.Future[Counts]") -> None:
        """Once the client is gone, end a reading statement; one that writes goes on, as on a server."""
        await self._is_gone.wait()
        self._execution.is_cancelled = True
        while not work.done():
            if self._execution.is_reading:
                await asyncio.to_thread(self._execution.engine.kill, self._execution.query_id)
            await asyncio.wait([work], timeout=KILL_AGAIN_SECONDS)

    async def _answer(self, work: "asyncio.Future[Counts]") -> None:
        chunks = self._pipe.chunks()
        held, is_whole = await self._hold(chunks)
        if is_whole:
            await self._answer_whole(work, held)
            return
        await self._send_start(200, [*self._headers(), (b"x-clickhouse-summary", summary(Counts()).encode())])
        for chunk in held:
            await self._send_chunk(chunk)
        held.clear()
        async for chunk in chunks:
            await self._send_chunk(chunk)
            if self._is_gone.is_set():
                return
        try:
            await work
        except StatementError as exc:
            await self._break_off(exc)
            return
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _hold(self, chunks: AsyncIterator[bytes]) -> tuple[list[bytes], bool]:
        """The first chunks, up to the bytes that are held back, and whether that is the whole result."""
        bound = HELD_BYTES_WAITING if self._execution.request.wait_for_end else HELD_BYTES
        held: list[bytes] = []
        size = 0
        async for chunk in chunks:
            held.append(chunk)
            size += len(chunk)
            if size >= bound:
                return held, False
        return held, True

    async def _answer_whole(self, work: "asyncio.Future[Counts]", held: list[bytes]) -> None:
        try:
            counts = self._execution.told(await work)
        except StatementError as exc:
            await send_error(self._send, exc, self._execution.engine, self._common_headers())
            return
        is_encoded = bool(held)  # what the engine wrote to the pipe; an answer from elsewhere is plain
        body = b"".join(held) or self._execution.answer
        if self._execution.request.answer_in_blocks:
            body = await asyncio.to_thread(compress_blocks, body)
        headers = [*self._headers(is_encoded=is_encoded), (b"x-clickhouse-summary", summary(counts).encode())]
        await self._send_start(200, [*headers, (b"content-length", str(len(body)).encode())])
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _break_off(self, error: StatementError) -> None:
        """End a stream that broke: the exception for clients that look for it, then no proper end of the body."""
        request = self._execution.request
        if not request.answer_encoding:
            block = exception_block(self._tag, error.body(self._execution.engine.version))
            await self._send_chunk(block)
        # Returning without a last chunk makes the HTTP server close the connection, so no client takes it for whole.

    async def _send_start(self, status: int, headers: Headers) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _send_chunk(self, chunk: bytes) -> None:
        if self._execution.request.answer_in_blocks:
            chunk = await asyncio.to_thread(compress_blocks, chunk)
        for at in range(0, len(chunk), SENT_BYTES):
            message = {"type": "http.response.body", "body": chunk[at : at + SENT_BYTES], "more_body": True}
            try:
                await asyncio.wait_for(self._send(message), self._idle_seconds)
            except TimeoutError:
                self._is_gone.set()  # a client that takes nothing holds a worker: it loses its statement
                return

    def _common_headers(self) -> Headers:
        return common_headers(self._execution.engine, self._execution.query_id)

    def _headers(self, *, is_encoded: bool = True) -> Headers:
        headers = self._common_headers()
        execution = self._execution
        headers += [
            (b"content-type", content_type(execution.format).encode()),
            (b"x-clickhouse-format", execution.format.encode()),
            (b"x-clickhouse-exception-tag", self._tag.encode()),
        ]
        if execution.request.answer_encoding and is_encoded:
            headers.append((b"content-encoding", execution.request.answer_encoding.encode()))
        return headers


def common_headers(engine: Engine, query_id: str) -> Headers:
    """Headers of every answer to a statement."""
    return [
        (b"x-clickhouse-server-display-name", SERVER_NAME.encode()),
        (b"x-clickhouse-query-id", query_id.encode("latin-1", "replace")),
        (b"x-clickhouse-timezone", engine.timezone.encode()),
        *HARMLESS_HEADERS,
    ]


async def send_error(send: Send, error: StatementError, engine: Engine, headers: Headers) -> None:
    """Answer with ClickHouse's status, code header and text."""
    body = error.body(engine.version).encode("utf-8", "replace")
    all_headers = [
        *headers,
        (b"content-type", b"text/plain; charset=UTF-8"),
        (b"content-length", str(len(body)).encode()),
        (b"x-clickhouse-exception-code", str(error.code).encode()),
    ]
    if error.status == 401:
        all_headers.append((b"www-authenticate", b'Basic realm="ClickHouse server HTTP API"'))
    await send({"type": "http.response.start", "status": int(error.status), "headers": all_headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
