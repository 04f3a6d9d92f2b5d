"""The fast lane keeps HTTP/1.1 as uvicorn gives it, and adds limits, order and JSON for what is malformed."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import Iterator

import pytest

from shared.http.lane import LaneLimits
from tests.support.lane_server import BODY_BYTES_MAX, Client, LaneServer, lane_server, post


@pytest.fixture(scope="module")
def shared_server() -> Iterator[LaneServer]:
    """One server for all tests that need no limits of their own."""
    with lane_server() as server:
        yield server


@pytest.fixture
def server(shared_server: LaneServer) -> LaneServer:
    """The shared server, with nothing taken yet."""
    shared_server.endpoint.taken.clear()
    shared_server.slow_started.clear()
    shared_server.counted.clear()
    shared_server.endpoint.prechecked = 0
    return shared_server


@pytest.fixture
def client(server: LaneServer) -> Iterator[Client]:
    """A fresh connection."""
    connection = server.connect()
    yield connection
    connection.close()


def assert_json_error(body: bytes, code: str) -> None:
    """The body has exactly the two keys of an error."""
    assert json.loads(body).keys() == {"code", "description"}
    assert json.loads(body)["code"] == code


# keep-alive and versions


def test_keep_alive(client: Client) -> None:
    """A connection serves one request after another, each with JSON headers."""
    for number in range(3):
        client.post(b"n%d" % number)
        status, fields, body = client.response()
        assert (status, body) == (200, b'"n%d"' % number)
        assert fields[b"content-type"] == b"application/json"
        assert b"date" in fields
        assert b"connection" not in fields


def test_connection_close(client: Client) -> None:
    """`Connection: close` is answered, announced and obeyed."""
    client.post(b"x", fields=b"Connection: close\r\n")
    assert client.response()[1][b"connection"] == b"close"
    client.assert_closed()


def test_nothing_is_taken_after_connection_close(server: LaneServer, client: Client) -> None:
    """A request behind `Connection: close` on the same connection is not taken."""
    client.send(post(b"a", fields=b"Connection: close\r\n") + post(b"b"))
    assert client.response()[2] == b'"a"'
    client.assert_closed()
    assert len(server.endpoint.taken) == 1


@pytest.mark.parametrize("fields", [b"", b"Connection: keep-alive\r\n"])
def test_http_1_0(client: Client, fields: bytes) -> None:
    """HTTP/1.0 gets its answer, then the connection closes."""
    client.send(b"POST /fast HTTP/1.0\r\n" + fields + b"content-length: 1\r\n\r\nx")
    status, answer, _ = client.response()
    assert (status, answer[b"connection"]) == (200, b"close")
    client.assert_closed()


def test_query_and_absolute_target(server: LaneServer, client: Client) -> None:
    """A query does not change the endpoint; an absolute target is served by the other lane."""
    client.post(b"x", target=b"/fast?a=1")
    assert client.response()[2] == b'"x"'
    client.post(b"x", target=b"http://x/fast")
    assert client.response()[2] == b"slow:x"
    assert server.slow_started == ["/fast"]


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"HEAD"])
def test_other_methods_reach_the_endpoint(client: Client, method: bytes) -> None:
    """Any other method is the endpoint's to refuse; HEAD has no body."""
    client.send(method + b" /fast HTTP/1.1\r\nhost: x\r\n\r\n")
    status, fields, body = client.response(head_only=method == b"HEAD")
    assert (status, fields[b"allow"]) == (405, b"POST")
    assert int(fields[b"content-length"]) > 0
    client.post(b"next")
    assert client.response()[2] == b'"next"'
    assert method == b"HEAD" or json.loads(body)["code"] == "405"


# bodies


def test_body_byte_by_byte(client: Client) -> None:
    """A request whose every byte comes alone is one request."""
    for byte in post(b"hello"):
        client.send(bytes([byte]))
    assert client.response()[2] == b'"hello"'


