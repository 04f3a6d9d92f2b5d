"""A head that comes again is known without being parsed, and nothing is different for it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.http.lane import LaneLimits
from shared.http.repeat import HEAD_BYTES_MAX, HEAD_TRIES, VARYING_MAX
from tests.support.wire import Echo, connect

LINE = b"POST /fast HTTP/1.1\r\n"


def request(body: bytes, fields: bytes = b"host: x\r\n", line: bytes = LINE, after: bytes = b"") -> bytes:
    """A whole request."""
    return b"%b%bContent-Length: %d\r\n%b\r\n%b" % (line, fields, len(body), after, body)


async def serve(
    reads: list[bytes], *, remembers: bool, limits: LaneLimits | None = None
) -> tuple[Echo, list[bytes], bool]:
    """What an endpoint takes and a client gets for these reads; with the parser alone unless it `remembers`."""
    echo = Echo()
    connection, wire = connect({b"/fast": echo}, limits)
    if not remembers:
        connection.head_tries = 0
    for data in reads:
        connection.data_received(data)
        await asyncio.sleep(0)
    return echo, wire.written, wire.closed


async def known_of(reads: list[bytes], limits: LaneLimits | None = None) -> int:
    """How many of the requests were known; the outcome is that of the parser."""
    echo, *outcome = await serve(reads, remembers=True, limits=limits)
    parsed, *expected = await serve(reads, remembers=False, limits=limits)
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


def varied(body: bytes, trace: bytes = b"t1", ip: bytes = b"192.0.2.1", more: bytes = b"") -> bytes:
    """A request as it comes through a proxy that traces."""
    fields = b"Host: x\r\nX-Trace:  %b\r\nAuthorization: Bearer s\r\n" % trace
    return request(body, fields, after=b"x-forwarded-for:%b\r\n%b" % (ip, more))


async def test_fields_that_differ_each_time_are_learned() -> None:
    """From the second request on it is known which values differ, and each request has its own; then a further one."""
    reads = [varied(b"a" * number, b"t%d" % 7**number) for number in range(12)]
    reads += [varied(b"%d" % number, b"u%d" % number, b"2001:db8::%d, 192.0.2.7" % number) for number in range(4)]
    assert await known_of(reads) == len(reads) - 3


async def test_a_value_that_differed_may_differ_again() -> None:
    """Though it was the same in the two heads of which a further field was learned."""
    reads = [varied(b"a"), varied(b"b", b"t2"), varied(b"c", b"t2", b"192.0.2.2"), varied(b"d", b"t3", b"192.0.2.3")]
    assert await known_of(reads) == 1


async def test_no_more_than_some_fields_are_learned() -> None:
    """With too many that differ a connection is left to the parser."""
    for count, known in (VARYING_MAX, 2), (VARYING_MAX + 1, 0):
        fields = [b"".join(b"f%d: %d\r\n" % (name, value) for name in range(count)) for value in range(4)]
        assert await known_of([request(b"a", each) for each in fields]) == known


@pytest.mark.parametrize(
    "again",
    [
        varied(b"a", b""),
        varied(b"a", b" "),
        varied(b"a", b" t9"),
        varied(b"a", b"\tt9"),
        varied(b"a", b"t9 "),
        varied(b"a", b"t9\t"),
        varied(b"a", b"t\t9"),
        varied(b"a", b"t\x00"),
        varied(b"a", b"t\x7f"),
        varied(b"a", b"caf\xe9"),
        varied(b"a", b"t\r9"),
        varied(b"a", b"t\n9"),
        varied(b"a", b"t9\n"),
        varied(b"a", b"t9\r\n folded"),
        varied(b"a", b"t9\r\nAuthorization: Bearer z"),
        varied(b"a", b"t9\r\nTransfer-Encoding: chunked"),
        varied(b"a", b"t9\r\nContent-Length: 1"),
        varied(b"a", b"t9\r\n\r\nGET /fast HTTP/1.1"),
        varied(b"a", ip=b"9\r\n\r\nGET /fast HTTP/1.1\r\nx:"),
        varied(b"a", b"y" * HEAD_BYTES_MAX),
        varied(b"a", more=b"connection: close\r\n"),
        varied(b"a").replace(b"X-Trace", b"x-trace"),
        varied(b"a").replace(b"X-Trace:", b"X-Trace :"),
        varied(b"a").replace(b"Bearer s", b"Bearer z"),
        varied(b"a" * 65),
        varied(b"a") + varied(b"b", b"t3"),
        varied(b"a") + b"\r\n",
        varied(b"a")[:-1],
        varied(b"ab").replace(b"Length: 2", b"Length: 1"),
        varied(b"ab").replace(b"Length: 2", b"Length: +2"),
        varied(b"ab").replace(b"Length: 2", b"Length: 2 "),
        varied(b"ab").replace(b"Length: 2", b"Length:  2"),
        varied(b"ab").replace(b"Length: 2", b"Length: "),
        varied(b"ab").replace(b"Length: 2", b"Length: 000000000000000002"),
        varied(b"").replace(b"Length: 0", b"Length: -1"),
    ],
)
async def test_what_is_more_than_another_value_is_parsed(again: bytes) -> None:
    """The parser says what it is; and that it comes a second time changes nothing."""
    reads = [varied(b"first", b"t2"), varied(b"second", b"t3", b"10.0.0.1"), varied(b"third", b"t4")]
    assert await known_of([*reads, again, varied(b"b", b"t5")]) <= 2
    await known_of([*reads, again, again, varied(b"b", b"t5")])


async def test_only_values_that_were_read_as_they_stand_vary() -> None:
    """Whatever the parser makes of spaces behind a value, and not where another field stands."""
    await known_of([varied(b"a", b"t1 "), varied(b"b", b"t2 "), varied(b"c", b"t2 zz"), varied(b"d", b"t2 zz")])
    assert await known_of([request(b"a", field) for field in (b"one: 1\r\n", b"two: 1\r\n", b"two: 2\r\n")]) == 0


async def test_a_head_that_grows_too_long_is_parsed() -> None:
    """Its own limit, and with it the connection's, holds for each head by itself."""
    size = len(varied(b"", b""))
    for length, known in (HEAD_BYTES_MAX - size, 1), (HEAD_BYTES_MAX - size + 1, 0):
        assert await known_of([varied(b"a"), varied(b"b", b"t2"), varied(b"", b"y" * length)]) == known


