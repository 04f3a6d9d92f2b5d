"""The log of a webhook's attempts: a ring of records in the compacted topic, so that it is bounded and outlives everybody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson

from reporting.webhooks.journal import Journal
from reporting.webhooks.schedule import Attempt, Stop
from shared.catalog import Kind

ENTRY_VERSION: Final = 1


class AttemptLog:
    """Writes one webhook's log; its owner has one."""

    def __init__(self, journal: Journal, key: str, slots: int, last: int) -> None:
        """`last`: number of the newest attempt in the log, 0 where there is none."""
        self._journal, self._key, self._slots, self._last = journal, key, slots, last

    def add(
        self,
        attempt: Attempt,
        *,
        message_id: str,
        events: int,
        number: int,
        kind: str,
        at_ms: int,
        next_at_ms: int | None = None,
        skipped: bool = False,
        disabled: Stop | None = None,
    ) -> None:
        """One attempt: `number` of its events, begun at `at_ms`; what follows. No bodies, no URLs, no secrets."""
        self._last += 1
        record = {
            "v": ENTRY_VERSION,
            "seq": self._last,
            "id": message_id,
            "kind": kind,
            "events": events,
            "attempt": number,
            "at": at_ms,
            "duration_ms": attempt.duration_ms,
            "outcome": attempt.outcome,
            "status": attempt.status,
            "next_attempt_at": next_at_ms,
            "skipped": skipped,
            "disabled": disabled,
        }
        self._journal.note(Kind.DELIVERY, slot_key(self._key, self._last % self._slots), record)


def slot_key(key: str, slot: int) -> str:
    """The id of one record of the ring."""
    return f"{key}/{slot:05d}"


def newest_first(records: Iterable[tuple[str, bytes]]) -> list[dict[str, Any]]:
    """The attempts of one webhook's records."""
    return sorted(_decoded(records), key=lambda entry: -entry["seq"])


def last_number(records: Iterable[tuple[str, bytes]]) -> int:
    """The number of the newest attempt, 0 where there is none."""
    return max((entry["seq"] for entry in _decoded(records)), default=0)


def _decoded(records: Iterable[tuple[str, bytes]]) -> Iterator[dict[str, Any]]:
    for _key, value in records:
        yield orjson.loads(value)
