"""Bodies, records, secrets and signatures of webhooks."""

from __future__ import annotations

import time
from dataclasses import replace

import orjson
import pytest
from pydantic import SecretStr, ValidationError
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from reporting.webhooks import messages
from reporting.webhooks.messages import Message, header_fields
from reporting.webhooks.model import (
    HEADERS_MAX,
    OVERLAP_MS,
    PURPOSE,
    SECRETS_MAX,
    BatchBody,
    Confidential,
    FilterBody,
    Secret,
    StopRecord,
    Webhook,
    WebhookBody,
    WebhookChange,
    decode_webhook,
    encode_stop,
    encode_webhook,
    header_faults,
    make_secret,
    seal,
    stop_of,
)
from reporting.webhooks.places import Mark
from reporting.webhooks.schedule import Stop
from shared.rte import STREAMED
from shared.secret_box import NotOurs, SecretBox
from shared.settings import SecretSettings

BOX = SecretBox(SecretSettings(secret_key=SecretStr("0123456789" * 4)), PURPOSE)
SECRET = make_secret(b"s" * 32)
CONFIDENTIAL = Confidential("https://hooks.example/x?token=t", {"X-Key": "v"}, (Secret(SECRET),))


def webhook_of() -> Webhook:
    """One with everything."""
    return Webhook(
        tenant="acme",
        webhook_id="wh_1",
        description="d",
        is_enabled=True,
        filter=FilterBody(status=["accepted"], promotion_id=["p"], bots="no"),
        batch=BatchBody(events_max=5),
        sealed=seal(BOX, "acme/wh_1", CONFIDENTIAL),
        stream="s",
        start={0: Mark(3)},
        reset=1,
        enablings=2,
        created_at_ms=10,
        updated_at_ms=20,
    )


def test_a_record_comes_back() -> None:
    """With all that is in it; the sealed part opens for this webhook only, and is not readable in the record."""
    record = orjson.dumps(encode_webhook(webhook_of()))
    found = decode_webhook(orjson.loads(record))
    assert found == webhook_of() or replace(found, sealed="") == replace(webhook_of(), sealed="")
    assert found.opened(BOX) == CONFIDENTIAL
    for secret in (SECRET, "hooks.example", "token=t", "X-Key"):
        assert secret.encode() not in record
    with pytest.raises(NotOurs):
        replace(found, tenant="rival").opened(BOX)


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"url": 1}, {"url": "https://x/", "unknown": 1}, {"url": "https://x/", "enabled": "yes"}),
        {"url": "https://x/", "filter": {"status": ["paid"]}},
        {"url": "https://x/", "filter": {"bots": True}},
        {"url": "https://x/", "filter": {"tenant": "rival"}},
        {"url": "https://x/", "filter": {"promotion_id": [""]}},
        {"url": "https://x/", "filter": {"promotion_id": ["p"] * 101}},
        {"url": "https://x/", "filter": {"link": ["x" * 2_049]}},
        {"url": "https://x/", "batch": {"events_max": 0}},
        {"url": "https://x/", "batch": {"events_max": 1_001}},
        {"url": "https://x/", "batch": {"linger_ms": 60_001}},
        {"url": "https://x/", "headers": {f"X-{n}": "v" for n in range(HEADERS_MAX + 1)}},
        {"url": "https://x/", "description": "d" * 257},
    ],
)
def test_bodies_that_are_refused(body: dict[str, object]) -> None:
    """Unknown fields, wrong types, values out of their bounds."""
    with pytest.raises(ValidationError):
        WebhookBody.model_validate_json(orjson.dumps(body))


def test_duplicates_cannot_be_asked_for() -> None:
    """No event is one, so it is refused when a webhook is made or changed; a record that has it is read as it is."""
    for wanted in (b'{"status":["duplicate"]}', b'{"status":["accepted","duplicate"]}'):
        for shape, body in ((WebhookBody, b'{"url":"https://x/","filter":%b}'), (WebhookChange, b'{"filter":%b}')):
            with pytest.raises(ValidationError, match="status: duplicate is found when a click is stored"):
                shape.model_validate_json(body % wanted)
    described = WebhookBody.model_json_schema()["$defs"]["FilterBody"]["properties"]["status"]["items"]
    assert set(described["enum"]) == STREAMED
    made_before = replace(webhook_of(), filter=FilterBody(status=["duplicate"]))
    found = decode_webhook(orjson.loads(orjson.dumps(encode_webhook(made_before))))
    assert found.filter.compiled("acme").statuses == {"duplicate"}


def test_a_change_knows_what_was_given() -> None:
    """`batch: null` is another wish than no batch at all."""
    assert "batch" in WebhookChange.model_validate_json(b'{"batch":null}').model_fields_set
    assert "batch" not in WebhookChange.model_validate_json(b"{}").model_fields_set


@pytest.mark.parametrize(
    "headers",
    [
        *({"Host": "x"}, {"content-LENGTH": "1"}, {"Webhook-Id": "x"}, {"Transfer-Encoding": "chunked"}, {"": "x"}),
        *(
            {"X Y": "x"},
            {"X:": "x"},
            {"X": ""},
            {"X": "a\r\nb: c"},
            {"X": "\u00e4"},
            {"X": "a" * 1_025},
            {"x": "1", "X": "2"},
        ),
    ],
)
def test_headers_that_are_refused(headers: dict[str, str]) -> None:
    """Ours and the connection's, what is no name, what would end a line; no message tells a value."""
    (fault,) = header_faults(headers)
    assert all(len(value) < 3 or value not in fault for value in headers.values())


def test_headers_that_are_fine() -> None:
    """Also the one that authorizes us."""
    assert list(header_faults({"Authorization": "Bearer abc def", "X-Team": "b", "x-z": "a" * 1_024})) == []


def test_a_stop_holds_until_the_next_enabling() -> None:
    """An older stop says nothing about a webhook that was enabled since; one that its owner disabled is disabled."""
    webhook = webhook_of()
    assert stop_of(webhook, None) is None
    stop = StopRecord(webhook.enablings, Stop.GONE, 5)
    assert stop_of(webhook, encode_stop(stop)) == stop
    assert stop_of(replace(webhook, enablings=3), encode_stop(stop)) is None
    by_user = stop_of(replace(webhook, is_enabled=False), None)
    assert by_user is not None
    assert by_user.reason is Stop.BY_USER


def test_signatures_of_a_rotation() -> None:
    """Old and new secret sign for a day; then the new one alone; never more than so many."""
    now_ms = time.time_ns() // 1_000_000
    new = make_secret(b"n" * 32)
    rotated = CONFIDENTIAL.rotated(new, now_ms)
    message = Message("id", '{"a":"ä"}'.encode(), messages.SINGLE_TYPE, 1)
    fields = header_fields(message, rotated, now_ms)
    for secret in (SECRET, new):
        assert Verifier(secret).verify(message.body, fields) == {"a": "ä"}
    with pytest.raises(WebhookVerificationError):
        Verifier(make_secret(b"o" * 32)).verify(message.body, fields)
    assert rotated.signing(now_ms + OVERLAP_MS) == [new]
    for number in range(5):
        rotated = rotated.rotated(make_secret(bytes([number]) * 32), now_ms)
    assert len(rotated.secrets) == SECRETS_MAX


def test_our_fields_are_ours() -> None:
    """What a tenant asked for cannot replace what we set."""
    fields = header_fields(messages.single({"id": "e"}), CONFIDENTIAL, 1_000)
    assert fields["webhook-id"] == "e"
    assert fields["webhook-timestamp"] == "1"
    assert fields["X-Key"] == "v"