@pytest.mark.parametrize("limit", [1_024, 2_048, 2_056, 2_070, 2_100])
async def test_the_limit_of_heads_holds_for_known_ones(limit: int) -> None:
    """The parser counts names, values and four bytes a field, which can be more than the bytes of the head."""
    fields = b"".join(b"f%d:1\r\n" % number for number in range(40))
    start = len(request(b"", fields, after=b"t:\r\n").replace(b": ", b":"))
    limits = LaneLimits(head_bytes_max=limit)
    for size in range(limit - 80, limit + 1):
        values = [b"1", b"2", b"3" * (size - start)]
        reads = [request(b"", fields, after=b"t:%b\r\n" % value).replace(b": ", b":") for value in values]
        await known_of(reads, limits)
        longer = b"a" * 10
        same = [request(body, fields, after=b"t:%b\r\n" % values[2]).replace(b": ", b":") for body in (b"", longer)]
        await known_of(same, limits)


@pytest.mark.parametrize("name", [b"Connection", b"Proxy-Connection"])
async def test_a_field_that_frames_requests_never_varies(name: bytes) -> None:
    """What the parser itself reads is compared byte for byte."""
    reads = [request(b"a", b"%b: %b\r\n" % (name, value)) for value in (b"keep-alive", b"te, keep-alive", b"close")]
    assert await known_of([*reads, reads[0]]) == 0


async def test_a_client_whose_heads_all_differ_is_left_alone() -> None:
    """After some heads in vain no more are remembered; one that came again before counts as none."""
    different = [request(b"a", b"trace-%d: x\r\n" % number) for number in range(HEAD_TRIES + 1)]
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


VALUES = (
    st.binary(max_size=12)
    | st.text(st.characters(codec="ascii"), max_size=12).map(str.encode)
    | st.sampled_from([b"t1", b"t2"])
)


@given(
    st.lists(st.tuples(st.binary(max_size=20), VALUES, VALUES), min_size=3, max_size=7),
    st.integers(0, 6),
    st.integers(1, 90),
)
def test_nothing_is_different_for_values(requests: list[tuple[bytes, bytes, bytes]], cut: int, at: int) -> None:
    """Whatever stands where values differ, and wherever a read ends."""
    reads = [varied(b"a"), varied(b"b", b"t2", b"192.0.2.2"), *(varied(*each) for each in requests)]
    if cut < len(reads):
        reads[cut : cut + 1] = [reads[cut][:at], reads[cut][at:]]
    asyncio.run(known_of(reads))
