"""The open-loop sender against a real socket server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from clickledger.load.answers import CONNECTION_LOST, TIMED_OUT, Accepted, Outcome
from clickledger.load.clicks import Click, Target
from clickledger.load.pump import Pace, Pump, Unreachable

Answer = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _server(answer: Answer) -> AsyncIterator[Target]:
    """An HTTP server that reads requests one by one and lets `answer` write what comes back for the n-th."""
    served = iter(range(1_000_000))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length"))
                await reader.readexactly(int(length.split(b":")[1]))
                await answer(next(served), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Target.of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "s")
    finally:
        server.close()


def _write(writer: asyncio.StreamWriter, status: int, body: bytes, extra: bytes = b"") -> None:
    writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), extra, body))


def _ok(number: int) -> bytes:
    return b'{"transaction-id":"%b"}' % str(UUID(int=number)).encode()


async def _accept(number: int, writer: asyncio.StreamWriter) -> None:
    _write(writer, 200, _ok(number))


def _clicks(count: int) -> list[Click]:
    return [Click(f"http://s/{n}") for n in range(count)]


@pytest.mark.parametrize("connections", [1, 7])
async def test_every_click_is_sent_once_and_every_id_is_kept(connections: int) -> None:
    """Sent = 200 = ids, over one connection or several; each outcome is told with its click."""
    outcomes: dict[str, Outcome] = {}

    def note(click: Click, outcome: Outcome) -> None:
        outcomes[click.short_url] = outcome

    async with _server(_accept) as target:
        tally = await Pump(target, iter(_clicks(300)), Pace(connections=connections), note).run()
    assert (tally.clicks, tally.requests, tally.accepted, tally.uncertain) == (300, 300, 300, 0)
    assert set(outcomes) == {click.short_url for click in _clicks(300)}
    assert len({outcome.transaction_id for outcome in outcomes.values() if isinstance(outcome, Accepted)}) == 300
    assert tally.by_code == {"200": 300}
    assert tally.latency.count == 300


async def test_an_open_loop_charges_a_stall_to_everyone_who_was_due() -> None:
    """One answer that stalls 300 ms at 200 clicks a second makes dozens of slow ones, not one."""

    async def stall_once(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 5:
            await asyncio.sleep(0.3)
        _write(writer, 200, _ok(number))

    async with _server(stall_once) as target:
        tally = await Pump(target, iter(_clicks(100)), Pace(rate=200, connections=1)).run()
    assert tally.accepted == 100
    assert tally.latency.percentile_us(70) > 50_000


async def test_lost_connections_and_time_outs_are_uncertain_and_replaced() -> None:
    """Neither is counted as refused; the rest of the run goes on over new connections."""

    async def misbehave(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 3:
            writer.transport.abort()
        elif number == 6:
            await asyncio.sleep(60)
        else:
            _write(writer, 200, _ok(number))

    async with _server(misbehave) as target:
        tally = await Pump(target, iter(_clicks(50)), Pace(connections=2, timeout_s=2)).run()
    assert tally.by_code == {"200": 48, CONNECTION_LOST: 1, TIMED_OUT: 1}
    assert (tally.clicks, tally.accepted, tally.uncertain) == (50, 48, 2)


async def test_retries_send_what_may_be_sent_again_and_nothing_else() -> None:
    """429 and 500 are tried again with back-off, 1003 is not."""
    codes = {0: (429, b"429"), 1: (499, b"1003"), 2: (500, b"500")}

    async def refuse_some(number: int, writer: asyncio.StreamWriter) -> None:
        status, code = codes.get(number, (200, b""))
        _write(writer, status, _ok(number) if status == 200 else b'{"code":"%b","description":""}' % code)

    async with _server(refuse_some) as target:
        tally = await Pump(target, iter(_clicks(10)), Pace(connections=1, retries=2)).run()
    assert (tally.clicks, tally.requests, tally.retried) == (10, 12, 2)
    assert tally.by_code == {"200": 9, "429": 1, "1003": 1, "500": 1}
    assert tally.uncertain == 1


async def test_batches_settle_line_by_line() -> None:
    """One request, an id or a code per click; a retry carries only the lines that may be retried."""

    async def batch(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 0:
            _write(
                writer,
                200,
                b'{"results":[%b,{"code":"429","description":""},{"code":"1003","description":""}]}' % _ok(0),
            )
        else:
            _write(writer, 200, b'{"results":[%b]}' % _ok(number))

    async with _server(batch) as target:
        tally = await Pump(target, iter(_clicks(3)), Pace(connections=1, batch=3, retries=1)).run()
    assert tally.by_code == {"200": 2, "429": 1, "1003": 1}


async def test_a_server_that_closes_after_each_answer_is_no_error() -> None:
    """Connection: close is honoured."""

    async def close(number: int, writer: asyncio.StreamWriter) -> None:
        _write(writer, 200, _ok(number), b"connection: close\r\n")
        writer.close()

    async with _server(close) as target:
        tally = await Pump(target, iter(_clicks(20)), Pace(connections=3)).run()
    assert tally.by_code == {"200": 20}


async def test_the_duration_bounds_an_endless_source() -> None:
    """No new click after the duration, every one taken has its outcome."""

    def endless() -> Iterator[Click]:
        while True:
            yield Click("http://s/a")

    async with _server(_accept) as target:
        tally = await Pump(target, endless(), Pace(rate=10, connections=2, duration_s=0.3)).run()
    assert 0 < tally.clicks == tally.accepted <= 5


async def test_an_api_that_is_not_there_is_said_at_once() -> None:
    """Unreachable names the address."""
    async with _server(_accept) as target:
        pass
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
        await Pump(target, iter(_clicks(1)), Pace(timeout_s=1)).run()
