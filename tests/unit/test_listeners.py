"""Sockets of several workers on one port: shared evenly, closed with their worker, never none."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest

from ingest_api.listeners import Listeners, listen
from shared.settings import ApiSettings

BURST: Final = 64
WORKERS: Final = 2


class Port:
    """A port of its own with the listeners of two workers, and clients that stay connected."""

    def __init__(self, host: str, stack: ExitStack) -> None:
        self._stack = stack
        self._host = host
        first = listen(ApiSettings(api_host=host, api_port=0))
        self.number = first.getsockname()[1]
        self.listeners = Listeners(first, WORKERS)

    def connect(self, count: int) -> None:
        """That many clients connect."""
        for _ in range(count):
            self._stack.enter_context(socket.create_connection((self._host, self.number), timeout=5))

    def accepted(self, number: int) -> int:
        """How many connections wait for a worker; they are taken."""
        listener = self.listeners.of(number)
        listener.settimeout(0)
        for count in range(BURST + 1):
            try:
                self._stack.enter_context(listener.accept()[0])
            except BlockingIOError:
                return count
        raise AssertionError("more connections than clients")


@pytest.fixture(params=["127.0.0.1", "0.0.0.0", "::1", "::"])
def port(request: pytest.FixtureRequest) -> Iterator[Port]:
    """For each of the two families, one address and all of them."""
    with ExitStack() as stack:
        made = Port(request.param, stack)
        yield made
        made.listeners.close()


def test_connections_are_spread(port: Port) -> None:
    """Of 64 connections each of two workers has its share (8 or fewer: once in 10^9)."""
    port.connect(BURST)
    shares = [port.accepted(number) for number in range(WORKERS)]
    assert sum(shares) == BURST
    assert min(shares) > 8


@pytest.mark.parametrize("dead", range(WORKERS))
def test_a_dead_worker_gets_no_connection(port: Port, dead: int) -> None:
    """All go to the other one, until the next life listens; then both have some again."""
    other = 1 - dead
    port.listeners.end(dead)
    port.connect(BURST)
    assert port.accepted(other) == BURST
    restarted = port.listeners.of(dead)
    port.connect(BURST)
    assert port.accepted(other) == BURST
    restarted.listen()
    port.connect(BURST)
    shares = [port.accepted(number) for number in range(WORKERS)]
    assert sum(shares) == BURST
    assert min(shares) > 8


def test_the_last_socket_stays(port: Port) -> None:
    """When all workers have died connections wait; when the others are starting, too."""
    port.listeners.end(0)
    port.connect(1)
    port.listeners.end(1)
    port.connect(1)
    assert port.accepted(0) == 2
    port.listeners.of(1)
    port.listeners.end(0)
    port.connect(1)
    assert port.accepted(0) == 1


def test_an_end_is_told_twice(port: Port) -> None:
    """By the worker that stops, and by its end."""
    for _ in range(2):
        port.listeners.end(1)
    port.connect(1)
    assert port.accepted(0) == 1


def test_one_that_hangs_gets_no_connection(port: Port) -> None:
    """Although its process still holds the socket."""
    with port.listeners.of(1).dup():
        port.listeners.end(1, hangs=True)
        port.connect(BURST)
        assert port.accepted(0) == BURST


def test_what_was_connected_to_the_former_instance_is_no_obstacle() -> None:
    """Its connections, which nobody shared the port with, may linger for a minute."""
    with socket.create_server(("127.0.0.1", 0)) as former:
        host, number = former.getsockname()
        with socket.create_connection((host, number)) as client:
            former.accept()[0].close()
            assert client.recv(1) == b""
    listeners = Listeners(listen(ApiSettings(api_host=host, api_port=number)), WORKERS)
    listeners.close()


@pytest.mark.parametrize("ended", [(), (0,), (1,), (0, 1)])
def test_a_second_instance_is_told(port: Port, ended: tuple[int, ...]) -> None:
    """The port is not shared with another instance, whoever has died meanwhile."""
    for number in ended:
        port.listeners.end(number)
    host, number = port.listeners.of(0).getsockname()[:2]
    with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        listen(ApiSettings(api_host=host, api_port=number))


def test_closed(port: Port) -> None:
    """Nobody listens behind the end."""
    port.listeners.of(1)
    port.listeners.close()
    with pytest.raises(ConnectionRefusedError):
        port.connect(1)
