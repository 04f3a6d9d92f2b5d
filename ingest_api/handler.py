"""One click: from the bytes of a request to an answer or a click waiting to be published. Pure: no I/O, no clock.

Order of checks: method, authorization, grant, throttle, size and type, JSON, mandatory field, link, retention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ingest_api.answers import Answer

Headers = Sequence[tuple[bytes, bytes]]
"""(lower-case name, raw value) pairs, as httptools gives them."""

PATHS: frozenset[bytes] = frozenset(
    prefix + b"/resources/v3/shortlinkclicks" + slash
    for prefix in (b"/campaignapi", b"/imicampaignapi")
    for slash in (b"", b"/")
)
"""The request targets of the click endpoint; anything after `?` is ignored."""


class PendingClick(NamedTuple):
    """An accepted click that must be durable before `answer` may be sent."""

    partition: int
    key: bytes
    """Kafka key: the transaction-id, 36 ASCII bytes."""
    value: bytes
    timestamp_ms: int
    suspect: bool
    """Publish with the Kafka header `suspect` = b"1"."""
    answer: Answer


class HandlerState:
    """What a process keeps between requests. Built once by the composition root."""


def precheck(state: HandlerState, method: bytes, headers: Headers, peer: str, now_ms: int) -> Answer | None:
    """An answer that can be given before the body is read (405, 498, 430, 429, oversized Content-Length), else None.

    Optional: `handle` repeats every check. It consumes the throttle only when it answers.
    """
    raise NotImplementedError


def refuse_oversized(state: HandlerState, method: bytes, headers: Headers, peer: str, now_ms: int) -> Answer:
    """The answer for a body that grew past the limit while it was streamed; the connection closes."""
    raise NotImplementedError


def handle(
    state: HandlerState,
    method: bytes,
    target: bytes,
    headers: Headers,
    body: bytes,
    peer: str,
    now_ms: int,
) -> Answer | PendingClick:
    """Check one click and give its answer, or the click to publish with the answer to give once it is durable."""
    raise NotImplementedError


def not_durable(state: HandlerState, pending: PendingClick, *, outcome_unknown: bool = False) -> Answer:
    """The 500 for a click that could not be published (or whose outcome is unknown), with the throttle's headers."""
    raise NotImplementedError
