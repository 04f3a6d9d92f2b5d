"""What the sender knows about each of its clicks, and the comparison with the rows: the oracle's pure half.

Every click carries a number in its short URL's query, which the row keeps as sent. So a row whose id nobody was told
is matched with the very attempt that had no answer, not with a count of such attempts. An Idempotency-Key keeps its
number when it is sent again: the body must be the same, and its rows have the same id.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from clickledger.load.answers import Accepted, Outcome, Refused, Uncertain
from clickledger.load.clicks import Click
from clickledger.load.verify import Ledger

NUMBER: Final = "number"
EXAMPLES_MAX: Final = 5
_NUMBER: Final = re.compile(rf"[?&]{NUMBER}=(\d+)$")


def number_of(short_url: str) -> int:
    """The click's number; -1 when it has none."""
    found = _NUMBER.search(short_url)
    return int(found[1]) if found else -1


class UnansweredRow(NamedTuple):
    """A row of the run by its click's number and its id."""

    number: int
    transaction_id: str


@dataclass
class Books:
    """One run's clicks and outcomes. Memory: the ledger's 16 bytes an id, and a few numbers."""

    ledger: Ledger = field(default_factory=Ledger)
    answered: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    unknown: Counter[int] = field(default_factory=Counter)
    """attempts by click whose record may or may not exist"""
    refused: int = 0
    sent: int = 0
    by_key: dict[str, int] = field(default_factory=dict)

    def numbered(self, clicks: Iterable[Click]) -> Iterator[Click]:
        """Yield the clicks with their numbers."""
        for count, click in enumerate(clicks):
            key = click.idempotency_key
            number = count if key is None else self.by_key.setdefault(key, count)
            self.sent = count + 1
            yield replace(click, short_url=f"{click.short_url}&{NUMBER}={number}")

    def note(self, click: Click, outcome: Outcome) -> None:
        """Keep what an attempt was answered."""
        self.ledger.note(click, outcome)
        number = number_of(click.short_url)
        match outcome:
            case Accepted(transaction_id):
                self.answered[number].add(transaction_id)
            case Uncertain():
                self.unknown[number] += 1
            case Refused():
                self.refused += 1

    def strays(self, rows: Iterable[UnansweredRow]) -> list[str]:
        """Rows that no attempt explains, in words: each unknown attempt explains one id of its click, no more."""
        found, explained = [], Counter(self.unknown)
        for row in sorted(set(rows)):
            if row.transaction_id in self.answered.get(row.number, ()):
                continue
            if explained[row.number] > 0:
                explained[row.number] -= 1
            else:
                found.append(f"{row.transaction_id} of click {row.number} is stored, but no attempt explains it")
        return found
