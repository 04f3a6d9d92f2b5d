"""Batches on their way to Kafka: sequence numbers, errors, lost connections, deadlines; against a broker in memory."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiokafka.protocol.produce import ProduceResponse_v7
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DataError, OperatorError, OutcomeUnknown, TransientError
from shared.kafka import batch as batch_module
from shared.kafka.batch import check_codec
from shared.kafka.produce_wire import Verdict, decode_answer, verdict
from tests.support.produce_wires import OUT_OF_ORDER, TOPIC, Fault, MemoryBroker, batch_of

LONG_S = 60.0
SHORT_S = 0.01
RETRIED = [code for code in range(-1, 120) if verdict(code) in (Verdict.NOT_APPENDED, Verdict.UNCLEAR)]
UNCLEAR = [code for code in RETRIED if verdict(code) is Verdict.UNCLEAR]
REFUSED = [code for code in range(-1, 120) if verdict(code) is Verdict.REFUSED]
BREAKING = (-1, OUT_OF_ORDER, 47, 48, 49, 59, 90, 119)
"""Unknown to the server, out of order, fenced or expired producers, a code that nobody knows."""


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another attempt needs no pause here."""
    monkeypatch.setattr("shared.kafka.deliveries.RETRY_S", 0)


@pytest.fixture
def broker() -> MemoryBroker:
    """Two partitions."""
    return MemoryBroker()


async def turns(count: int = 12) -> None:
    """Let tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def sent(broker: MemoryBroker, partition: int = 0, count: int = 1, timeout_s: float = LONG_S) -> Any:
    """Hand a batch over; its future, when the request was written (where that can be)."""
    future = broker.deliveries.send(TOPIC, partition, batch_of(count), timeout_s)
    await turns()
    return future


async def test_sequence_numbers_count_records(broker: MemoryBroker) -> None:
    """Each acknowledged batch moves its partition's number by its records, and the answer is the first one's offset."""
    for count, partition, offset in ((3, 0, 0), (2, 0, 3), (5, 1, 0), (1, 0, 5)):
        future = await sent(broker, partition, count)
        broker.step()
        assert await future == offset
    assert [first for _, first, _ in broker.logs[0].batches] == [0, 3, 5]


async def test_the_number_after_the_last_is_zero(broker: MemoryBroker) -> None:
    """The protocol's numbers have 31 bits."""
    first = await sent(broker, count=1)
    broker.step()
    await first
    track = broker.deliveries._tracks[TOPIC, 0]
    track.sequence = 0x7FFFFFFF
    broker.logs.clear()
    for _ in range(2):
        future = await sent(broker, count=2)
        broker.step()
        await future
    assert [number for _, number, _ in broker.logs[0].batches] == [0x7FFFFFFF, 1]


async def test_one_batch_of_a_partition_is_under_way(broker: MemoryBroker) -> None:
    """The next one is written when the one before it is acknowledged; another partition does not wait."""
    first, second, other = await sent(broker), await sent(broker), await sent(broker, 1)
    assert len(broker.requests) == 2
    broker.step()
    broker.step()
    assert (first.done(), second.done(), other.done(), len(broker.requests)) == (True, False, True, 1)
    broker.step()
    assert (await first, await second, await other) == (0, 1, 0)


