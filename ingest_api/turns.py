"""The clicks that arrive in one turn of the event loop, gathered by what their heads say (docs/adr/0034)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ingest_api.handler import JudgedHead
from shared.http.exchange import Exchange

TOGETHER: Final = 64
"""Clicks that are judged together at most: one that is refused costs so many others the short way."""
ALIKE_MAX: Final = 4_096
"""Different heads that are told apart before all are forgotten: one for each caller, or for each agent of a caller's own."""


class Alike:
    """Clicks of this turn whose heads say the same."""

    __slots__ = ("exchanges", "head")

    def __init__(self, head: JudgedHead) -> None:
        self.head = head
        self.exchanges: list[Exchange] = []
        """Waiting to be judged; in the order in which they came."""


class Turn:
    """All that wait to be judged, until the turn's end: not more than what was read of each connection at once."""

    def __init__(self, judge: Callable[[JudgedHead, Sequence[Exchange]], None]) -> None:
        """`judge` gets clicks that are alike, 1 to `TOGETHER`, and never raises."""
        self._judge = judge
        self._by_head: dict[JudgedHead, Alike] = {}
        self._version = -1
        self._waiting: list[Alike] = []

    def alike(self, head: JudgedHead) -> Alike:
        """Those that say the same as this head."""
        if not head.is_plain:
            return Alike(head)
        if head.catalog_version != self._version or len(self._by_head) >= ALIKE_MAX:
            self._version = head.catalog_version
            self._by_head.clear()
        return self._by_head.setdefault(head, Alike(head))

    def add(self, exchange: Exchange, alike: Alike) -> bool:
        """Let a click wait with those that are alike; whether it is the turn's first, and somebody must `end` the turn."""
        exchanges = alike.exchanges
        exchanges.append(exchange)
        if len(exchanges) > 1:
            return False
        self._waiting.append(alike)
        return len(self._waiting) == 1

    def end(self) -> None:
        """Have all judged that wait."""
        waiting, self._waiting = self._waiting, []
        for alike in waiting:
            exchanges, alike.exchanges = alike.exchanges, []
            for first in range(0, len(exchanges), TOGETHER):
                self._judge(alike.head, exchanges[first : first + TOGETHER])
