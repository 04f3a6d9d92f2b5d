"""Brokers' answers, read to where they stay.

The library reads through a stream: the loop makes bytes of what the socket has, the stream adds them to its own, which grows under
way, an answer is cut out of them, and of that the records of each partition. `install` has the kernel write into one buffer of the
connection, out of which the partitions' records are cut (docs/adr/0039). Everything else stays the library's: what is asked, who
waits for it, what ends a connection.
"""

from __future__ import annotations

import asyncio
import functools
import time
import weakref
from typing import Any, Final

from aiokafka.conn import AIOKafkaConnection

ANSWER_BYTES_MAX: Final = 256 << 20
"""A longer answer is none: what is asked for is bounded far below (`fetch_max_bytes`), and the alert of a listener that wanted TLS
reads as 336 MiB."""
ROOM_BYTES: Final = 64 << 10
"""Of the buffer to begin with; answers that fit are handed to the library whole."""
ROOM_BYTES_KEPT: Final = 32 << 20
"""What a connection keeps for its next answer at most."""
_LENGTH: Final = 4


class Answers(asyncio.BufferedProtocol):
    """Takes the answers of one connection apart; `ended` fails when no more will come."""

    def __init__(self, connection: Any) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connection = connection
        self._closed = connection._closed_fut
        self._room = bytearray(ROOM_BYTES)
        self._filled = 0

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where the next bytes go; never full."""
        return memoryview(self._room)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes came."""
        self._filled += nbytes
        if self.ended.done():
            self._filled = 0
            return
        try:
            self._take_whole_ones()
        except Exception as exc:  # noqa: BLE001  # as the library's reader: whatever an answer holds, it ends the connection
            self.end(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """No more will come."""
        if not self._closed.done():
            self._closed.set_result(None)
        self.end(exc)

    def end(self, exc: Exception | None) -> None:
        """Take nothing any more; `exc`: why, None when the broker closed the connection."""
        self._filled = 0
        if not self.ended.done():
            self.ended.set_exception(exc or ConnectionResetError("the broker closed the connection"))

    def _take_whole_ones(self) -> None:
        begin, needed = 0, 0
        while self._filled - begin >= _LENGTH and not self.ended.done():  # an answer may close the connection
            length = int.from_bytes(self._room[begin : begin + _LENGTH], "big", signed=True)
            if not 0 <= length <= ANSWER_BYTES_MAX:
                raise ValueError(f"an answer of {length} bytes")
            needed = _LENGTH + length
            if begin + needed > self._filled:
                break
            self._hand_over(memoryview(self._room)[begin + _LENGTH : begin + needed])
            begin, needed = begin + needed, 0
        self._make_room(begin, needed)

    def _make_room(self, begin: int, needed: int) -> None:
        """Forget what is before `begin`; let the buffer hold `needed` bytes, and not be large for long."""
        is_too_small = needed > len(self._room)
        if not begin and not is_too_small:
            return
        rest = self._room[begin : self._filled]
        if is_too_small or needed <= ROOM_BYTES_KEPT < len(self._room):
            self._room = bytearray(max(needed, ROOM_BYTES))
        self._room[: len(rest)] = rest
        self._filled = len(rest)

    def _hand_over(self, answer: memoryview) -> None:
        """Give an answer to who waits for it."""
        connection = self._connection
        if len(answer) > ROOM_BYTES:
            correlation_id, request, future = connection._requests[0]
            parts = _Parts(answer)
            is_asked_for = correlation_id is not None and not future.done()
            if is_asked_for and request.parse_response_header(parts).correlation_id == correlation_id:
                future.set_result(request.RESPONSE_TYPE.decode(parts))
                connection._last_action = time.monotonic()
                connection._requests.popleft()
                return
        connection._handle_frame(bytes(answer))


class _Parts:
    """Gives an answer's bytes piece by piece: the part of `io.BytesIO` that the library's decoders use."""

    __slots__ = ("_answer", "_at")

    def __init__(self, answer: memoryview) -> None:
        self._answer, self._at = answer, 0

    def read(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        begin, self._at = self._at, self._at + count
        return bytes(self._answer[begin : self._at])


def _read_answers(connection: Any) -> asyncio.Future[None]:
    """`AIOKafkaConnection._create_reader_task`: before anything was asked."""
    answers, reader, transport = Answers(connection), connection._reader, connection._writer.transport
    is_over = reader.at_eof() or reader.exception() is not None or transport.is_closing()  # told to the former protocol
    transport.set_protocol(answers)
    answers.ended.add_done_callback(functools.partial(connection._on_read_task_error, weakref.ref(connection)))
    if is_over:
        answers.end(reader.exception())
    return answers.ended


def install() -> None:
    """For every connection of this process that the library makes."""
    AIOKafkaConnection._create_reader_task = _read_answers
