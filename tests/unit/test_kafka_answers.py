"""Brokers' answers arrive whole and in order however the network cuts them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop
from aiokafka import errors as kafka_errors
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.fetch import FetchResponse_v4
from hypothesis import given
from hypothesis import strategies as st

from shared.kafka import answers
from shared.kafka.answers import ROOM_BYTES, ROOM_BYTES_KEPT, Answers

_LARGE = ROOM_BYTES + 10


class Request:
    """What the library keeps of a fetch."""

    RESPONSE_TYPE = FetchResponse_v4

    @staticmethod
    def parse_response_header(parts: Any) -> Any:
        """The correlation id, 4 bytes."""

        class Header:
            correlation_id = struct.unpack(">i", parts.read(4))[0]

        return Header


class Connection:
    """Notes what the library's own way was given."""

    def __init__(self) -> None:
        self._closed_fut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests: deque[tuple[int | None, Any, asyncio.Future[Any]]] = deque()
        self._last_action = 0.0
        self.frames: list[bytes] = []

    def _handle_frame(self, frame: bytes) -> None:
        if frame == b"bad":
            raise ValueError("a decoder's error")
        self.frames.append(frame)


def framed(*frames: bytes) -> bytes:
    """As they come from the broker."""
    return b"".join(struct.pack(">i", len(frame)) + frame for frame in frames)


def receive(into: Answers, data: bytes, cuts: list[int]) -> None:
    """Let `data` arrive in pieces of these sizes, over and over."""
    at, number = 0, 0
    while at < len(data):
        room = into.get_buffer(-1)
        assert len(room) > 0
        piece = data[at : at + min(len(room), cuts[number % len(cuts)])]
        room[: len(piece)] = piece
        into.buffer_updated(len(piece))
        at, number = at + len(piece), number + 1


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=50).filter(lambda frame: frame != b"bad"), st.integers(_LARGE, 3 * _LARGE).map(bytes)
        ),
        max_size=8,
    ),
    st.lists(st.sampled_from((1, 3, 5, 100, 40_000, 200_000)), min_size=1, max_size=4).filter(
        lambda cuts: max(cuts) > 5
    ),
)
def test_whole_and_in_order(frames: list[bytes], cuts: list[int]) -> None:
    """However the pieces are cut."""

    async def scenario() -> None:
        connection = Connection()
        connection._requests.append((None, None, asyncio.get_running_loop().create_future()))  # SASL: the library's way
        receive(Answers(connection), framed(*frames), cuts)
        assert connection.frames == frames

    asyncio.run(scenario())


def _fetched(records: bytes, correlation_id: int = 7) -> bytes:
    answer = FetchResponse_v4(0, [("t", [(3, 0, 100, 100, [], records)])])
    return struct.pack(">i", correlation_id) + bytes(answer.encode())


def test_a_large_answer_is_decoded_as_the_library_does() -> None:
    """The same values; it leaves the waiting ones, and the connection was in use."""

    async def scenario() -> None:
        connection, records = Connection(), bytes(range(256)) * 1_000
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        connection._requests.append((7, Request, future))
        receive(Answers(connection), framed(_fetched(records), b"next"), [70_000])
        assert future.result() == FetchResponse_v4.decode(io.BytesIO(_fetched(records)[4:]))
        assert future.result().topics[0][1][0][5] == records
        assert not connection._requests
        assert connection._last_action > 0
        assert connection.frames == [b"next"]

    asyncio.run(scenario())


def test_a_large_answer_that_nobody_waits_for_or_asked_for_goes_the_librarys_way() -> None:
    """Given up, or of another number: the library knows what that means."""

    async def scenario() -> None:
        connection = Connection()
        given_up: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        given_up.cancel()
        connection._requests.append((7, Request, given_up))
        into, answer = Answers(connection), _fetched(bytes(_LARGE))
        receive(into, framed(answer), [100_000])
        connection._requests[0] = (8, Request, asyncio.get_running_loop().create_future())
        receive(into, framed(answer), [100_000])
        assert connection.frames == [answer, answer]
        assert len(connection._requests) == 1, "the library's own way takes it"

    asyncio.run(scenario())


