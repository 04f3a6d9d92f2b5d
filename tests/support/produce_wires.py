"""A broker in memory at the other end of a Produce link: it keeps a log and sequence numbers, and fails as it is told."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum
from io import BytesIO
from typing import Any

from aiokafka import TopicPartition
from aiokafka.protocol.api import RequestHeader_v1
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7

from shared.kafka.batch import RecordBatch
from shared.kafka.deliveries import Deliveries
from shared.kafka.link import Link

IDENTITY = (4711, 3)
TOPIC = "t"
OUT_OF_ORDER = 45
_PRODUCER = struct.Struct(">qhii")
_PRODUCER_AT = 43


class Fault(Enum):
    """What happens to a request instead of an answer."""

    LOST_UNREAD = "the connection ends before the broker has read it"
    LOST_ANSWER = "appended, and the connection ends before the answer"
    SILENCE = "read by nobody, and the connection stays"


@dataclass
class Log:
    """A partition: the first key of each batch in order, and the next sequence number by producer."""

    batches: list[tuple[int, int, int]] = field(default_factory=list)
    """Producer, sequence, records."""

    def append(self, producer: int, sequence: int, count: int) -> tuple[int, int]:
        """Error code and offset, as a broker answers: what it has already it does not append again."""
        offset = 0
        expected: int | None = None
        for of, first, records in self.batches:
            if (of, first, records) == (producer, sequence, count):
                return 0, offset
            offset += records
            if of == producer:
                expected = (first + records) & 0x7FFFFFFF
        if expected is not None and expected != sequence:
            return OUT_OF_ORDER, -1
        self.batches.append((producer, sequence, count))
        return 0, offset


class Transport:
    """The socket of a link."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._is_closing = False
        self.link: Any = None

    def set_protocol(self, link: Link) -> None:
        """Asyncio's."""
        self.link = link

    def is_closing(self) -> bool:
        """Asyncio's."""
        return self._is_closing

    def abort(self) -> None:
        """Asyncio's."""
        self._is_closing = True

    def writelines(self, pieces: Iterable[bytes]) -> None:
        """Asyncio's: one whole request."""
        self._broker.requests.append((self, b"".join(pieces)))


class MemoryBroker:
    """Leads every partition of one topic; answers when the test says `step`."""

    def __init__(self, partitions: int = 2) -> None:
        self.count = partitions
        self.is_reachable = True
        self.looks = 0
        self.requests: deque[tuple[Transport, bytes]] = deque()
        self.logs: dict[int, Log] = {}
        self.deliveries = Deliveries()
        self.deliveries.begin(self, IDENTITY)
        self._link: Link | None = None

    def link(self, place: TopicPartition) -> Link | None:
        """See `deliveries.Places`."""
        is_led = self._link is not None and self._link.is_open and place.partition < self.count
        return self._link if is_led else None

    def partitions(self, topic: str) -> Collection[int] | None:
        """See `deliveries.Places`."""
        return range(self.count) if topic == TOPIC else None

    async def look(self, places: Iterable[TopicPartition]) -> None:
        """See `deliveries.Places`."""
        self.looks += 1
        if self.is_reachable and (self._link is None or not self._link.is_open):
            self._link = Link(self.deliveries, b"test", 1_000)
            self._link.take_over(Transport(self))

    @property
    def are_busy(self) -> bool:
        """See `deliveries.Places`."""
        return self._link is not None and self._link.is_busy

    def step(self, fault: Fault | int | None = None, *, is_appended: bool = False) -> None:
        """Deal with the oldest request: append and answer, or fail so; a code is answered, after appending if wished."""
        transport, request = self.requests.popleft()
        correlation_id, topics = read_request(request)
        if fault is Fault.SILENCE:
            return
        if fault is Fault.LOST_UNREAD:
            self.lose(transport)
            return
        answers = []
        for topic, partitions in topics:
            of_topic = []
            for number, records in partitions:
                code, offset = (fault, -1) if isinstance(fault, int) else (0, -1)
                if is_appended or not isinstance(fault, int):
                    said, offset = self._append(number, records)
                    code = code or said
                of_topic.append((number, code, offset, -1, 0))
            answers.append((topic, of_topic))
        if fault is Fault.LOST_ANSWER:
            self.lose(transport)
            return
        frame = struct.pack(">i", correlation_id) + ProduceResponse_v7(answers, 0).encode()
        if not transport.is_closing():
            transport.link.data_received(struct.pack(">i", len(frame)) + frame)

    def lose(self, transport: Transport) -> None:
        """End a connection as the network does."""
        transport.abort()
        transport.link.connection_lost(None)

    def _append(self, number: int, records: bytes) -> tuple[int, int]:
        producer, _, sequence, count = _PRODUCER.unpack_from(records, _PRODUCER_AT)
        return self.logs.setdefault(number, Log()).append(producer, sequence, count)


def read_request(request: bytes) -> tuple[int, list[tuple[str, list[tuple[int, bytes]]]]]:
    """Correlation id and topics of a request, read with the library's structures."""
    assert struct.unpack_from(">i", request) == (len(request) - 4,)
    stream = BytesIO(request[4:])
    api_key, version, correlation_id, client_id = RequestHeader_v1.SCHEMA.decode(stream)
    assert (api_key, version, client_id) == (0, 7, "test")
    transaction, acks, timeout_ms, topics = ProduceRequest_v7.SCHEMA.decode(stream)
    assert (transaction, acks, timeout_ms, stream.read()) == (None, -1, 1_000, b"")
    return correlation_id, topics


def batch_of(count: int) -> RecordBatch:
    """A batch of some records."""
    batch = RecordBatch(1 << 20, "none")
    for number in range(count):
        batch.append(timestamp=1, key=b"k", value=b"%d" % number)
    return batch
