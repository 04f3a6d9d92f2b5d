"""One request of a webhook: events to a body, a body to signed header fields. Pure.

The signature is that of Standard Webhooks, made by its library. `webhook-id` is the same in every attempt: the event's
id where a request has one event, else a digest of the batch's range and body: no two bodies have the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import orjson
from standardwebhooks import Webhook as Signer

from reporting.webhooks.model import Confidential
from reporting.webhooks.places import Marks
from shared.rte import SPEC_VERSION, rfc3339, source_of

SINGLE_TYPE: Final = "application/cloudevents+json"
BATCH_TYPE: Final = "application/cloudevents-batch+json"
TEST_TYPE: Final = "com.clickledger.webhook.test"
USER_AGENT: Final = "clickledger-webhooks/1"


class Message(NamedTuple):
    """What is sent."""

    message_id: str
    body: bytes
    content_type: str
    events: int


def single(event: Mapping[str, Any]) -> Message:
    """One event, as it is."""
    return Message(event["id"], orjson.dumps(event), SINGLE_TYPE, 1)


def batch(key: str, stream: str, until: Marks, events: Sequence[bytes]) -> Message:
    """Several encoded events of a webhook in a JSON array, up to a place in a stream."""
    body = b"[%b]" % b",".join(events)
    digest = hashlib.sha256(repr((key, stream, sorted(until.items()))).encode())
    digest.update(body)
    return Message(f"batch_{digest.hexdigest()[:32]}", body, BATCH_TYPE, len(events))


def make_test_event(tenant: str, test_id: str, now_ms: int) -> dict[str, Any]:
    """An event that is no click."""
    return {
        "specversion": SPEC_VERSION,
        "id": test_id,
        "source": source_of(tenant),
        "type": TEST_TYPE,
        "time": rfc3339(now_ms),
        "datacontenttype": "application/json",
        "data": {"message": "This is a test event. No click stands behind it."},
    }


def header_fields(message: Message, confidential: Confidential, now_ms: int) -> dict[str, str]:
    """All fields that the request has beside those of the connection."""
    return {
        **confidential.headers,
        "user-agent": USER_AGENT,
        "content-type": message.content_type,
        "webhook-id": message.message_id,
        "webhook-timestamp": str(now_ms // 1_000),
        "webhook-signature": " ".join(_signatures(message, confidential.signing(now_ms), now_ms)),
    }


def _signatures(message: Message, secrets: Iterable[str], now_ms: int) -> Iterable[str]:
    when = datetime.fromtimestamp(now_ms // 1_000, UTC)
    for secret in secrets:
        yield Signer(secret).sign(message.message_id, when, message.body.decode())
