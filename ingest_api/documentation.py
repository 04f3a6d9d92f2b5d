"""What the API says about itself: OpenAPI texts and examples, taken from the answer table where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ingest_api.answers import Answers, Published, Refusal

Documented = Mapping[str, Any]
"""Keyword arguments of a FastAPI route."""

DESCRIPTION: Final = (
    "Reports of clicks on short links, from apps that open them as universal links. A 200 with a `transaction-id` means "
    "that the click is durable and will be exactly one row; `code` and `description` mean that it was not accepted. "
    "A 500 may be tried again; with the same `Idempotency-Key` the click is counted once even if the first try arrived."
)
TAGS: Final = [
    {"name": "clicks", "description": "Report clicks. Grant `shortlinkclicks`."},
    {"name": "links", "description": "Register and list short links, explain how they resolve. Grant `admin`."},
    {"name": "promotions", "description": "Register promotions with their denominators. Grant `admin`."},
    {"name": "health", "description": "For load balancers and orchestrators; no key needed."},
]

EXAMPLE_CLICK: Final = {
    "short-url": "http://shortdomain/dsltrack/employee/j460A8",
    "user-agent": " Mozilla/5.0 (Windows NT 6.1; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/64.0.3282.186 Safari/537.36",
    "ip-address": "203.199.178.211",
}
EXAMPLE_ID: Final = "0197a5d2-3c00-7004-8a11-5f0c0c9a7e21"

_ERROR: Final = {"$ref": "#/components/schemas/Error"}
_SECURITY: Final[list[dict[str, list[str]]]] = [{"bearer": []}]
_KEY: Final[dict[str, Any]] = {
    "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"},
    "description": "The same key gives the same transaction-id, so that a click that is sent again is counted once.",
}
_IDEMPOTENCY_KEY: Final = {"name": "Idempotency-Key", "in": "header", "required": False, **_KEY}
_CLICK_FIELDS: Final = {
    "short-url": {"type": "string", "description": "The short URL that was sent out in the promotion message."},
    "user-agent": {
        "type": ["string", "null"],
        "description": "Of the browser or app in which the link was clicked.",
    },
    "ip-address": {"type": ["string", "null"], "description": "Of the device that clicked."},
    "clicked-at": {
        "description": "When the click happened, if reported late: ISO 8601 with zone, or epoch milliseconds.",
        "type": ["string", "number", "null"],
    },
}

SCHEMAS: Final[dict[str, Any]] = {
    "Error": {
        "type": "object",
        "required": ["code", "description"],
        "additionalProperties": False,
        "properties": {
            "code": {"type": "string", "description": "A number as text (setting: as integer)."},
            "description": {"type": "string"},
        },
    },
    "Click": {
        "type": "object",
        "required": ["short-url"],
        "properties": _CLICK_FIELDS,
        "example": EXAMPLE_CLICK,
    },
    "BatchClick": {
        "type": "object",
        "required": ["short-url"],
        "properties": {**_CLICK_FIELDS, "idempotency-key": {**_KEY["schema"], "description": _KEY["description"]}},
        "example": {**EXAMPLE_CLICK, "idempotency-key": "a-1"},
    },
    "Accepted": {
        "type": "object",
        "required": ["transaction-id"],
        "additionalProperties": False,
        "properties": {"transaction-id": {"type": "string", "format": "uuid"}},
        "example": {"transaction-id": EXAMPLE_ID},
    },
    "Link": {
        "type": "object",
        "required": ["short_url", "promotion_id"],
        "additionalProperties": False,
        "properties": {
            "short_url": {"type": "string"},
            "promotion_id": {"type": "string"},
            "recipient": {"type": "string"},
            "link_name": {"type": "string"},
            "long_url": {"type": "string"},
            "sent_at": {"description": "ISO 8601 with zone, or epoch milliseconds"},
            "expires_at": {"description": "ISO 8601 with zone, or epoch milliseconds"},
            "disabled": {"type": "boolean"},
            "match": {"type": "string", "enum": ["exact", "prefix"], "default": "exact"},
        },
        "example": {
            "short_url": "http://shortdomain/dsltrack/employee/j460A8",
            "promotion_id": "spring",
            "recipient": "491700000000",
            "sent_at": "2026-05-31T08:00:00Z",
        },
    },
    "LinkRecord": {
        "type": "object",
        "required": ["tenant", "link", "promotion_id", "registered_at"],
        "properties": {
            "v": {"type": "integer"},
            "tenant": {"type": "string"},
            "link": {"type": "string", "description": "Host and path: what the short URL was normalised to."},
            "promotion_id": {"type": "string"},
            "recipient": {"type": "string"},
            "link_name": {"type": "string"},
            "long_url": {"type": "string"},
            "sent_at": {"type": ["integer", "null"], "description": "Epoch milliseconds"},
            "expires_at": {"type": ["integer", "null"], "description": "Epoch milliseconds"},
            "disabled": {"type": "boolean"},
            "match": {"type": "string", "enum": ["exact", "prefix"]},
            "registered_at": {"type": "integer", "description": "Epoch milliseconds"},
        },
    },
    "Promotion": {
        "type": "object",
        "required": ["promotion_id"],
        "additionalProperties": False,
        "properties": {
            "promotion_id": {"type": "string"},
            "name": {"type": "string"},
            "campaign_id": {"type": "string"},
            "deployment_id": {"type": "string"},
            "sent": {"type": "integer", "minimum": 0},
            "delivered": {"type": "integer", "minimum": 0},
            "sent_at": {"description": "ISO 8601 with zone, or epoch milliseconds"},
        },
        "example": {"promotion_id": "spring", "name": "Spring sale", "campaign_id": "c1", "sent": 1000},
    },
}


def _json(schema: Any, example: Any = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"application/json": content}


def _error(text: str, example: Any = None) -> dict[str, Any]:
    return {"description": text, "content": _json(_ERROR, example)}


def _published_errors() -> dict[int | str, dict[str, Any]]:
    """One response per HTTP status, with the published text of every code that it may carry as examples."""
    answers = Answers()
    responses: dict[int | str, dict[str, Any]] = {}
    for refusal in Refusal:
        answer = answers.refuse(refusal)
        if answer.status in (200, 404):
            continue
        response = responses.setdefault(answer.status, {"description": "", "content": _json(_ERROR)})
        examples = response["content"]["application/json"].setdefault("examples", {})
        examples[str(refusal)] = {"value": orjson.loads(answer.body)}
    for status, response in responses.items():
        texts = {code.text for code in Published if _status_of(answers, code) == status}
        response["description"] = " / ".join(sorted(texts))
    return responses


def _status_of(answers: Answers, code: Published) -> int:
    return next((answers.refuse(refusal).status for refusal in Refusal if _code(answers, refusal) == code.code), 0)


def _code(answers: Answers, refusal: Refusal) -> int:
    return int(orjson.loads(answers.refuse(refusal).body)["code"])


def _ndjson_body(schema: str) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{schema}"}
    return {
        "required": True,
        "content": {
            "application/x-ndjson": {"schema": reference},
            "application/json": {"schema": {"type": "array", "items": reference}},
        },
    }


def _results(key: str) -> dict[str, Any]:
    good = {"type": "object", "required": [key], "properties": {key: {"type": "string"}}}
    return {
        "description": "One result per line, in order.",
        "headers": {
            "X-Catalog-Version": {"schema": {"type": "integer"}, "description": "The version that holds the records."}
        },
        "content": _json({"type": "array", "items": {"oneOf": [good, _ERROR]}}),
    }


_COMMON_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: _error("Bad parameters"),
    401: _error("No valid key"),
    403: _error("The key has no grant for this"),
    429: _error("Too many requests"),
    503: _error("The catalog cannot be written, or is not level with its topic; try again"),
}


def _admin(tag: str, operation_id: str, summary: str, ok: dict[str, Any], body: Any = None) -> Documented:
    extra: dict[str, Any] = {"security": _SECURITY}
    errors = dict(_COMMON_ERRORS)
    if body is not None:
        extra["requestBody"] = body
        errors[413] = _error("Too many bytes or lines")
    else:
        errors[404] = _error("Not found, or another tenant's")
    return {
        "tags": [tag],
        "operation_id": operation_id,
        "summary": summary,
        "responses": {200: ok, **errors},
        "openapi_extra": extra,
    }


CLICK: Final[Documented] = {
    "tags": ["clicks"],
    "operation_id": "reportClick",
    "summary": "Report one click on a short link",
    "description": "The older prefix `/imicampaignapi` and a trailing slash are the same endpoint.",
    "responses": {
        200: {
            "description": f"Accepted and durable; or not recorded on purpose: {Published.NOT_PROCESSED.text} (1010)",
            "content": _json(
                {"oneOf": [{"$ref": "#/components/schemas/Accepted"}, _ERROR]}, {"transaction-id": EXAMPLE_ID}
            ),
        },
        **_published_errors(),
    },
    "openapi_extra": {
        "security": _SECURITY,
        "parameters": [_IDEMPOTENCY_KEY],
        "requestBody": {"required": True, "content": _json({"$ref": "#/components/schemas/Click"}, EXAMPLE_CLICK)},
    },
}
BATCH: Final[Documented] = {
    "tags": ["clicks"],
    "operation_id": "reportClicks",
    "summary": "Report up to 1,000 clicks",
    "description": "NDJSON or a JSON array. Each click may carry its own `idempotency-key`. A bad click refuses itself only.",
    "responses": {
        200: {
            "description": "One result per click, in order.",
            "content": _json(
                {"type": "array", "items": {"oneOf": [{"$ref": "#/components/schemas/Accepted"}, _ERROR]}},
                [{"transaction-id": EXAMPLE_ID}, {"code": "1003", "description": Published.NO_PROMOTION.text}],
            ),
        },
        **_published_errors(),
    },
    "openapi_extra": {"security": _SECURITY, "requestBody": _ndjson_body("BatchClick")},
}

_LINK_RECORD: Final = {"description": "The record.", "content": _json({"type": "object"})}
_LINKS_PAGE: Final = {
    "type": "object",
    "required": ["links", "next_cursor"],
    "additionalProperties": False,
    "properties": {
        "links": {"type": "array", "items": {"$ref": "#/components/schemas/LinkRecord"}},
        "next_cursor": {"type": ["string", "null"]},
    },
}
_DELETED: Final = {"description": "Deleted.", "content": _json({"type": "object"}, {"deleted": True})}

REGISTER_LINKS: Final = _admin(
    "links", "registerLinks", "Register or replace links", _results("link"), _ndjson_body("Link")
)
GET_LINKS: Final = _admin(
    "links",
    "getLinks",
    "The tenant's links, a page at a time, or with `short_url` one link",
    {
        "description": "A page, in the order of host and path: go on with `next_cursor` until it is null, whatever the "
        "number of links. With `short_url` the link's record.",
        "content": _json({"oneOf": [_LINKS_PAGE, {"$ref": "#/components/schemas/LinkRecord"}]}),
    },
)
DELETE_LINK: Final = _admin("links", "deleteLink", "Delete one link", _DELETED)
RESOLVE_LINK: Final = _admin(
    "links",
    "resolveLink",
    "Dry run: the key, the rule that matched, tenant, promotion, and why a click would not be recorded",
    {"description": "What a click now would be resolved to.", "content": _json({"type": "object"})},
    {"required": True, "content": _json({"type": "object"}, {"short-url": EXAMPLE_CLICK["short-url"]})},
)
REGISTER_PROMOTIONS: Final = _admin(
    "promotions",
    "registerPromotions",
    "Register or replace promotions",
    _results("promotion_id"),
    _ndjson_body("Promotion"),
)
GET_PROMOTION: Final = _admin("promotions", "getPromotion", "One promotion by its id", _LINK_RECORD)
DELETE_PROMOTION: Final = _admin("promotions", "deletePromotion", "Delete one promotion", _DELETED)
LIVE: Final[Documented] = {"tags": ["health"], "operation_id": "live", "summary": "The process answers"}
READY: Final[Documented] = {
    "tags": ["health"],
    "operation_id": "ready",
    "summary": "A click can be made durable and there is a catalog",
    "responses": {503: _error("Not ready; the description says why")},
}


def complete(app: FastAPI) -> None:
    """Add what FastAPI does not know: the schemas of bodies that it does not validate, and how to authenticate.

    Its own 422 is taken out, since no endpoint ever answers it.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                tags=app.openapi_tags,
                routes=app.routes,
            )
            components = schema.setdefault("components", {})
            components["schemas"] = SCHEMAS
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Access token or API secret key"}
            }
            for operations in schema["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
