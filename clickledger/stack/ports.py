"""Choice of TCP ports for one local stack."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection
from dataclasses import dataclass

from shared.errors import TransientError

HOST = "127.0.0.1"

# Below every system's default range for outgoing connections (32768 on Linux, 49152 on macOS): a port of that range can
# be taken by any client in the moment between a broker's death and its restart.
_FREE_FIRST, _FREE_LAST = 20_000, 32_000
_TRIES_MAX = 200


@dataclass(frozen=True, slots=True)
class Ports:
    """The four public ports: N, N+1, N+2, N+3."""

    api: int
    reports: int
    clickhouse: int
    kafka: int


def choose_ports(first: int) -> Ports:
    """Four ports from `first` on; 0 picks four free ones. Does not look whether named ports are taken."""
    if first == 0:
        return Ports(*free_ports(4))
    return Ports(first, first + 1, first + 2, first + 3)


def taken(ports: list[int]) -> list[int]:
    """Those of `ports` on which something listens or that cannot be bound."""
    return [port for port in ports if not _can_bind(port)]


def free_ports(count: int, besides: Collection[int] = ()) -> list[int]:
    """`count` different ports, none of `besides`, that could be bound just now. Raises TransientError when none is found."""
    found: list[int] = []
    source = random.SystemRandom()
    for _ in range(_TRIES_MAX * count):
        if len(found) == count:
            break
        port = source.randint(_FREE_FIRST, _FREE_LAST)
        if port not in found and port not in besides and _can_bind(port):
            found.append(port)
    if len(found) < count:
        raise TransientError(f"no {count} free ports between {_FREE_FIRST} and {_FREE_LAST}")
    return found


def _can_bind(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
