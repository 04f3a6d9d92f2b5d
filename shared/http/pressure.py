"""Who has to go when a process has too many connections, or they hold too much. Pure.

The rule: whoever has been without progress longest. A client that finishes its requests is never the one, however many
others hold theirs back, and no address has a share, since behind one there may be a whole country (docs/adr/0017).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Protocol, TypeVar


class Crowded(Protocol):
    """A connection among others."""

    since: float
    """When the last step forward was made."""
    held: int
    """Bytes of its unfinished requests."""

    @property
    def waits_for_client(self) -> bool:
        """It is the client's turn: for a request, or for the rest of one."""

    @property
    def unread_bytes(self) -> int:
        """Bytes of answers that its client has not taken."""


C = TypeVar("C", bound=Crowded)


def longest_still(connections: Collection[C], before: float) -> list[C]:
    """Those without progress since `before` whose client has the next move; the longest still comes last."""
    still = [connection for connection in connections if connection.since <= before and connection.waits_for_client]
    return sorted(still, key=lambda connection: connection.since, reverse=True)


def longest_unfinished(connections: Iterable[C], surplus: int) -> list[C]:
    """The longest unfinished requests that hold at least `surplus` bytes together; all when that is not enough."""
    return _until(sorted((c for c in connections if c.held), key=lambda c: c.since), surplus, lambda c: c.held)


def largest(connections: Iterable[C], surplus: int) -> list[C]:
    """Those with the most unread answers, at least `surplus` bytes together."""
    unread = sorted((c for c in connections if c.unread_bytes), key=lambda c: -c.unread_bytes)
    return _until(unread, surplus, lambda c: c.unread_bytes)


def _until(connections: Iterable[C], surplus: int, size: Callable[[C], int]) -> list[C]:
    """The first of them that have so many bytes together."""
    found: list[C] = []
    for connection in connections:
        if surplus <= 0:
            break
        found.append(connection)
        surplus -= size(connection)
    return found