async def test_what_waits_for_a_link_shares_a_request() -> None:
    """Two requests are written at once; six partitions' batches need no more than three."""
    broker = MemoryBroker(6)
    await sent(broker)
    broker.step()
    futures = [await sent(broker, number) for number in range(6)]
    assert len(broker.requests) == 2
    broker.step()
    assert len(broker.requests) == 2
    broker.step()
    broker.step()
    assert await asyncio.gather(*futures) == [1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("is_appended", [False, True])
@pytest.mark.parametrize("code", RETRIED)
async def test_a_passing_error_is_tried_again(broker: MemoryBroker, code: int, *, is_appended: bool) -> None:
    """With the same bytes, after a look at the cluster; whether or not the attempt was appended, it stands there once."""
    future = await sent(broker)
    written = broker.requests[0][1][20:]
    looks = broker.looks
    broker.step(code, is_appended=is_appended)
    await turns()
    assert (broker.requests[0][1][20:], broker.looks > looks) == (written, True)
    broker.step()
    assert await future == 0
    assert len(broker.logs[0].batches) == 1
    assert not broker.deliveries.broken


@pytest.mark.parametrize("fault", [Fault.LOST_UNREAD, Fault.LOST_ANSWER])
async def test_a_lost_connection_is_tried_again(broker: MemoryBroker, fault: Fault) -> None:
    """Whatever had become of the request."""
    future = await sent(broker)
    broker.step(fault)
    await turns()
    broker.step()
    assert await future == 0
    assert len(broker.logs[0].batches) == 1


async def test_a_forgotten_duplicate_is_a_success_without_offset(broker: MemoryBroker) -> None:
    """DUPLICATE_SEQUENCE_NUMBER: the records are there, the broker does not know where; the next batch goes on."""
    future = await sent(broker, count=2)
    broker.step(46, is_appended=True)
    assert isinstance(await future, int)
    following = await sent(broker)
    broker.step()
    assert await following == 2


@pytest.mark.parametrize("code", REFUSED)
async def test_a_refusal_is_certain_and_uses_no_number(broker: MemoryBroker, code: int) -> None:
    """The batch is not there and will not be; the next one takes its number."""
    future = await sent(broker, count=3)
    broker.step(code)
    with pytest.raises((TransientError, DataError, OperatorError)) as refused:
        await future
    assert not isinstance(refused.value, OutcomeUnknown)
    assert isinstance(refused.value, DataError) == (code in (10, 18))
    assert isinstance(refused.value, OperatorError) == (code in (17, 29, 31, 35, 44))
    following = await sent(broker)
    broker.step()
    assert await following == 0
    assert broker.logs[0].batches[0][1] == 0


@pytest.mark.parametrize("code", REFUSED)
async def test_a_refusal_after_a_lost_attempt_is_unknown(broker: MemoryBroker, code: int) -> None:
    """The first attempt may have been appended: the number that follows is not known, so the producer is broken."""
    future = await sent(broker)
    broker.step(Fault.LOST_ANSWER)
    await turns()
    broker.step(code)
    with pytest.raises(OutcomeUnknown):
        await future
    assert broker.deliveries.broken


@pytest.mark.parametrize("code", BREAKING)
async def test_a_broken_sequence_ends_the_producer(broker: MemoryBroker, code: int) -> None:
    """The outcome is unknown; what waited behind was certainly not sent, and nothing is taken any more."""
    future, behind, other = await sent(broker), await sent(broker), await sent(broker, 1)
    broker.step(code)
    with pytest.raises(OutcomeUnknown, match="broken"):
        await future
    await certainly_not_sent(lambda: behind)
    broker.step()
    assert await other == 0, "what is under way elsewhere is not given up"
    await certainly_not_sent(lambda: sent(broker, 1))
    assert not broker.deliveries.has_missed_deadline


async def certainly_not_sent(send: Callable[[], Awaitable[Any]]) -> None:
    """A TransientError that is no OutcomeUnknown."""
    with pytest.raises(TransientError) as certain:
        await send()
    assert not isinstance(certain.value, OutcomeUnknown)


@pytest.mark.parametrize("fault", [Fault.SILENCE, Fault.LOST_UNREAD, *UNCLEAR])
async def test_the_deadline_of_what_was_written(broker: MemoryBroker, fault: Fault | int) -> None:
    """After it the outcome is unknown and the producer broken, whether the broker is silent, gone or in trouble."""
    future, behind = await sent(broker, timeout_s=SHORT_S), await sent(broker)
    broker.is_reachable = False
    transport = broker.requests[0][0]
    broker.step(fault)
    if isinstance(fault, int):
        broker.lose(transport)
    with pytest.raises(OutcomeUnknown, match="no acknowledgement"):
        await future
    await certainly_not_sent(lambda: behind)
    assert broker.deliveries.has_missed_deadline
    assert broker.deliveries.broken


async def test_the_deadline_of_what_was_never_written(broker: MemoryBroker) -> None:
    """Without a connection nothing is in doubt; the producer is broken all the same: nothing gets there."""
    broker.is_reachable = False
    await certainly_not_sent(lambda: broker.deliveries.send(TOPIC, 0, batch_of(1), SHORT_S))
    assert broker.deliveries.has_missed_deadline


async def test_the_deadline_of_what_was_refused_for_now(broker: MemoryBroker) -> None:
    """Too few replicas before the append: certainly not there."""
    future = await sent(broker, timeout_s=SHORT_S)
    transport = broker.requests[0][0]
    broker.is_reachable = False
    broker.step(19)
    broker.lose(transport)
    await certainly_not_sent(lambda: future)


async def test_the_deadline_of_what_waits_breaks_nothing(broker: MemoryBroker) -> None:
    """A batch that earlier ones kept waiting was not sent; they go on."""
    future, behind = await sent(broker), await sent(broker, timeout_s=SHORT_S)
    with pytest.raises(TransientError, match="earlier batches filled the queue"):
        await behind
    broker.step()
    assert await future == 0
    assert not broker.deliveries.broken


@pytest.mark.parametrize("is_first_answered", [False, True])
async def test_each_has_its_own_deadline(*, is_first_answered: bool) -> None:
    """Whatever the order in which they were sent, and whether or not the one that the timer was set for is over."""
    broker, loop = MemoryBroker(5), asyncio.get_running_loop()
    if is_first_answered:
        answered = await sent(broker, 4, timeout_s=0.5)
        broker.step()
        await answered
    ended: dict[int, float] = {}
    began = loop.time()
    timeouts_s = {0: LONG_S, 1: 0.15, 2: 0.05, 3: 0.1}
    for partition, timeout_s in timeouts_s.items():
        future = broker.deliveries.send(TOPIC, partition, batch_of(1), timeout_s)
        future.add_done_callback(lambda _, partition=partition: ended.setdefault(partition, loop.time() - began))
    await asyncio.sleep(0.3)
    assert list(ended) == [2, 3, 1]
    assert all(after > timeouts_s[partition] - 0.002 for partition, after in ended.items())
    broker.step()
    await turns()
    assert list(ended) == [2, 3, 1, 0]


async def test_deadlines_of_one_partition_at_once(broker: MemoryBroker) -> None:
    """The first one breaks the producer, with which the others of its partition end; another one has its own."""
    futures = [broker.deliveries.send(TOPIC, 0, batch_of(1), SHORT_S) for _ in range(3)]
    other = broker.deliveries.send(TOPIC, 1, batch_of(1), 2 * SHORT_S)
    outcomes = await asyncio.wait_for(asyncio.gather(*futures, other, return_exceptions=True), 5)
    assert [type(each) for each in outcomes] == [OutcomeUnknown, TransientError, TransientError, OutcomeUnknown]


async def test_a_late_answer_changes_nothing(broker: MemoryBroker) -> None:
    """What was told stays told."""
    future = await sent(broker, timeout_s=SHORT_S)
    with pytest.raises(OutcomeUnknown):
        await future
    broker.step()
    assert broker.deliveries.broken
    assert await broker.deliveries.drain(0)


async def test_a_cancelled_caller_leaves_its_batch_going(broker: MemoryBroker) -> None:
    """Written bytes cannot be called back: the batch is brought to its end, and the next one follows it."""
    (await sent(broker, count=2)).cancel()
    following = await sent(broker)
    broker.step(Fault.LOST_ANSWER)
    await turns()
    broker.step()
    broker.step()
    assert await following == 2


async def test_retired(broker: MemoryBroker) -> None:
    """All waits end: unknown where written, certain where not; closing waits for the answers that may still come."""
    written, behind = await sent(broker), await sent(broker)
    broker.deliveries.retire("given up")
    with pytest.raises(OutcomeUnknown, match="given up"):
        await written
    await certainly_not_sent(lambda: behind)
    assert not await broker.deliveries.drain(0)
    broker.step()
    assert await broker.deliveries.drain(1)


async def test_closing_waits_for_acknowledgements(broker: MemoryBroker) -> None:
    """And tells those that do not come in time."""
    future = await sent(broker)
    closing = asyncio.ensure_future(broker.deliveries.drain(LONG_S))
    await turns()
    broker.step()
    assert (await future, await closing) == (0, True)


async def test_closing_after_a_lost_answer(broker: MemoryBroker) -> None:
    """What was retired and then lost stays unacknowledged."""
    future = await sent(broker)
    broker.deliveries.retire("given up")
    broker.step(Fault.LOST_ANSWER)
    assert not await broker.deliveries.drain(LONG_S)
    with pytest.raises(OutcomeUnknown):
        await future


async def test_a_partition_that_is_not_there(broker: MemoryBroker) -> None:
    """Asked for some times, then a TransientError that names the count; one that comes meanwhile takes the batch."""
    with pytest.raises(TransientError, match="t has 2 partitions, none with number 2"):
        await broker.deliveries.send(TOPIC, 2, batch_of(1), LONG_S)
    future = broker.deliveries.send(TOPIC, 2, batch_of(1), LONG_S)
    while broker.looks < 12:
        await asyncio.sleep(0)
    broker.count = 3
    await turns()
    broker.step()
    assert await future == 0


@pytest.mark.parametrize(
    "answer", [b"\0\0\0\1x", b"\x7f\0\0\0", b"\0\0\0\x08\0\0\0\x63\0\0\0\0", b"\0\0\0\x08\0\0\0\1\0\0\0\0"]
)
async def test_an_answer_to_something_else_ends_the_connection(broker: MemoryBroker, answer: bytes) -> None:
    """Cut off, absurdly long, of another request, without our partition: the batch is tried on a new connection."""
    future = await sent(broker)
    transport, _ = broker.requests.popleft()
    transport.link.data_received(answer)
    await turns()
    assert transport.is_closing()
    broker.step()
    assert await future == 0


async def test_an_answer_to_another_request_is_not_taken(broker: MemoryBroker) -> None:
    """It names the right partition, but the number is not that of the request: nothing is acknowledged by it."""
    future = await sent(broker)
    transport, _ = broker.requests.popleft()
    frame = struct.pack(">i", 99) + ProduceResponse_v7([(TOPIC, [(0, 0, 7, -1, 0)])], 0).encode()
    transport.link.data_received(struct.pack(">i", len(frame)) + frame)
    await turns()
    assert not future.done()
    broker.step()
    assert await future == 0


async def test_what_waited_for_a_request_is_tried_on_the_next_connection() -> None:
    """It was never written, and is not forgotten."""
    broker = MemoryBroker(4)
    await sent(broker)
    broker.step()
    futures = [await sent(broker, number) for number in range(4)]
    broker.step(Fault.LOST_ANSWER)
    broker.requests.clear()
    await turns()
    while broker.requests:
        broker.step()
    assert await asyncio.gather(*futures) == [1, 0, 0, 0]


async def test_what_was_given_up_while_it_waited_is_never_written() -> None:
    """Its caller was told that it was not sent."""
    broker = MemoryBroker(3)
    await sent(broker)
    broker.step()
    first, second = await sent(broker, 0), await sent(broker, 1)
    await certainly_not_sent(lambda: broker.deliveries.send(TOPIC, 2, batch_of(1), SHORT_S))
    broker.step()
    broker.step()
    assert (await first, await second, len(broker.requests), 2 in broker.logs) == (1, 0, 0, False)


async def test_answers_may_come_in_pieces(broker: MemoryBroker) -> None:
    """Byte by byte, or two at once."""
    first, second = await sent(broker), await sent(broker, 1)
    link, received = broker.requests[0][0].link, b""

    def keep(data: bytes) -> None:
        nonlocal received
        received += data

    take, link.data_received = link.data_received, keep
    broker.step()
    broker.step()
    for byte in received[:70]:
        take(bytes((byte,)))
    take(received[70:])
    assert (await first, await second) == (0, 0)


def test_a_name_without_length_is_no_answer() -> None:
    """A null name must not move the reading back."""
    with pytest.raises(ValueError, match="name"):
        decode_answer(b"\0\0\0\1\x7f\0\0\0" + b"\xff\xf0" + bytes(40))


@given(st.binary(max_size=80))
def test_any_bytes_are_an_answer_or_a_value_error(frame: bytes) -> None:
    """Never another exception."""
    with contextlib.suppress(ValueError):
        decode_answer(frame)


STEPS = st.sampled_from(
    [
        None,
        None,
        Fault.LOST_UNREAD,
        Fault.LOST_ANSWER,
        *((code, yes) for code in UNCLEAR[:4] for yes in (False, True)),
        (19, False),
        (10, False),
    ]
)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3)), max_size=8), st.lists(STEPS, max_size=16))
def test_whatever_fails_each_batch_stands_once(batches: list[tuple[int, int]], steps: list[Any]) -> None:
    """An acknowledged batch is in the log once, in order, at the offset that was told; a certain refusal is not there."""
    asyncio.run(_through(batches, steps))


