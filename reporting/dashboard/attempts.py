"""Bounds how often one address may try to log in. Pure: `now_s` is given.

Only failures count, so that users behind one proxy do not lock each other out by logging in. Kept in memory, per process.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

WINDOW_S: Final = 300.0
ADDRESSES_MAX: Final = 10_000
"""About 1 MB. Beyond it the address that failed least recently is forgotten."""


class Attempts:
    """Failures by address within a window that begins with the first of them."""

    def __init__(self, failures_max: int) -> None:
        self._failures_max = failures_max
        self._failed: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wait_s(self, address: str, now_s: float) -> float:
        """Seconds until the address may try again; 0 when it may now."""
        since, count = self._failed.get(_network(address), (now_s, 0))
        left = since + WINDOW_S - now_s
        return left if count >= self._failures_max and left > 0 else 0.0

    def failed(self, address: str, now_s: float) -> None:
        """Count a failure."""
        network = _network(address)
        since, count = self._failed.pop(network, (now_s, 0))
        if now_s - since >= WINDOW_S:
            since, count = now_s, 0
        self._failed[network] = (since, count + 1)
        if len(self._failed) > ADDRESSES_MAX:
            self._failed.popitem(last=False)


def _network(address: str) -> str:
    """The address; of IPv6 the /64, since whoever has one address has all of them."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # a Unix socket has none
        return ""
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
