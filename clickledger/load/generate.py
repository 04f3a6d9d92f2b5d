"""Realistic clicks: who clicks, on which link, with which oddities of real clients.

Rule: pure and seeded; the same seed gives the same clicks. `now_ms` is an argument.
"""

from __future__ import annotations

import gzip
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import accumulate
from typing import Final

from clickledger.load.clicks import Click

_RECENT_KEYED: Final = 256
"""Duplicates repeat one of the last so many keyed clicks: clients retry soon."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of clicks, each from 0 to 1."""

    keyed: float = 0.06
    """sent with an Idempotency-Key"""
    repeated: float = 0.01
    """sent again with the key and body of a recent keyed click"""
    late: float = 0.03
    """reported late, with clicked-at up to `late_ms_max` ago"""
    without_agent: float = 0.02
    without_address: float = 0.02
    late_ms_max: int = 6 * 3_600_000


@dataclass(frozen=True, slots=True)
class Visitors:
    """Who clicks: (user agent, address or None) with cumulative weights; None draws an address of its own."""

    entries: tuple[tuple[str, str | None], ...]
    cumulative: tuple[float, ...]

    def draw(self, rng: random.Random) -> tuple[str, str | None]:
        """Return one (user agent, address) by weight."""
        return rng.choices(self.entries, cum_weights=self.cumulative)[0]


@cache
def log_visitors() -> Visitors:
    """Load the visitors of a real access log (clickledger/data/README.md): agents and addresses belong together."""
    packed = resources.files("clickledger").joinpath("data/visitors.tsv.gz").read_bytes()
    rows = [line.split("\t") for line in gzip.decompress(packed).decode().splitlines()]
    return Visitors(
        tuple((agent, address) for _, address, agent in rows), tuple(accumulate(float(count) for count, *_ in rows))
    )


@cache
def app_visitors() -> Visitors:
    """Load agents of phones and apps as they open links of text messages, a few link previews and bots among them."""
    text = resources.files("clickledger").joinpath("data/app_agents.tsv").read_text("utf-8")
    rows = [line.split("\t") for line in text.splitlines()]
    return Visitors(tuple((agent, None) for _, agent in rows), tuple(accumulate(float(count) for count, _ in rows)))


class Generator:
    """An endless source of clicks on `links`."""

    def __init__(
        self, links: Sequence[str], *, seed: int, run: str, mix: Mix | None = None, visitors: Visitors | None = None
    ) -> None:
        """Draw from `links` (not empty, the first ones most often); `run` makes idempotency keys unique to this run."""
        if not links:
            raise ValueError("no links to click on")
        self._links = links
        self._rng = random.Random(seed)
        self._run = run
        self._mix = mix or Mix()
        self._visitors = visitors or app_visitors()
        self._keyed: deque[Click] = deque(maxlen=_RECENT_KEYED)
        self._key_number = 0

    def next(self, now_ms: int) -> Click:
        """Return the next click, seen from a client whose clock says `now_ms`."""
        rng, mix = self._rng, self._mix
        dice = rng.random()
        if dice < mix.repeated and self._keyed:
            return rng.choice(self._keyed)
        click = self._fresh()
        if dice > 1 - mix.late:
            click = replace(click, clicked_at_ms=now_ms - rng.randrange(1, mix.late_ms_max))
        if rng.random() < mix.keyed:
            self._key_number += 1
            click = replace(click, idempotency_key=f"{self._run}-{self._key_number}")
            self._keyed.append(click)
        return click

    def _fresh(self) -> Click:
        rng, mix = self._rng, self._mix
        agent, address = self._visitors.draw(rng)
        link = self._links[int(len(self._links) * rng.random() ** 3)]  # cube: popular links first, a long tail behind
        return Click(
            link,
            None if rng.random() < mix.without_agent else agent,
            None if rng.random() < mix.without_address else address or self._address(),
        )

    def _address(self) -> str:
        """Return a real address of the sample three times out of four, else a random public-looking one."""
        rng = self._rng
        if rng.random() < 0.75:
            return log_visitors().draw(rng)[1] or ""
        first = rng.choice((2, 5, 23, 31, 46, 62, 78, 81, 91, 103, 117, 122, 151, 177, 182, 203, 213))
        return f"{first}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"