def test_chunked_in_odd_pieces(client: Client) -> None:
    """Chunks cut anywhere, with extensions, are one body."""
    wire = b"POST /fast HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n1\r\nd\r\n00c\r\nefghijklmnop\r\n0\r\n\r\n"
    for start in range(0, len(wire), 3):
        client.send(wire[start : start + 3])
    assert client.response()[2] == b'"abcdefghijklmnop"'


def test_trailers_are_not_headers(server: LaneServer, client: Client) -> None:
    """A trailer becomes a header field neither of its own request nor of the next."""
    chunked = b"POST /fast HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-refuse: 401\r\n\r\n"
    client.send(chunked + post(b"b"))
    assert client.response()[2] == b'"a"'
    assert client.response()[2] == b'"b"'
    assert all(b"x-refuse" not in dict(exchange.headers) for exchange in server.endpoint.taken)


def test_empty_header_value(client: Client, server: LaneServer) -> None:
    """A header without a value does not swallow the next one."""
    client.post(b"a", fields=b"x-empty:\r\nx-full: y\r\n")
    client.response()
    fields = dict(server.endpoint.taken[0].headers)
    assert (fields[b"x-empty"], fields[b"x-full"]) == (b"", b"y")


@pytest.mark.parametrize("chunked", [True, False])
def test_oversized_body_is_answered_while_it_comes(client: Client, chunked: bool) -> None:
    """A body over the limit, announced or streamed, is answered before it ends, and the answer is not lost."""
    head = b"transfer-encoding: chunked" if chunked else b"content-length: 10000000"
    client.send(b"POST /fast HTTP/1.1\r\n" + head + b"\r\n\r\n")
    piece = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    for _ in range(20):
        client.send(piece)
    status, fields, body = client.response()
    assert (status, fields[b"connection"]) == (413, b"close")
    assert_json_error(body, "413")
    client.assert_closed()


@pytest.mark.parametrize(("size", "status"), [(BODY_BYTES_MAX, 200), (BODY_BYTES_MAX + 1, 413)])
def test_body_limit_is_exact(client: Client, size: int, status: int) -> None:
    """The limit itself passes, one byte more does not."""
    client.post(b"x" * size)
    assert client.response()[0] == status


def test_early_refusal_keeps_the_connection(server: LaneServer, client: Client) -> None:
    """A request refused by its header alone is answered after its body, which is dropped; the next one is served."""
    client.send(b"POST /fast HTTP/1.1\r\nx-refuse: 401\r\ncontent-length: 6\r\n\r\n")
    server.wait_until(lambda: server.endpoint.prechecked == 1)
    client.send(b"abc")
    client.send(b"def")
    assert client.response()[0] == 401
    assert server.endpoint.taken == []
    client.post(b"next")
    assert client.response()[2] == b'"next"'


# Expect


