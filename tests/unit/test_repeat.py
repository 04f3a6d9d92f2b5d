"""A head that comes again is known without being parsed, and nothing is different for it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.http.repeat import HEAD_BYTES_MAX, HEAD_TRIES
from tests.support.wire import Echo, connect

LINE = b"POST /fast HTTP/1.1\r\n"


def request(body: bytes, fields: bytes = b"host: x\r\n", line: bytes = LINE, after: bytes = b"") -> bytes:
    """A whole request."""
    return b"%b%bContent-Length: %d\r\n%b\r\n%b" % (line, fields, len(body), after, body)


async def serve(reads: list[bytes], *, remembers: bool) -> tuple[Echo, list[bytes], bool]:
    """What an endpoint takes and a client gets for these reads; with the parser alone unless it `remembers`."""
    echo = Echo()
    connection, wire = connect({b"/fast": echo})
    if not remembers:
        connection.head_tries = 0
    for data in reads:
        connection.data_received(data)
        await asyncio.sleep(0)
    return echo, wire.written, wire.closed


async def known_of(reads: list[bytes]) -> int:
    """How many of the requests were known; the outcome is that of the parser."""
    (echo, *outcome), (parsed, *expected) = await serve(reads, remembers=True), await serve(reads, remembers=False)
    assert parsed.known == 0
    assert (echo.taken, outcome) == (parsed.taken, expected)
    return echo.known


async def test_a_head_that_comes_again_is_known() -> None:
    """From the second request on, whatever the length of the body, with the header fields of each request itself."""
    assert await known_of([request(b""), request(b"a"), request(b"b" * 10), request(b"c" * 64)]) == 3


@pytest.mark.parametrize(
    "again",
    [
        request(b"a", b"host: y\r\n"),
        request(b"a", b"host: x\r\nauthorization: Bearer z\r\n"),
        request(b"a", after=b"connection: close\r\n"),
        request(b"a", line=b"PUT /fast HTTP/1.1\r\n"),
        request(b"a", line=b"POST /fast?q HTTP/1.1\r\n"),
        request(b"a" * 65),
        request(b"a") + request(b"b"),
        request(b"a") + b"\r\n",
        request(b"a")[:-1],
        request(b"ab").replace(b"Length: 2", b"Length: 1"),
        request(b"ab").replace(b"Length: 2", b"Length: +2"),
        request(b"ab").replace(b"Length: 2", b"Length: 2 "),
        request(b"ab").replace(b"Length: 2", b"Length: 000000000000000002"),
        request(b"ab").replace(b"Length: 2", b"Length: "),
        request(b"ab").replace(b"Length: 2", b"Length: 99999999999999999999"),
    ],
)
async def test_any_other_request_is_parsed(again: bytes) -> None:
    """What differs in more than the digits, or is not exactly one whole request, is the parser's; then all goes on."""
    assert await known_of([request(b"first"), again, request(b"b")]) <= 1


@pytest.mark.parametrize("sizes", [(12, 9), (9, 12), (60, 9), (9, 60), (10, 9), (9, 10), (12, 0), (0, 12)], ids=str)
@pytest.mark.parametrize("beyond", [-2, -1, 0, 1, 2])
async def test_a_body_ends_where_its_length_says(sizes: tuple[int, int], beyond: int) -> None:
    """However many digits it has, and however the reads are cut."""
    first, then, last = request(b"a" * sizes[0]), request(b"b" * sizes[1]), request(b"c" * 20)
    stream, at = then + last, len(then) + beyond
    assert (await known_of([first, stream[:at], stream[at:], last]) == 3) is not bool(beyond)


async def test_a_length_that_is_none_is_parsed() -> None:
    """Text that an empty rest would have as its own length."""
    first = request(b"a" * 60).replace(b"Length: 60", b"Length: 060")
    assert await known_of([first, request(b"").replace(b"Length: 0", b"Length: -1")]) == 0


@pytest.mark.parametrize(
    "first",
    [
        request(b"", b"host: x\r\ntransfer-encoding: chunked\r\n").replace(b"Content-Length: 0\r\n", b"")
        + b"1\r\na\r\n0\r\n\r\n",
        request(b"a", b"host: x\r\nexpect: 100-continue\r\n"),
        request(b"a", b"host: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n"),
        request(b"a", b"host: x\r\nconnection: close\r\n"),
        request(b"a", b"host: x\r\n", b"POST /fast HTTP/1.0\r\n"),
        request(b"a", b"host: x\r\nlong: " + b"y" * HEAD_BYTES_MAX + b"\r\n"),
        request(b"a", b"host: x\r\nfolded: y\r\n z\r\n"),
        request(b"a", b"host: x\r\n", b"\r\n" + LINE),
        request(b"a").replace(b"host: x\r\n", b"host: x\n"),
        request(b"ab") + b"\r\n\r\n\r\n",
        request(b"a") + request(b"a"),
        LINE + b"host: x\r\n\r\n",
    ],
)
async def test_some_heads_are_never_remembered(first: bytes) -> None:
    """Where a request is more, or other, than lines of fields and a body of known length."""
    assert await known_of([first, first]) == 0


async def test_a_request_in_pieces_is_parsed() -> None:
    """A known head whose body comes later is the parser's; the next whole one is known again."""
    whole = request(b"body")
    assert await known_of([whole, whole[:30], whole[30:], whole[:-2], whole[-2:], whole]) == 1


async def test_a_client_whose_heads_all_differ_is_left_alone() -> None:
    """After some heads in vain no more are remembered; one that came again before counts as none."""
    different = [request(b"a", b"trace: %d\r\n" % number) for number in range(HEAD_TRIES + 1)]
    assert await known_of([*different, different[-1]]) == 0
    assert await known_of([different[0], different[0], *different[1:HEAD_TRIES], different[HEAD_TRIES - 1]]) == 2


PIECES = st.sampled_from(
    [
        LINE,
        b"GET /fast HTTP/1.1\r\n",
        b"POST /slow HTTP/1.1\r\n",
        b"host: x\r\n",
        b"content-length: 3\r\n",
        b"Content-Length: 12\r\n",
        b"content-length: 3 \r\n",
        b"transfer-encoding: chunked\r\n",
        b"connection: close\r\n",
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b"abc",
        b"0\r\n\r\n",
        request(b"abc"),
        request(b"hello"),
        request(b"x\r\n\r\nContent-Length: 3\r\n\r\nabc"),
    ]
)


@given(st.lists(st.lists(PIECES, min_size=1, max_size=6).map(b"".join), min_size=1, max_size=6))
@example([request(b"ab") + b"\r\n\r\n\r\n", request(b"ab") + b"\r\n\r\n\r\n"])
def test_nothing_is_different_for_it(reads: list[bytes]) -> None:
    """Whatever is sent, endpoint and client see what they would with the parser alone, each read sent twice."""
    asyncio.run(known_of([data for data in reads for _ in range(2)]))