async def _through(batches: list[tuple[int, int]], steps: list[Any]) -> None:
    broker = MemoryBroker()
    handed: list[tuple[int, int, asyncio.Future[int]]] = []
    for partition, count in batches:
        try:
            handed.append((partition, count, broker.deliveries.send(TOPIC, partition, batch_of(count), LONG_S)))
        except TransientError:
            continue
    for step in [*steps, *[None] * 40]:
        await turns()
        if not broker.requests:
            continue
        code, is_appended = step if isinstance(step, tuple) else (step, False)
        broker.step(code, is_appended=is_appended)
    await turns()
    await broker.deliveries.drain(0)
    outcomes = await asyncio.gather(*(future for _, _, future in handed), return_exceptions=True)
    for partition in (0, 1):
        log = [count for _, _, count in broker.logs[partition].batches] if partition in broker.logs else []
        mine = [(count, outcome) for (at, count, _), outcome in zip(handed, outcomes, strict=True) if at == partition]
        told = [(count, outcome) for count, outcome in mine if isinstance(outcome, int)]
        unknown = [count for count, outcome in mine if isinstance(outcome, OutcomeUnknown)]
        assert log[: len(told)] == [count for count, _ in told]
        assert [outcome for _, outcome in told] == [sum(log[:number]) for number in range(len(told))]
        assert len(log) - len(told) <= len(unknown) <= 1


async def test_a_batch_is_sent_once_and_knows_its_size(broker: MemoryBroker) -> None:
    """A second sending would carry the first one's number; the size is that of the bytes, before and after."""
    batch = batch_of(3)
    size = batch.size()
    assert (len(batch.build(1, 0, 0)), batch.size(), batch.record_count()) == (size, size, 3)
    for unfit in (batch, batch_of(0)):
        with pytest.raises(DataError, match="sent once"):
            broker.deliveries.send(TOPIC, 0, unfit, LONG_S)


async def test_compression_without_its_library_is_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said at the start, not at the first batch."""
    check_codec("none")
    check_codec("gzip")
    monkeypatch.setitem(batch_module._IS_THERE, "zstd", lambda: False)
    with pytest.raises(OperatorError, match="zstd"):
        check_codec("zstd")
