"""The form in which accepted clicks travel from their checks to Kafka or the spool (docs/adr/0044)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Share(NamedTuple):
    """Accepted clicks of one moment that go to one partition together, in columns, before anybody may be told; at least one."""

    partition: int
    timestamp_ms: int
    suspect: bool
    """Publish with the Kafka header `suspect` = b"1"."""
    keys: Sequence[bytes]
    """Kafka keys: the transaction-ids, 36 ASCII bytes each."""
    values: Sequence[bytes]
    """Their raw records."""
    places: Sequence[int]
    """Where each stands in the batch or the turn."""

    def halves(self) -> tuple[Share, Share]:
        """The first half and the rest, of at least two clicks."""
        middle = len(self.keys) // 2
        first, rest = slice(middle), slice(middle, None)
        return (
            self._replace(keys=self.keys[first], values=self.values[first], places=self.places[first]),
            self._replace(keys=self.keys[rest], values=self.values[rest], places=self.places[rest]),
        )


def count_clicks(shares: Iterable[Share]) -> int:
    """How many clicks there are in all of them."""
    return sum(len(share.keys) for share in shares)
