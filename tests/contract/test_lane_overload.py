"""Too much of something on real sockets: who finishes requests is served, who holds things back gives way."""

from __future__ import annotations

import pytest

from shared.http.connection import READ_AT_ONCE
from shared.http.lane import REFUSED_AT_ONCE, Cut, LaneLimits
from tests.support.lane_server import BODY_BYTES_MAX, Client, LaneServer, lane_server, post

HALF = b"POST /fast HTTP/1.1\r\ncontent-length: %d\r\n\r\n"


def half(size: int) -> bytes:
    """A request whose body lacks its last byte; its header alone would be read first."""
    return HALF % (size + 1) + b"x" * size


def is_served(client: Client) -> bool:
    """Whether one request gets its answer."""
    client.post(b"me")
    return client.response()[2] == b'"me"'


def connections(server: LaneServer) -> int:
    """How many are open."""
    return len(server.server.server_state.connections)


# a pipelining flood


def test_a_flood_has_turns() -> None:
    """Thousands of requests that arrive in one read are parsed in turns: another connection's one is not behind them."""
    wire = post(b"flood")
    count = 200_000 // len(wire)
    with lane_server(LaneLimits(pipeline_max=10_000)) as server:
        flooding, good = server.connect(), server.connect()
        with server.busy():
            flooding.send(wire * count)
            good.post(b"me")
        assert good.response()[2] == b'"me"'
        assert [flooding.response()[2] for _ in range(count)] == [b'"flood"'] * count
        order = [bytes(exchange.body) for exchange in server.endpoint.taken]
        assert order.index(b"me") <= 2 * READ_AT_ONCE // len(wire) + 1


@pytest.mark.parametrize("target", [b"/fast", b"/other"])
def test_a_flood_keeps_its_order(target: bytes) -> None:
    """What was read and not parsed yet is answered in its order, also when waiting answers stop the parsing."""
    with lane_server(LaneLimits(pipeline_max=4)) as server:
        client = server.connect()
        texts = [b"%06d" % number + b"x" * 2_000 for number in range(60)]
        client.send(b"".join(post(text, target) for text in texts))
        bodies = [client.response()[2] for _ in texts]
        assert bodies == [b'"%b"' % text if target == b"/fast" else b"slow:" + text for text in texts]
        assert is_served(client)


def test_held_flood_stops_at_the_limit() -> None:
    """Requests beyond the limit of a connection's waiting ones stay unparsed, and go on when answers have gone out."""
    with lane_server(LaneLimits(pipeline_max=4)) as server:
        client = server.connect()
        wire = post(b"hold")
        client.send(wire * 3_000)
        per_read = READ_AT_ONCE // len(wire) + 1
        server.wait_taken(4)
        assert len(server.endpoint.taken) <= 4 + per_read
        for number in range(3_000):
            server.wait_taken(number + 1)
            assert len(server.endpoint.taken) - number <= 4 + per_read
            server.endpoint.taken[number].connection.loop.call_soon_threadsafe(
                server.endpoint.taken[number].reply, server.endpoint.answers.plain(404)
            )
        assert [client.response()[0] for _ in range(3_000)] == [404] * 3_000


# too many connections


def test_an_idle_connection_gives_way() -> None:
    """When there are too many, the connection that has been idle longest makes room for the new one."""
    with lane_server(LaneLimits(connections_max=3, displace_s=0.0)) as server:
        first, second, third = (server.connect() for _ in range(3))
        for client in (first, second, third, first):
            assert is_served(client)
            server.let_time_pass()
        fourth = server.connect()
        assert is_served(fourth)
        second.assert_closed()
        assert all(is_served(client) for client in (first, third))
        assert server.cuts == [Cut.DISPLACED]


@pytest.mark.parametrize("wire", [b"POST /fast HTTP/1.1\r\nhost", half(10)], ids=["head", "body"])
def test_a_slow_request_gives_way(wire: bytes) -> None:
    """A request that has been arriving longest is refused, to be tried again, when a new connection needs its place."""
    with lane_server(LaneLimits(connections_max=2, displace_s=0.0)) as server:
        slow, waiting = server.connect(), server.connect()
        slow.send(wire)
        server.let_time_pass()
        waiting.post(b"hold")
        server.wait_taken(1)
        server.wait_until(lambda: any(c.phase.name != "BETWEEN" for c in server.server.server_state.connections))  # type: ignore[union-attr]
        assert is_served(server.connect())
        assert slow.response()[0] == 500
        slow.assert_closed()
        server.release(0, b"late")
        assert waiting.response()[2] == b"late"


