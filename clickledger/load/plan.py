"""What a run of `clickledger send` sends: an endless generator or a file, cut to a count, on given links, marked or not.

Rule: pure but for reading the named files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Final

from clickledger.lines import BadLine
from clickledger.load.clicks import Click
from clickledger.load.generate import Generator
from clickledger.load.sources import read_clicks
from clickledger.load.verify import marked

LINKS_MAX: Final = 1_000_000
"""Short URLs taken from a file of links: about 150 MB."""
BAD_LINES_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    run: str
    """its id: marks rows, makes idempotency keys unique"""
    links: Sequence[str]
    """short URLs to click on; those of a file of clicks win"""
    count: int = 0
    """clicks; 0 = no limit"""
    seed: int = 1
    file: Path | None = None
    is_marked: bool = False
    shift_ms: int | None = None
    """with a file: added to its times, which are sent as clicked-at; None: times of logs are not sent"""


@dataclass(slots=True)
class BadLines:
    """Lines of the file that were no clicks."""

    count: int = 0
    first: list[BadLine] = field(default_factory=list)

    def add(self, line: BadLine) -> None:
        """Count one and keep the first few."""
        self.count += 1
        if len(self.first) < BAD_LINES_SHOWN:
            self.first.append(line)


def clicks_of(plan: Plan, now_ms: Callable[[], int], bad_lines: BadLines) -> Iterator[Click]:
    """Yield the run's clicks. Raises FileProblem for a file that cannot be read."""
    source = _from_generator(plan, now_ms) if plan.file is None else _from_file(plan, plan.file, bad_lines)
    for number, click in enumerate(source):
        if plan.count and number >= plan.count:
            return
        yield replace(click, short_url=marked(click.short_url, plan.run)) if plan.is_marked else click


def _from_generator(plan: Plan, now_ms: Callable[[], int]) -> Iterator[Click]:
    generator = Generator(plan.links, seed=plan.seed, run=plan.run)
    while True:
        yield generator.next(now_ms())


def _from_file(plan: Plan, path: Path, bad_lines: BadLines) -> Iterator[Click]:
    links = cycle(plan.links)
    for item in read_clicks(path):
        if isinstance(item, BadLine):
            bad_lines.add(item)
            continue
        is_log = not item.short_url
        at_ms = item.clicked_at_ms
        if plan.shift_ms is not None:
            at_ms = None if at_ms is None else at_ms + plan.shift_ms
        elif is_log:
            at_ms = None  # when a web server saw a request is not when somebody clicked, unless the user says so
        yield replace(item, short_url=next(links) if is_log else item.short_url, clicked_at_ms=at_ms)


def last_time_ms(path: Path) -> int | None:
    """Give the latest time in a file of clicks, None when it has none. Reads all of it. Raises FileProblem."""
    times = (item.clicked_at_ms for item in read_clicks(path) if isinstance(item, Click))
    return max((at_ms for at_ms in times if at_ms is not None), default=None)


def links_of(path: Path) -> list[str]:
    """Give the short URLs of a file of links (CSV or NDJSON with `short_url`), in order. Raises FileProblem."""
    links: list[str] = []
    for item in read_clicks(path):
        if isinstance(item, Click) and item.short_url:
            links.append(item.short_url)
            if len(links) == LINKS_MAX:
                break
    return links
