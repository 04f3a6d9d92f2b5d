"""The clicks that arrive in one turn of the event loop, gathered by what their heads say (docs/adr/0034)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ingest_api.handler import JudgedHead
from shared.http.exchange import Exchange

TOGETHER: Final = 32
"""Clicks that are judged together at most: what one that is refused costs, and how long the loop reads nothing."""
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
    """All that wait to be judged. They are judged when `TOGETHER` are alike, else at the turn's end."""

    def __init__(self, judge: Callable[[JudgedHead, Sequence[Exchange]], None]) -> None:
        """`judge` gets clicks that are alike, at least one, and never raises."""
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
        if len(exchanges) == 1:
            self._waiting.append(alike)
            return len(self._waiting) == 1
        if len(exchanges) == TOGETHER:
            self._judge_all(alike)
        return False

    def end(self) -> None:
        """Have all judged that wait."""
        waiting, self._waiting = self._waiting, []
        for alike in waiting:
            if alike.exchanges:
                self._judge_all(alike)

    def _judge_all(self, alike: Alike) -> None:
        exchanges, alike.exchanges = alike.exchanges, []
        self._judge(alike.head, exchanges)