def test_nobody_gives_way_at_once() -> None:
    """A connection that made progress a moment ago keeps its place; the new one hears that there are too many."""
    with lane_server(LaneLimits(connections_max=2, displace_s=600.0)) as server:
        good = [server.connect(), server.connect()]
        assert all(map(is_served, good))
        late = server.connect()
        late.post(b"x")
        assert late.response()[0] == 500
        assert all(map(is_served, good))


def test_connections_over_the_limit_do_not_stay() -> None:
    """Over the limit only a few may stay a moment, to be told; who says nothing is cut off, and so is everybody else."""
    with lane_server(LaneLimits(connections_max=2, displace_s=60.0, linger_s=0.3)) as server:
        good = [server.connect(), server.connect()]
        assert all(map(is_served, good))
        over = [server.connect() for _ in range(REFUSED_AT_ONCE + 20)]
        server.wait_until(lambda: server.cuts.count(Cut.CONNECTIONS_FULL) == len(over))
        server.wait_until(lambda: connections(server) == 2)
        assert all(map(is_served, good))


# unfinished requests


def test_unfinished_requests_are_bounded_in_bytes() -> None:
    """Half-sent bodies of all connections together hold no more than the bound; the oldest are refused, new ones served."""
    bound = 64 * BODY_BYTES_MAX // 4
    with lane_server(LaneLimits(held_bytes_max=bound)) as server:
        slow = [server.connect() for _ in range(40)]
        for client in slow:
            client.send(half(BODY_BYTES_MAX - 1))
            server.let_time_pass()
        server.wait_until(lambda: len(server.counted) >= 20)
        assert server.lane.held_bytes <= bound
        assert slow[0].response()[0] == 500
        slow[0].assert_closed()
        good = server.connect()
        good.send(post(b"me")[:-1])
        good.send(b"e")
        assert good.response()[2] == b'"me"'
        slow[-1].send(b"x")
        assert slow[-1].response()[0] == 200
        for client in slow:
            client.close()
        server.wait_until(lambda: server.lane.held_bytes == 0)


@pytest.mark.parametrize("target", [b"/fast", b"/other"])
def test_either_lane_counts_what_it_holds(target: bytes) -> None:
    """A half-sent body counts with its header and the read that was not parsed yet, and no more when it has ended."""
    with lane_server() as server:
        client = server.connect()
        client.send(half(3_000).replace(b"/fast", target))
        server.wait_until(lambda: 3_000 < server.lane.held_bytes < 3_200)
        client.send(b"x")
        assert client.response()[0] == 200
        server.wait_until(lambda: server.lane.held_bytes == 0)


def test_a_body_behind_a_refusal_holds_nothing() -> None:
    """The body of a request that was refused by its header is thrown away while it arrives."""
    with lane_server() as server:
        client = server.connect()
        client.send(HALF.replace(b"\r\n\r\n", b"\r\nx-refuse: 401\r\n\r\n") % 4_000 + b"x" * 3_000)
        server.wait_until(lambda: server.endpoint.prechecked == 1)
        assert server.lane.held_bytes < 200
        client.send(b"x" * 1_000)
        assert client.response()[0] == 401


# answers that nobody takes


def test_unread_answers_are_bounded_in_bytes() -> None:
    """A client that never reads is cut off when such answers are too many bytes; the others go on."""
    limits = LaneLimits(unread_bytes_max=32_768)
    with lane_server(limits, send_buffer_bytes=4_096) as server:
        deaf = server.connect(receive_buffer_bytes=4_096)
        good = server.connect()
        deaf.send(post(b"x" * 4_000) * 60)
        server.wait_until(lambda: Cut.UNREAD in server.cuts)
        server.wait_until(lambda: connections(server) == 1)
        assert is_served(good)


def test_last_answers_that_nobody_takes() -> None:
    """A connection that is to close, but whose last answers stay untaken, is cut off too."""
    with lane_server(LaneLimits(write_stall_s=0.4), send_buffer_bytes=4_096) as server:
        deaf = server.connect(receive_buffer_bytes=4_096)
        deaf.send(post(b"x" * 4_000) * 9 + post(b"x" * 4_000, fields=b"connection: close\r\n"))
        server.wait_taken(10)
        server.wait_until(lambda: server.cuts == [Cut.STALLED])
        server.wait_until(lambda: connections(server) == 0)