def test_expect_100_continue(client: Client) -> None:
    """A client that waits for 100 Continue gets it once, then its answer."""
    client.send(b"POST /fast HTTP/1.1\r\nExpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
    assert client.response()[0] == 100
    client.send(b"o")
    client.send(b"k")
    assert client.response()[2] == b'"ok"'


def test_expect_is_refused_without_the_body(client: Client) -> None:
    """A refusal replaces 100 Continue; the connection closes, since the body may or may not follow."""
    client.send(b"POST /fast HTTP/1.1\r\nExpect: 100-continue\r\nx-refuse: 401\r\ncontent-length: 2\r\n\r\n")
    status, fields, _ = client.response()
    assert (status, fields[b"connection"]) == (401, b"close")
    client.close()


def test_expect_waits_for_earlier_answers(server: LaneServer, client: Client) -> None:
    """100 Continue never overtakes the answer of an earlier request."""
    head = b"POST /fast HTTP/1.1\r\nExpect: 100-continue\r\ncontent-length: 1\r\n\r\n"
    client.send(post(b"hold") + head)
    server.wait_taken(1)
    server.release(0, b"first")
    assert client.response()[2] == b"first"
    assert client.response()[0] == 100
    client.send(b"x")
    assert client.response()[2] == b'"x"'


def test_expect_in_http_1_0_is_ignored(client: Client) -> None:
    """HTTP/1.0 knows no 100 Continue."""
    client.send(b"POST /fast HTTP/1.0\r\nExpect: 100-continue\r\ncontent-length: 1\r\n\r\n")
    client.send(b"x")
    assert client.response()[0] == 200


def test_expect_on_the_other_lane(client: Client) -> None:
    """The server's own 100 Continue still works."""
    client.send(b"POST /other HTTP/1.1\r\nExpect: 100-continue\r\ncontent-length: 1\r\n\r\n")
    assert client.response()[0] == 100
    client.send(b"x")
    assert client.response()[2] == b"slow:x"


# pipelining


def test_pipelined_answers_keep_their_order(server: LaneServer, client: Client) -> None:
    """Answers that come in reverse order are written in the order of the requests."""
    client.send(b"".join(post(b"hold%d" % number) for number in range(5)))
    server.wait_taken(5)
    for number in reversed(range(5)):
        server.release(number, b"%d" % number)
    assert [client.response()[2] for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


def test_immediate_answer_waits_for_earlier_one(server: LaneServer, client: Client) -> None:
    """A refusal that needs no waiting does not overtake a click that waits for its acknowledgement."""
    client.send(post(b"hold") + post(b"now"))
    server.wait_taken(2)
    server.release(0, b"first")
    assert [client.response()[2], client.response()[2]] == [b"first", b'"now"']


def test_mixed_lanes_keep_their_order(server: LaneServer, client: Client) -> None:
    """An ASGI request starts when all before it are answered; fast ones behind it wait."""
    requests = [post(b"hold"), post(b"a", b"/s1"), post(b"fast1"), post(b"b", b"/s2"), post(b"fast2"), post(b"fast3")]
    client.send(b"".join(requests))
    server.wait_taken(1)
    assert server.slow_started == []
    server.release(0, b"held")
    answers = [client.response()[2] for _ in requests]
    assert answers == [b"held", b"slow:a", b'"fast1"', b"slow:b", b'"fast2"', b'"fast3"']


@pytest.mark.parametrize("seed", range(15))
def test_random_pipelines(client: Client, seed: int) -> None:
    """Any mixture of requests, cut anywhere, gets exactly its answers in order."""
    rng = random.Random(seed)
    wire, expected = b"", []
    for number in range(40):
        text = b"n%d-%d" % (seed, number)
        match rng.randrange(6):
            case 0:
                wire, answer = wire + post(text, b"/slow"), (200, b"slow:" + text)
            case 1:
                wire, answer = wire + post(b"bug"), (500, b"")
            case 2:
                wire, answer = wire + post(text, fields=b"x-refuse: 401\r\n"), (401, b"")
            case 3:
                head = b"POST /fast HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
                wire, answer = wire + head + b"%x\r\n%b\r\n0\r\nx: y\r\n\r\n" % (len(text), text), (200, b'"%b"' % text)
            case 4:
                upgrade = b"connection: upgrade\r\nupgrade: h2c\r\n"
                wire, answer = wire + post(text, fields=upgrade), (200, b'"%b"' % text)
            case _:
                wire, answer = wire + post(text), (200, b'"%b"' % text)
        expected.append(answer)
    while wire:
        cut = rng.choice((1, 7, 60, 500, 5_000))
        client.send(wire[:cut])
        wire = wire[cut:]
    for status, body in expected:
        found = client.response()
        assert found[0] == status
        assert status != 200 or found[2] == body


def test_asgi_answer_before_its_body(server: LaneServer, client: Client) -> None:
    """An application that answers early does not disturb the request behind its body."""
    client.send(b"POST /early HTTP/1.1\r\ncontent-length: 4\r\n\r\n")
    assert client.response()[2] == b"slow:"
    client.send(b"body" + post(b"next"))
    assert client.response()[2] == b'"next"'


def test_asgi_answer_that_closes_is_not_lost(client: Client) -> None:
    """An application that answers early and closes lingers, so that a client that goes on sending reads the answer."""
    client.send(b"POST /close HTTP/1.1\r\ncontent-length: 10000000\r\n\r\n")
    client.send_often(b"x" * 4096, 20)
    assert client.response()[2] == b"slow:"
    client.send_often(b"x" * 4096, 20)
    client.assert_closed()


def test_reading_pauses_while_answers_wait() -> None:
    """No more than the limit of one connection's requests wait at a time, apart from what one read brought."""
    with lane_server(LaneLimits(pipeline_max=4)) as server:
        client = server.connect()
        for number in range(30):
            client.post(b"hold" + b"x" * 3000)
            server.wait_until(lambda number=number: len(server.endpoint.taken) >= min(number + 1, 4))  # type: ignore[misc]
        assert len(server.endpoint.taken) == 4
        for number in range(30):
            server.wait_taken(number + 1)
            server.release(number, b"%d" % number)
        assert [client.response()[2] for _ in range(30)] == [b"%d" % number for number in range(30)]


def test_client_that_reads_nothing_is_held_back() -> None:
    """Answers that nobody takes stop the reading, and end in a reset when that lasts."""
    with lane_server(LaneLimits(write_stall_s=0.5)) as server:
        client = server.connect()
        request = post(b"x" * BODY_BYTES_MAX) * 16
        with pytest.raises(OSError):  # noqa: PT011 reset or broken pipe, as the kernel likes
            client.send_often(request, 10_000)
        server.wait_until(lambda: not server.server.server_state.connections)
        assert len(server.endpoint.taken) < 10_000


# half-closed sockets and disconnections


def test_half_closed_socket_gets_its_answer(server: LaneServer, client: Client) -> None:
    """A client that shut down its sending side still gets what it asked for."""
    client.send(post(b"hold1") + post(b"hold2"))
    server.wait_taken(2)
    client.sock.shutdown(1)
    server.wait_until(lambda: all(item.ended for item in server.server.server_state.connections))  # type: ignore[union-attr]
    server.release(0, b"one")
    server.release(1, b"two")
    assert client.response()[2] == b"one"
    status, fields, body = client.response()
    assert (status, body, fields[b"connection"]) == (200, b"two", b"close")
    client.assert_closed()


def test_half_closed_on_the_other_lane(client: Client) -> None:
    """The same for a request that ASGI answers."""
    client.post(b"x", target=b"/other")
    client.sock.shutdown(1)
    assert client.response()[2] == b"slow:x"
    client.assert_closed()


@pytest.mark.parametrize("target", [b"/fast", b"/other"])
def test_end_in_mid_body(server: LaneServer, client: Client, target: bytes) -> None:
    """A request that never ends is not taken and gets no answer."""
    client.send(b"POST " + target + b" HTTP/1.1\r\ncontent-length: 9\r\n\r\nhalf")
    client.sock.shutdown(1)
    client.assert_closed()
    assert server.endpoint.taken == []


@pytest.mark.parametrize("reset", [True, False])
def test_answer_for_a_client_that_left(server: LaneServer, client: Client, reset: bool) -> None:
    """An acknowledgement for a client that closed or reset its connection breaks nothing and leaves no connection."""
    client.post(b"hold")
    server.wait_taken(1)
    if reset:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    connection = server.endpoint.taken[0].connection
    server.wait_until(lambda: connection.ended)
    server.release(0, b"late")
    server.wait_until(lambda: connection not in server.server.server_state.connections)


# malformed requests

MALFORMED = {
    "garbage": b"\x00\x01\x02garbage\r\n\r\n",
    "tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "unknown method": b"FROB /fast HTTP/1.1\r\n\r\n",
    "version": b"POST /fast HTTP/3.7\r\n\r\n",
    "length and chunked": b"POST /fast HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": b"POST /fast HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /fast HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "same length twice": b"POST /fast HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
    "signed length": b"POST /fast HTTP/1.1\r\ncontent-length: +1\r\n\r\na",
    "list of lengths": b"POST /fast HTTP/1.1\r\ncontent-length: 1, 1\r\n\r\na",
    "chunked not last": b"POST /fast HTTP/1.1\r\ntransfer-encoding: chunked, identity\r\n\r\n",
    "identity": b"POST /fast HTTP/1.1\r\ntransfer-encoding: identity\r\n\r\n",
    "xchunked": b"POST /fast HTTP/1.1\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunk size": b"POST /fast HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "negative chunk": b"POST /fast HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
    "huge chunk size": b"POST /fast HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "space before colon": b"POST /fast HTTP/1.1\r\ncontent-length : 1\r\n\r\na",
    "folded header": b"POST /fast HTTP/1.1\r\na: b\r\n content-length: 1\r\n\r\n",
    "bare line feeds": b"POST /fast HTTP/1.1\na: b\n\n",
    "NUL in a value": b"POST /fast HTTP/1.1\r\na: \x00\r\n\r\n",
    "connect": b"CONNECT x:1 HTTP/1.1\r\n\r\n",
    "chunk on the other lane": b"POST /other HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "target": b"GET http://[::1 HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("wire", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_requests(server: LaneServer, client: Client, wire: bytes) -> None:
    """What is not HTTP, or reads differently to different parsers, is 400 in JSON, and nothing behind it is served."""
    client.send(wire + post(b"smuggled"))
    status, fields, body = client.response()
    assert (status, fields[b"connection"]) == (400, b"close")
    assert_json_error(body, "400")
    assert len(server.counted) == 1
    client.sock.shutdown(1)
    client.assert_closed()
    assert server.endpoint.taken == []


@pytest.mark.parametrize("target", [b"/fast", b"/other"])
def test_malformed_behind_good_ones(server: LaneServer, client: Client, target: bytes) -> None:
    """Good requests before a malformed one get their answers first."""
    client.send(post(b"hold") + post(b"x", target) + b"\x00\x01")
    server.wait_taken(1)
    server.release(0, b"held")
    assert client.response()[2] == b"held"
    assert client.response()[0] == 200
    assert client.response()[0] == 400
    client.assert_closed()


@pytest.mark.parametrize(
    "head",
    [
        b"POST /fast HTTP/1.1\r\na: " + b"x" * 40_000 + b"\r\n\r\n",
        b"POST /fast HTTP/1.1\r\n" + b"a: b\r\n" * 8_000 + b"\r\n",
        b"POST /" + b"x" * 40_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /fast HTTP/1.1\r\na: " + b"x" * 40_000,
        b"POST /fast HTTP/1.1\r\n" + b"x" * 40_000,
    ],
    ids=["value", "many", "target", "endless value", "endless name"],
)
@pytest.mark.parametrize("piece", [1_000, 100_000])
def test_oversized_head(server: LaneServer, client: Client, head: bytes, piece: int) -> None:
    """Header fields over the limit, finished or not, in one piece or many, are 400 in JSON."""
    for start in range(0, len(head), piece):
        client.send(head[start : start + piece])
    status, _, body = client.response()
    assert status == 400
    assert "header" in json.loads(body)["description"]
    client.assert_closed()
    assert server.endpoint.taken == []


def test_bug_in_the_endpoint(client: Client) -> None:
    """An unhandled error is 500 in JSON, and the connection's next request is served."""
    client.send(post(b"bug") + post(b"next"))
    status, _, body = client.response()
    assert status == 500
    assert_json_error(body, "500")
    assert client.response()[2] == b'"next"'


# upgrades


@pytest.mark.parametrize("target", [b"/fast", b"/other"])
@pytest.mark.parametrize("cut", [20, 100, 10_000])
def test_upgrade_is_ignored(client: Client, target: bytes, cut: int) -> None:
    """A request that asks for h2c, as Java's client does by default, keeps its body; so does the one behind it."""
    fields = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
    wire = post(b"one", target, fields) + post(b"two")
    client.send(wire[:cut])
    client.send(wire[cut:])
    assert client.response()[2] in (b'"one"', b"slow:one")
    assert client.response()[2] == b'"two"'


# time


def test_idle_connections_close() -> None:
    """A connection without a request is closed after the keep-alive time, before its first one too."""
    with lane_server(LaneLimits(keep_alive_s=0.4)) as server:
        silent, used = server.connect(), server.connect()
        used.post(b"x")
        assert used.response()[0] == 200
        silent.assert_closed()
        used.assert_closed()


def test_waiting_for_an_answer_is_not_idle() -> None:
    """The keep-alive time does not run while an answer is owed."""
    with lane_server(LaneLimits(keep_alive_s=0.3)) as server:
        idle, waiting = server.connect(), server.connect()
        waiting.post(b"hold")
        server.wait_taken(1)
        idle.assert_closed()
        server.release(0, b"late")
        assert waiting.response()[2] == b"late"


@pytest.mark.parametrize(
    "half",
    [
        b"POST /fast HTTP/1.1\r\ncontent-length: 9\r\n\r\nhalf",
        b"POST /fast HTTP/1.1\r\nhost",
        b"POST /other HTTP/1.1\r\ncontent-length: 9\r\n\r\nhalf",
    ],
    ids=["body", "head", "other lane"],
)
def test_slow_requests_time_out(half: bytes) -> None:
    """A request that does not end in time is 408 in JSON, and the connection closes."""
    with lane_server(LaneLimits(request_s=0.4)) as server:
        client = server.connect()
        client.send(half)
        status, _, body = client.response()
        assert status == 408
        assert_json_error(body, "408")
        client.assert_closed()


def test_lingering_ends() -> None:
    """A refused client that neither stops sending nor closes is cut off."""
    with lane_server(LaneLimits(linger_s=0.3)) as server:
        client = server.connect()
        client.send(b"POST /fast HTTP/1.1\r\ncontent-length: 10000000\r\n\r\n")
        assert client.response()[0] == 413
        server.wait_until(lambda: not server.server.server_state.connections)


def test_connection_limit() -> None:
    """A connection over the limit gets one refusal in JSON; the others go on."""
    with lane_server(LaneLimits(connections_max=2)) as server:
        first, second = server.connect(), server.connect()
        for client in (first, second):
            client.post(b"x")
            assert client.response()[0] == 200
        for target in (b"/fast", b"/other"):
            third = server.connect()
            third.post(b"x", target)
            status, fields, body = third.response()
            assert (status, fields[b"connection"]) == (500, b"close")
            assert_json_error(body, "500")
            third.close()
        first.post(b"y")
        assert first.response()[2] == b'"y"'


# stopping


def test_graceful_stop_finishes_accepted_work() -> None:
    """A stop closes idle connections at once and answers what waits or is half read, announcing the end."""
    with lane_server() as server:
        idle, held, half, other = (server.connect() for _ in range(4))
        idle.post(b"x")
        assert idle.response()[0] == 200
        held.post(b"hold")
        half.send(post(b"half-read")[:-4])
        other.send(post(b"body", b"/other")[:-1])
        server.wait_until(lambda: server.endpoint.prechecked == 1 and len(server.endpoint.taken) == 2)
        server.wait_until(lambda: server.slow_started == ["/other"])
        server.server.should_exit = True
        idle.assert_closed()
        half.send(b"read")
        other.send(b"y")
        server.release(1, b"done")
        for client, text in ((held, b"done"), (half, b'"half-read"'), (other, b"slow:body")):
            status, fields, body = client.response()
            assert (status, body, fields[b"connection"]) == (200, text, b"close")
            client.assert_closed()


def test_stop_has_a_deadline() -> None:
    """A connection that never ends does not hold up the stop for ever."""
    with lane_server(graceful_s=1) as server:
        client = server.connect()
        client.send(b"POST /fast HTTP/1.1\r\ncontent-length: 9\r\n\r\nhalf")
        server.wait_until(lambda: server.endpoint.prechecked == 1)
