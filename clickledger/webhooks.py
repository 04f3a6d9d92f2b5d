"""Webhooks on the command line: the HTTP API asked with a key, its answers as tables."""

from __future__ import annotations

import http.client
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from clickledger.load.clicks import Target
from shared.errors import OperatorError, TransientError

COLUMNS: Final = ("id", "state", "url", "filter", "batch", "failures", "skipped_events", "lost_offsets")
DELIVERY_COLUMNS: Final = (
    "at",
    "kind",
    "id",
    "events",
    "attempt",
    "outcome",
    "status",
    "duration_ms",
    "next_attempt_at",
)
_GOOD: Final = (http.client.OK, http.client.CREATED, http.client.ACCEPTED)
_TIMEOUT_S: Final = 60.0
"""A test waits for its attempt."""


def ask(base: str, secret: str, method: str, path: str = "", body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One request, never repeated, since that could make a second webhook; its answer.

    Raises OperatorError with the API's own words for a refusal, TransientError when it does not answer or asks to try
    again, ValueError when `base` is no URL.
    """
    target = Target.of(base, secret)
    kind = http.client.HTTPSConnection if target.tls else http.client.HTTPConnection
    connection = kind(target.host, target.port, timeout=_TIMEOUT_S)
    fields = {"Authorization": f"Bearer {target.secret}", "Content-Type": "application/json"}
    try:
        connection.request(method, f"/v1/webhooks{path}", None if body is None else orjson.dumps(body), fields)
        response = connection.getresponse()
        answer = orjson.loads(response.read())
    except (OSError, http.client.HTTPException, orjson.JSONDecodeError) as exc:
        raise TransientError(f"the reports at {base} do not answer: {type(exc).__name__} {exc}") from exc
    finally:
        connection.close()
    if response.status in _GOOD and isinstance(answer, dict):
        return answer
    text = str(answer.get("description", answer)) if isinstance(answer, dict) else str(answer)
    if response.status in (http.client.TOO_MANY_REQUESTS, http.client.SERVICE_UNAVAILABLE):
        raise TransientError(text)
    raise OperatorError(text)


def row_of(webhook: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the list."""
    disabled, batch = webhook["disabled"], webhook["batch"]
    wanted = {name: value for name, value in webhook["filter"].items() if value and value != "any"}
    return {
        **webhook,
        "state": f"disabled: {disabled['reason']}" if disabled else "enabled",
        "filter": "; ".join(f"{name} {_text(value)}" for name, value in wanted.items()) or "all",
        "batch": f"up to {batch['events_max']}" if batch else "single",
    }


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def read_headers(given: Sequence[str]) -> dict[str, str]:
    """`Name: value` each. Raises ValueError."""
    found: dict[str, str] = {}
    for text in given:
        name, colon, value = text.partition(":")
        if not colon or name.strip() in found:
            raise ValueError("--header is written 'Name: value', each name once")
        found[name.strip()] = value.strip()
    return found