def test_the_buffer_is_not_large_for_long() -> None:
    """The next answer that fits a smaller one gets it."""

    async def scenario() -> None:
        connection = Connection()
        connection._requests.append((None, None, asyncio.get_running_loop().create_future()))
        into = Answers(connection)
        receive(into, framed(bytes(ROOM_BYTES_KEPT + 1), b"x"), [1 << 20])
        assert [len(frame) for frame in connection.frames] == [ROOM_BYTES_KEPT + 1, 1]
        assert len(into.get_buffer(-1)) == ROOM_BYTES

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "data", [struct.pack(">i", -5), struct.pack(">i", answers.ANSWER_BYTES_MAX + 1), framed(b"bad")]
)
def test_what_is_no_answer_ends_the_connection(data: bytes) -> None:
    """And nothing behind it is taken."""

    async def scenario() -> None:
        connection = Connection()
        into = Answers(connection)
        receive(into, framed(b"good") + data, [1_000])
        assert isinstance(into.ended.exception(), ValueError)
        receive(into, framed(b"late"), [1_000])
        assert connection.frames == [b"good"]

    asyncio.run(scenario())


def test_the_end_of_the_connection_is_told() -> None:
    """To who waits for its closing, and to the library."""

    async def scenario() -> None:
        for exc in (None, BrokenPipeError("gone")):
            connection = Connection()
            into = Answers(connection)
            into.connection_lost(exc)
            assert connection._closed_fut.done()
            assert isinstance(into.ended.exception(), ConnectionResetError if exc is None else BrokenPipeError)

    asyncio.run(scenario())


LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture
def closing_port() -> Iterator[int]:
    """Of a listener that takes connections, in a thread of its own, and closes each at once."""

    def close_all() -> None:
        with contextlib.suppress(OSError):  # the listener's own end
            while True:
                listener.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=close_all, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_that_is_closed_at_once_fails_at_once(loop: Any, closing_port: int) -> None:
    """Whoever is told of it, the former protocol or this one: a proxy before a dead broker must not cost the whole time-out."""

    async def scenario() -> None:
        answers.install()
        for _ in range(20):
            connection = AIOKafkaConnection("127.0.0.1", closing_port, request_timeout_ms=5_000)
            with pytest.raises((kafka_errors.KafkaError, OSError)) as failed:
                await connection.connect()
            assert not isinstance(failed.value, TimeoutError | kafka_errors.RequestTimedOutError)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_over_a_real_connection(loop: Any) -> None:
    """Whole and in order, small ones and large ones, through the loop's own transport; then the end is told."""
    frames = [bytes([number]) * size for number, size in enumerate((0, 5, ROOM_BYTES, _LARGE, 3_000_000, 1, 200_000))]

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for at in range(0, len(data := framed(*frames)), 99_999):
            writer.write(data[at : at + 99_999])
            await writer.drain()
        writer.close()

    async def scenario() -> None:
        connection = Connection()
        connection._requests.append((None, None, asyncio.get_running_loop().create_future()))
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            into = Answers(connection)
            host, port = server.sockets[0].getsockname()
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, port)
            transport.set_protocol(into)
            await asyncio.wait([into.ended], timeout=10)
        assert connection.frames == frames
        assert isinstance(into.ended.exception(), ConnectionResetError)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


def test_nothing_is_taken_behind_an_answer_that_closed_the_connection() -> None:
    """As the library does when numbers do not match; its reader is cancelled then."""

    async def scenario() -> None:
        connection = Connection()
        into = Answers(connection)
        taken = connection._handle_frame

        def close(frame: bytes) -> None:
            taken(frame)
            into.ended.cancel()

        connection._handle_frame = close  # type: ignore[method-assign]
        receive(into, framed(b"one", b"two"), [1_000])
        assert connection.frames == [b"one"]

    asyncio.run(scenario())
