"""How far one partition of clicks.enriched is read: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

BACK_FIRST: Final = 1_000
"""Records to go back when a raw offset is missing; ten times as many each time. A batch of the enricher holds as many."""


class Gap(NamedTuple):
    """Raw offsets `first` to `last` of a partition that were never written, or not yet."""

    first: int
    last: int
    behind: int
    """Offset in clicks.enriched of the first record behind it."""


@dataclass(slots=True)
class Track:
    """How far one partition is read."""

    expected: int
    """The next raw offset."""
    offset: int
    """The next offset in clicks.enriched."""
    begun: int
    """Where this reading began in clicks.enriched."""
    begun_with: int
    """The next raw offset then."""
    back: int = BACK_FIRST
    gap: Gap | None = None

    @classmethod
    def at(cls, expected: int, offset: int) -> Track:
        """A reading that begins at an offset of clicks.enriched with raw offset `expected`, or copies before it."""
        return cls(expected, offset, offset, expected)

    def take(self, offset: int, raw_offset: int) -> bool | None:
        """Whether the record at `offset` is the next one; None when it is too high and no gap is known yet."""
        self.offset = offset + 1
        if raw_offset == self.expected:
            if self.gap is not None:
                self.begun, self.begun_with = offset, raw_offset
            self.expected, self.gap, self.back = raw_offset + 1, None, BACK_FIRST
            return True
        if raw_offset < self.expected or self.gap is not None:
            return False
        return None
