"""Listening sockets: one for a single process; one for each of several workers, among which the kernel spreads connections.

With one socket for all of them whoever wakes first takes every connection that waits, and the others stay idle.
"""

from __future__ import annotations

import socket
from typing import Final

from shared.settings import ApiSettings

BACKLOG: Final = 2_048
"""Connections that wait to be accepted, e.g. while a process restarts."""


def listen(settings: ApiSettings) -> socket.socket:
    """The listening socket; connections may come at once and wait in its backlog.

    `OSError` (`EADDRINUSE`) when anybody listens on the port, workers of another instance too.
    """
    family = socket.AF_INET6 if ":" in settings.api_host else socket.AF_INET
    return socket.create_server((settings.api_host, settings.api_port), family=family, backlog=BACKLOG)


class Listeners:
    """The sockets of several workers, by the worker's number, on the address of `first`, which now shares it (`SO_REUSEPORT`).

    The kernel gives a new connection to any socket that listens, whether or not its worker lives. So the socket of a worker that ends
    is closed, and that of its next life begins to listen when it serves. The last one that listens is kept for whichever worker
    starts next: connections wait in its backlog. So one listens at any time.
    """

    def __init__(self, first: socket.socket, workers: int) -> None:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._family = first.family
        self._address = first.getsockname()
        self._sockets = {0: first}
        self._kept: socket.socket | None = None
        """Listens while no worker does."""
        for number in range(1, workers):
            self.of(number).listen(BACKLOG)

    def of(self, number: int) -> socket.socket:
        """The socket of a worker that starts; a new one is bound but does not listen yet. Raises OSError."""
        if number not in self._sockets:
            self._sockets[number], self._kept = self._kept or self._bound(), None
        return self._sockets[number]

    def end(self, number: int, *, hangs: bool = False) -> None:
        """A worker accepts no more; harmless when that is known. What waits for it alone is reset, as what it had accepted is.

        `hangs`: it may hold the socket for longer.
        """
        listener = self._sockets.pop(number, None)
        if listener is None:
            return
        others = [*self._sockets.values(), *([self._kept] if self._kept else [])]
        if not any(other.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for other in others):
            self._kept = listener
            return
        if hangs:
            listener.shutdown(socket.SHUT_RDWR)  # listens no more, whoever holds it
        listener.close()

    def close(self) -> None:
        """Close all of them; workers that still run may end afterwards."""
        while self._sockets:
            self._sockets.popitem()[1].close()
        if self._kept is not None:
            self._kept.close()

    def _bound(self) -> socket.socket:
        listener = socket.socket(self._family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if self._family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(self._address)
        return listener
