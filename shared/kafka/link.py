"""A connection to one broker that carries Produce requests and nothing else.

The library connects (TLS, SASL, versions) and hands its transport over: from then on there is no stream reader, task or
future of its own between the socket and the deliveries, which is where most of a batch's time went (docs/adr/0032).

A broker answers the requests of a connection in their order, one after the other. While fewer than `REQUESTS_MAX` are
unanswered a batch leaves at once; those that come meanwhile share the next request.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Final, Protocol

from shared.kafka.produce_wire import decode_answer, encode_request

log = logging.getLogger(__name__)

REQUESTS_MAX: Final = 2
"""One that the broker works on and one that lies ready for it."""
REQUEST_BYTES_MAX: Final = 8 << 20
"""Batches share a request up to this size; the broker's own limit (socket.request.max.bytes) is 100 MiB."""
ANSWER_BYTES_MAX: Final = 1 << 20
"""An answer has 30 bytes for each partition."""


class Parcel(Protocol):
    """A batch on its way to its partition."""

    @property
    def topic(self) -> bytes:
        """Name of the topic."""

    @property
    def partition(self) -> int:
        """Number of the partition."""

    @property
    def is_over(self) -> bool:
        """Given up before it was written: do not write it."""

    def leave(self) -> bytes:
        """Its bytes, the same each time; it counts as written from here on."""


class Hearer(Protocol):
    """Is told of each parcel once: its answer, or that none will come."""

    def answered(self, parcel: Any, code: int, offset: int) -> None:
        """The broker's error code and the offset of the first record."""

    def lost(self, parcel: Any, *, was_written: bool) -> None:
        """The connection ended; what was written may have arrived."""


class Link(asyncio.Protocol):
    """Requests out, answers in; `ended` when the connection is gone for good."""

    def __init__(self, hearer: Hearer, client_id: bytes, timeout_ms: int) -> None:
        self._hearer = hearer
        self._client_id = client_id
        self._timeout_ms = timeout_ms
        self._transport: Any = None
        self._connection: Any = None
        self._waiting: list[Parcel] = []
        self._unanswered: deque[tuple[int, list[Parcel]]] = deque()
        self._correlation_id = 0
        self._received = b""
        self._has_ended = False

    def take_over(self, transport: Any, connection: Any = None) -> None:
        """Use a transport; `connection` is the library's object around it, closed at the end."""
        self._transport, self._connection = transport, connection
        transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        """Whether parcels can be given to it."""
        return not self._has_ended and not self._transport.is_closing()

    @property
    def is_busy(self) -> bool:
        """Whether answers are awaited."""
        return bool(self._unanswered)

    def submit(self, parcel: Parcel) -> None:
        """Write a parcel now, or with others when an answer came."""
        self._waiting.append(parcel)
        self._write()

    def abort(self) -> None:
        """End at once: what is not in the socket yet is never sent."""
        self._transport.abort()
        self.connection_lost(None)

    def data_received(self, data: bytes) -> None:
        """Asyncio's callback: take whole answers, keep the rest."""
        received = self._received + data if self._received else data
        at, told = 0, []
        try:
            while (end := _end_of_answer(received, at)) <= len(received):
                told += self._take(received[at + 4 : end])
                at = end
        except (ValueError, KeyError, IndexError) as exc:
            log.warning("a broker's answer does not fit the request, the connection ends: %r", exc)
            self.abort()
        else:
            self._received = received[at:]
        for parcel, code, offset in told:
            self._hearer.answered(parcel, code, offset)
        if self._waiting:
            self._write()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Asyncio's callback: tell of all parcels, written or not, that no answer comes."""
        if self._has_ended:
            return
        self._has_ended = True
        if self._connection is not None:
            self._connection.close()
        unanswered, waiting = self._unanswered, self._waiting
        self._unanswered, self._waiting, self._received = deque(), [], b""
        for _, parcels in unanswered:
            for parcel in parcels:
                self._hearer.lost(parcel, was_written=True)
        for parcel in waiting:
            self._hearer.lost(parcel, was_written=False)

    def _take(self, frame: bytes) -> list[tuple[Parcel, int, int]]:
        """The answers of one request. Raises ValueError, KeyError, IndexError when it is none to ours."""
        correlation_id, answers = decode_answer(frame)
        expected, parcels = self._unanswered[0]
        if correlation_id != expected:
            raise ValueError(f"answer {correlation_id} instead of {expected}")
        told = [(parcel, *answers[parcel.topic, parcel.partition]) for parcel in parcels]
        self._unanswered.popleft()
        return told

    def _write(self) -> None:
        while self._waiting and len(self._unanswered) < REQUESTS_MAX and self.is_open:
            parcels, batches, size = [], [], 0
            while self._waiting and size < REQUEST_BYTES_MAX:
                parcel = self._waiting.pop(0)
                if not parcel.is_over:
                    records = parcel.leave()
                    parcels.append(parcel)
                    batches.append((parcel.topic, parcel.partition, records))
                    size += len(records)
            if not parcels:
                return
            self._correlation_id = (self._correlation_id + 1) & 0x7FFFFFFF
            self._unanswered.append((self._correlation_id, parcels))
            self._transport.writelines(encode_request(self._correlation_id, self._client_id, self._timeout_ms, batches))


def _end_of_answer(received: bytes, at: int) -> int:
    """Where the answer that begins at `at` ends, as far as is known. Raises ValueError when it is absurdly large."""
    if len(received) - at < 4:
        return len(received) + 1
    size = int.from_bytes(received[at : at + 4], "big")
    if size > ANSWER_BYTES_MAX:
        raise ValueError(f"an answer of {size} bytes")
    return at + 4 + size
