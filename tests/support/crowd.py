"""Clients that a server must bear: silent, slow, deaf and greedy ones, all at once, and what they do to its memory."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
from collections.abc import Iterator
from itertools import cycle

DRIP_S = 0.05
"""Seconds between two bytes that slow clients send; each of them gets one now and then."""


def raise_own_file_limit() -> None:
    """Allow this process as many files as it may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def resident_mib(pid: int) -> int:
    """Resident memory of a process, in MiB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:  # noqa: PTH123 a pseudo-file
        (line,) = (line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) // 1024


class Crowd:
    """Badly behaved clients of one port, driven by one thread, until closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: list[socket.socket] = []
        self._slow: list[tuple[socket.socket, Iterator[int]]] = []
        self._greedy: list[tuple[socket.socket, bytes]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._drive)
        self._thread.start()

    def _connect(self, receive_buffer_bytes: int = 0) -> socket.socket:
        sock = socket.socket()
        if receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        sock.settimeout(10.0)
        sock.connect(("127.0.0.1", self._port))
        sock.settimeout(0)
        self._sockets.append(sock)
        return sock

    def add_silent(self, count: int) -> None:
        """Connections that never say anything."""
        for _ in range(count):
            self._connect()

    def add_slow(self, request: bytes, count: int) -> None:
        """Connections that send one byte of a request now and then."""
        self._slow += [(self._connect(), cycle(request)) for _ in range(count)]

    def add_half_sent(self, beginning: bytes, count: int) -> None:
        """Connections that send the beginning of a request and no more."""
        for _ in range(count):
            with contextlib.suppress(OSError):
                self._connect().send(beginning)

    def add_greedy(self, requests: bytes, count: int) -> None:
        """Connections that send requests as fast as they are taken, and never read an answer."""
        self._greedy += [(self._connect(receive_buffer_bytes=4_096), requests) for _ in range(count)]

    def _drive(self) -> None:
        while not self._ended.wait(DRIP_S):
            for sock, request in list(self._slow):
                with contextlib.suppress(OSError):
                    sock.send(bytes((next(request),)))
            for number, (sock, requests) in enumerate(self._greedy):
                with contextlib.suppress(OSError):
                    sent = sock.send(requests)
                    self._greedy[number] = (sock, requests[sent:] + requests[:sent])

    def close(self) -> None:
        """All leave."""
        self._ended.set()
        self._thread.join()
        for sock in self._sockets:
            sock.close()
