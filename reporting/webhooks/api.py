"""`/v1/webhooks`: make, read, change, try, replay. Grant `webhooks`; another tenant's webhook is as if it did not exist."""

from __future__ import annotations

import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError

from reporting.authorize import reader_of
from reporting.parameters import strict_router
from reporting.problems import Refused
from reporting.state import State
from reporting.webhooks import documentation as docs
from reporting.webhooks.model import ReplayBody, WebhookBody, WebhookChange
from reporting.webhooks.registry import Conflicting, Faulty, Made, Registry, Unavailable
from shared.clicked_at import clicked_at_ms
from shared.keys import Grant

B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")

BODY_BYTES_MAX: Final = 512 << 10
"""A filter of a hundred promotions and a hundred links of 2,048 characters, and room."""
TIME_MS_MAX: Final = 253_402_300_799_999
"""The end of the year 9999."""


def router(state: State) -> APIRouter:
    """The routes."""
    api = strict_router()
    base = "/v1/webhooks"

    @api.post(base, summary="Make a webhook", status_code=201, **docs.CREATE)
    async def create(request: Request) -> JSONResponse:
        tenant, registry = _caller(state, request)
        made = await _asked(registry.create(tenant, await _body(request, WebhookBody)))
        return JSONResponse(_with_secret(made), HTTPStatus.CREATED)

    @api.get(base, summary="The tenant's webhooks", **docs.LIST)
    async def read_all(request: Request) -> dict[str, Any]:
        tenant, registry = _caller(state, request)
        return {"webhooks": registry.all(tenant)}

    @api.get(f"{base}/{{webhook_id}}", summary="One webhook", **docs.READ)
    async def read_one(request: Request, webhook_id: str) -> dict[str, Any]:
        tenant, registry = _caller(state, request)
        return _found(registry.one(tenant, webhook_id))

    @api.patch(f"{base}/{{webhook_id}}", summary="Change a webhook", **docs.CHANGE)
    async def change(request: Request, webhook_id: str) -> dict[str, Any]:
        tenant, registry = _caller(state, request)
        return _found(await _asked(registry.change(tenant, webhook_id, await _body(request, WebhookChange))))

    @api.delete(f"{base}/{{webhook_id}}", summary="Delete a webhook", **docs.DELETE)
    async def delete(request: Request, webhook_id: str) -> dict[str, Any]:
        tenant, registry = _caller(state, request)
        return _found({"deleted": True} if await registry.delete(tenant, webhook_id) else None)

    @api.post(f"{base}/{{webhook_id}}/rotate", summary="A new signing secret", **docs.ROTATE)
    async def rotate(request: Request, webhook_id: str) -> dict[str, Any]:
        tenant, registry = _caller(state, request)
        return _with_secret(_found(await _asked(registry.rotate(tenant, webhook_id))))

    @api.post(f"{base}/{{webhook_id}}/test", summary="Send a test event", **docs.TEST)
    async def test(request: Request, webhook_id: str) -> JSONResponse:
        tenant, registry = _caller(state, request)
        found = _found(await _asked(registry.test(tenant, webhook_id)))
        return JSONResponse(found, HTTPStatus.OK if "outcome" in found else HTTPStatus.ACCEPTED)

    @api.get(f"{base}/{{webhook_id}}/deliveries", summary="The newest attempts", **docs.DELIVERIES)
    async def deliveries(
        request: Request, webhook_id: str, limit: Annotated[int, Query(ge=1, le=1_000, description="Of them")] = 100
    ) -> dict[str, Any]:
        tenant, registry = _caller(state, request)
        return {"deliveries": _found(registry.deliveries(tenant, webhook_id, limit))}

    @api.post(f"{base}/{{webhook_id}}/replay", summary="Send events again", status_code=202, **docs.REPLAY)
    async def replay(request: Request, webhook_id: str) -> JSONResponse:
        tenant, registry = _caller(state, request)
        body = await _body(request, ReplayBody)
        from_ms, to_ms = _time_ms("from", body.from_), _now_ms() if body.to is None else _time_ms("to", body.to)
        found = _found(await _asked(registry.replay(tenant, webhook_id, from_ms, to_ms)))
        return JSONResponse(found, HTTPStatus.ACCEPTED)

    return api


def _caller(state: State, request: Request) -> tuple[str, Registry]:
    tenant = reader_of(state, request, Grant.WEBHOOKS).tenant
    if state.webhooks is None:
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "Webhooks are not served here")
    return tenant, state.webhooks


async def _asked(work: Any) -> Any:
    try:
        return await work
    except Faulty as exc:
        raise Refused(HTTPStatus.BAD_REQUEST, str(exc)) from exc
    except Conflicting as exc:
        raise Refused(HTTPStatus.CONFLICT, str(exc)) from exc
    except Unavailable as exc:
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, str(exc)) from exc


def _found(found: T | None) -> T:
    if found is None:
        raise Refused(HTTPStatus.NOT_FOUND, "There is no such webhook")
    return found


def _with_secret(made: Made) -> dict[str, Any]:
    return {**made.view, "secret": made.secret}


async def _body(request: Request, shape: type[B]) -> B:
    """The request's body. Raises Refused; no message has a value of the request in it."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_BYTES_MAX:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body has more than {BODY_BYTES_MAX:,} bytes")
    try:
        return shape.model_validate_json(bytes(body))
    except ValidationError as exc:
        raise Refused(HTTPStatus.BAD_REQUEST, "; ".join(map(_fault, exc.errors()[:10]))) from exc


def _fault(error: Mapping[str, Any]) -> str:
    where = ".".join(str(part)[:64] for part in error["loc"])
    return f"{where}: {error['msg']}" if where else str(error["msg"])


def _time_ms(name: str, value: str | int) -> int:
    """ISO 8601 with zone, or milliseconds. Raises Refused."""
    when = clicked_at_ms(value)
    if when is None:
        raise Refused(HTTPStatus.BAD_REQUEST, f"{name}: a time with its zone, as 2026-05-31T12:00:00Z")
    if not 0 <= when <= TIME_MS_MAX:
        raise Refused(HTTPStatus.BAD_REQUEST, f"{name}: no time of the years 1970 to 9999")
    return when


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
