"""What the routes of webhooks say about themselves, in OpenAPI."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from reporting.documentation import REFUSALS, Schemas, answer
from reporting.webhooks.model import ReplayBody, WebhookBody, WebhookChange
from reporting.webhooks.schedule import Outcome, Stop

_TIME: Final = {"type": "string", "format": "date-time"}
_MAYBE_TIME: Final = {"type": ["string", "null"], "format": "date-time"}
_BODIES: Final[tuple[type[BaseModel], ...]] = (WebhookBody, WebhookChange, ReplayBody)


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties, **more}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_REPLAY: Final = _object(
    {"id": {"type": "string"}, "from": _TIME, "to": _TIME, "delivered_events": {"type": "integer"}},
    description="Events that are sent again, beside the live ones.",
)
_WEBHOOK: Final = _object(
    {
        "id": {"type": "string"},
        "url": {"type": ["string", "null"], "description": "null: sealed with another key than this process has"},
        "description": {"type": "string"},
        "enabled": {"type": "boolean"},
        "disabled": {
            "oneOf": [
                {"type": "null"},
                _object({"reason": {"type": "string", "enum": [str(reason) for reason in Stop]}, "at": _TIME}),
            ]
        },
        "filter": _ref("FilterBody"),
        "batch": {"oneOf": [{"type": "null"}, _ref("BatchBody")]},
        "headers": {"type": "array", "items": {"type": "string"}, "description": "Names; values are not shown."},
        "created_at": _TIME,
        "updated_at": _TIME,
        "failures": {"type": "integer", "description": "Failed attempts since the last success."},
        "skipped_events": {"type": "integer", "description": "Given up after the last attempt."},
        "lost_offsets": {"type": "integer", "description": "Records that Kafka deleted before they were read."},
        "next_attempt_at": _MAYBE_TIME,
        "replay": {"oneOf": [{"type": "null"}, _ref("WebhookReplay")]},
    }
)
_SECRET: Final = {"type": "string", "description": "Signs; shown this once.", "pattern": "^whsec_"}
_DELIVERY: Final = {
    "type": "object",
    "required": ["id"],
    "description": "One attempt. A test that had no outcome in time has its id only.",
    "properties": {
        "id": {"type": "string", "description": "The field webhook-id."},
        "kind": {"type": "string", "enum": ["live", "replay", "test"]},
        "events": {"type": "integer"},
        "attempt": {"type": "integer", "description": "Of the same events, from 1."},
        "at": _TIME,
        "duration_ms": {"type": "integer"},
        "outcome": {"type": "string", "enum": [str(outcome) for outcome in Outcome]},
        "status": {"type": ["integer", "null"]},
        "skipped": {"type": "boolean", "description": "It was the last attempt."},
        "disabled": {"type": ["string", "null"], "enum": [*(str(reason) for reason in Stop), None]},
        "next_attempt_at": _MAYBE_TIME,
    },
}

_DEFINED: Final[dict[str, Any]] = models_json_schema(
    [(body, "validation") for body in _BODIES], ref_template="#/components/schemas/{model}"
)[1]["$defs"]
SCHEMAS: Final[Schemas] = {
    **_DEFINED,
    "Webhook": _WEBHOOK,
    "WebhookMade": {"allOf": [_ref("Webhook"), _object({"secret": _SECRET})]},
    "WebhookReplay": _REPLAY,
    "WebhookDelivery": _DELIVERY,
}

_COMMON: Final = {
    **REFUSALS,
    400: answer("Bad parameters or a bad body: unknown, missing, or not what it should be"),
    403: answer("The key has not the grant `webhooks`"),
}
_NONE: Final = {404: answer("The tenant has no such webhook")}
_TOO_LARGE: Final = {413: answer("The body is too large")}


def _body(name: str) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _ref(name)}}}}


def _ok(description: str, schema: dict[str, Any], status: int = 200) -> dict[int | str, Any]:
    return {status: answer(description, schema)}


def _list(name: str, shape: str) -> dict[str, Any]:
    return _object({name: {"type": "array", "items": _ref(shape)}})


CREATE: Final[dict[str, Any]] = {
    "responses": {
        **_ok("Made; it begins with the next event", _ref("WebhookMade"), 201),
        **_COMMON,
        **_TOO_LARGE,
        409: answer("The tenant has as many webhooks as may be"),
    },
    "openapi_extra": _body("WebhookBody"),
}
LIST: Final[dict[str, Any]] = {"responses": {**_ok("All of them", _list("webhooks", "Webhook")), **_COMMON}}
READ: Final[dict[str, Any]] = {"responses": {**_ok("It", _ref("Webhook")), **_COMMON, **_NONE}}
CHANGE: Final[dict[str, Any]] = {
    "responses": {**_ok("As it is now", _ref("Webhook")), **_COMMON, **_NONE, **_TOO_LARGE},
    "openapi_extra": _body("WebhookChange"),
}
DELETE: Final[dict[str, Any]] = {
    "responses": {**_ok("Deleted", _object({"deleted": {"type": "boolean"}})), **_COMMON, **_NONE}
}
ROTATE: Final[dict[str, Any]] = {"responses": {**_ok("With its new secret", _ref("WebhookMade")), **_COMMON, **_NONE}}
TEST: Final[dict[str, Any]] = {
    "responses": {
        **_ok("How it went", _ref("WebhookDelivery")),
        **_ok("No outcome in time: see the deliveries", _ref("WebhookDelivery"), 202),
        **_COMMON,
        **_NONE,
        409: answer("A test of this webhook is under way"),
        503: answer("Not at the moment, or too many webhooks are being tested; with Retry-After"),
    }
}
DELIVERIES: Final[dict[str, Any]] = {
    "responses": {**_ok("Newest first", _list("deliveries", "WebhookDelivery")), **_COMMON, **_NONE}
}
REPLAY: Final[dict[str, Any]] = {
    "responses": {
        **_ok("It begins", _ref("WebhookReplay"), 202),
        **_COMMON,
        **_NONE,
        **_TOO_LARGE,
        409: answer("A replay of this webhook is under way"),
    },
    "openapi_extra": _body("ReplayBody"),
}
