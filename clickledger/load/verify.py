"""The books of a verified run: every 200 is exactly one accepted row, and no row came from nowhere.

Rule: pure, and bounded in memory: 16 bytes per answered id, compared with the table in slices of ids by their last
byte. Rows of the run are found by its mark in the short URL's query, which is kept as sent and ignored by look-up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from clickledger.load.answers import Accepted, Outcome
from clickledger.load.clicks import Click

IDS_MAX: Final = 10_000_000
"""Ids kept by one run: 160 MB."""
SLICE_IDS: Final = 20_000
"""At most about so many ids are compared per query; a few MB of answer."""
EXAMPLES_MAX: Final = 5
MARK: Final = "clickledger-run"

_ID_BYTES: Final = 16
_TAILS: Final = 256  # ids are kept by their last byte, which is random in every version that we issue
_RUN: Final = re.compile(r"[0-9a-z]{1,32}")


def marked(short_url: str, run: str) -> str:
    """Return the short URL with the run's mark in its query."""
    url, hash_sign, fragment = short_url.partition("#")
    return f"{url}{'&' if '?' in url else '?'}{MARK}={run}{hash_sign}{fragment}"


def pattern(run: str) -> str:
    """Return the LIKE pattern of short URLs with the run's mark."""
    if not _RUN.fullmatch(run):
        raise ValueError(f"run id {run!r} is not 1-32 digits and small letters")
    return f"%{MARK}={run}%"


class Ledger:
    """Every transaction-id that was answered with 200, duplicates included."""

    def __init__(self) -> None:
        self._by_tail = [bytearray() for _ in range(_TAILS)]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, transaction_id: str) -> None:
        """Keep one id. Raises OverflowError at the bound."""
        if self._count >= IDS_MAX:
            raise OverflowError(f"--verify keeps at most {IDS_MAX:,} ids: use a smaller --count")
        packed = bytes.fromhex(transaction_id.replace("-", ""))
        self._by_tail[packed[-1]] += packed
        self._count += 1

    def note(self, _click: Click, outcome: Outcome) -> None:
        """Keep the id of an attempt that was answered with 200. Raises OverflowError at the bound."""
        if isinstance(outcome, Accepted):
            self.add(outcome.transaction_id)

    def slices(self) -> Iterator[tuple[str, str, set[str]]]:
        """Yield (first, last two hex digits, ids that end so): together every id once, and every possible end."""
        tails = max(1, min(_TAILS, _TAILS * SLICE_IDS // max(1, self._count)))
        for first in range(0, _TAILS, tails):
            last = min(first + tails, _TAILS) - 1
            ids = {each for tail in range(first, last + 1) for each in _unpack(self._by_tail[tail])}
            yield f"{first:02x}", f"{last:02x}", ids


def _unpack(ids: bytearray) -> Iterator[str]:
    for start in range(0, len(ids), _ID_BYTES):
        text = ids[start : start + _ID_BYTES].hex()
        yield f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass(frozen=True, slots=True)
class StoredRow:
    """How often an id stands in the table, by status."""

    transaction_id: str
    accepted: int
    duplicate: int
    other: int


@dataclass(slots=True)
class Mismatches:
    """What the comparison found; all zero is a proof."""

    checked: int = 0
    """distinct ids answered with 200"""
    missing: int = 0
    """answered, no accepted row"""
    doubled: int = 0
    """more than one accepted row"""
    wrong_status: int = 0
    """a row that is neither accepted nor duplicate"""
    unanswered: int = 0
    """ids of this run in the table that no answer named; fine while not more than outcomes are unknown"""
    duplicates: int = 0
    """duplicate rows: repeated keys, as they should be"""
    examples: list[str] = field(default_factory=list)

    def compare(self, answered: set[str], rows: Iterable[StoredRow]) -> None:
        """Compare one slice: the ids that were answered, and every row of the run with such ids."""
        missing = set(answered)
        self.checked += len(answered)
        for row in rows:
            self.duplicates += row.duplicate
            if row.transaction_id not in answered:
                self.unanswered += 1
                self._note(f"{row.transaction_id} is stored but was never answered")
                continue
            if row.accepted:
                missing.discard(row.transaction_id)
            if row.accepted > 1:
                self.doubled += 1
                self._note(f"{row.transaction_id} has {row.accepted} accepted rows")
            if row.other:
                self.wrong_status += 1
                self._note(f"{row.transaction_id} has {row.other} rows that are neither accepted nor duplicate")
        self.missing += len(missing)
        for transaction_id in sorted(missing)[:EXAMPLES_MAX]:
            self._note(f"{transaction_id} was answered 200 but has no accepted row")

    def is_proof(self, unknown_outcomes: int) -> bool:
        """Whether every 200 is exactly one row; `unknown_outcomes` attempts may have left a row each."""
        return not (self.missing or self.doubled or self.wrong_status) and self.unanswered <= unknown_outcomes

    def _note(self, example: str) -> None:
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(example)
