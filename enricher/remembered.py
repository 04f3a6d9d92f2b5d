"""Answers worth remembering, the recent ones, within a number of entries and of bytes.

Two generations: what is asked for stands in the young one, which becomes the old one when it is full; what is then not
asked for again falls out with it. So a hit costs one look-up in a dictionary, and nothing is ever sorted or counted.
"""

from __future__ import annotations

import sys
from typing import Final

ENTRY_BYTES: Final = 120
"""What an entry costs beside its text and its answer, a slot in the dictionary above all."""


class Remembered:
    """Ready bytes by text. `hits` and `misses` count the questions."""

    def __init__(self, entries_max: int, bytes_max: int) -> None:
        self._generation_entries_max = entries_max // 2
        self._generation_bytes_max = bytes_max // 2
        self._young: dict[str, bytes] = {}
        self._old: dict[str, bytes] = {}
        self._young_bytes = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        """How many answers are kept; one that stands in both generations counts twice."""
        return len(self._young) + len(self._old)

    def get(self, text: str) -> bytes | None:
        """The answer for a text, None when it is not known: work it out and `put` it."""
        answer = self._young.get(text)
        if answer is None:
            answer = self._old.get(text)
            if answer is None:
                self.misses += 1
                return None
            self.put(text, answer)
        self.hits += 1
        return answer

    def put(self, text: str, answer: bytes) -> None:
        """Remember an answer; one that is larger than a generation is forgotten at once."""
        size = sys.getsizeof(text) + sys.getsizeof(answer) + ENTRY_BYTES
        if size > self._generation_bytes_max:
            return
        is_full = len(self._young) >= self._generation_entries_max
        if is_full or self._young_bytes + size > self._generation_bytes_max:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        self._young[text] = answer
        self._young_bytes += size
