"""What an answer of the API means for the click that was sent.

Rule: pure. Three outcomes: `Accepted` (a 200 with an id: a row must exist), `Refused` (no row may exist), `Uncertain`
(nobody can say yet: no answer, or a 5xx, after which the record may still arrive).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import orjson

_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

TIMED_OUT: Final = "time-out"
CONNECTION_LOST: Final = "connection lost"
UNREADABLE: Final = "unreadable answer"


@dataclass(frozen=True, slots=True)
class Accepted:
    """200 with a transaction-id."""

    transaction_id: str
    code: str = "200"


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer that promises that nothing was stored; `code` is the contract's."""

    code: str

    @property
    def may_retry(self) -> bool:
        """Say whether the contract allows to send the same click again."""
        return self.code == "429"


@dataclass(frozen=True, slots=True)
class Uncertain:
    """No promise either way: the record may exist. `code` is the contract's, or why there was no answer."""

    code: str


Outcome = Accepted | Refused | Uncertain


def read_answer(http_status: int, body: bytes) -> Outcome:
    """Read the answer to a single click; anything that is not the contract's shape is `Uncertain`."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Uncertain(UNREADABLE)
    return _outcome(answer, http_status)


def read_batch_answer(http_status: int, body: bytes, click_count: int) -> list[Outcome]:
    """Read the answer to a batch: one outcome per click in order; a refusal of the whole request holds for each."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return [Uncertain(UNREADABLE)] * click_count
    lines = answer.get("results") if isinstance(answer, dict) else answer
    if http_status == 200 and isinstance(lines, list):
        if len(lines) == click_count:
            return [_outcome(line, 200) for line in lines]
        return [Uncertain(UNREADABLE)] * click_count
    return [_outcome(answer, http_status)] * click_count


def _outcome(answer: object, http_status: int) -> Outcome:
    if not isinstance(answer, dict):
        return Uncertain(UNREADABLE)
    transaction_id = answer.get("transaction-id")
    if http_status == 200 and isinstance(transaction_id, str) and _ID.fullmatch(transaction_id):
        return Accepted(transaction_id)
    code = str(answer.get("code", ""))
    if not code or transaction_id is not None:
        return Uncertain(UNREADABLE)
    return Uncertain(code) if http_status >= 500 or code.startswith("5") else Refused(code)
