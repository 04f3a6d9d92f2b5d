"""`GET /v1/health`: whether a tenant's figures are fresh and proved. `GET /v1/reports/minutes`: its last hour."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request

from reporting.authorize import reader_of
from reporting.documentation import REFUSALS, Responses, Schemas, answer
from reporting.parameters import strict_router
from reporting.pipeline import PATIENCE_S, Pipeline
from reporting.problems import Refused
from reporting.state import State
from shared.clickhouse import ClickHouse
from shared.errors import ClickledgerError
from shared.rte import rfc3339

WINDOW_S: Final = 900
"""Seconds whose rows freshness is measured over."""
MINUTES: Final = 60

_FRESHNESS: Final = """
SELECT count(), quantilesExact(0.5, 0.99)(dateDiff('millisecond', received_at, inserted_at))
FROM clicks
WHERE tenant = {tenant:String} AND inserted_at >= now64(3) - toIntervalSecond({seconds:UInt32})
    AND source IN ('api', 'batch')
"""
"""From the 200 to the row; what waited in a spool or was reprocessed is late for other reasons."""

_MINUTES: Final = """
SELECT toUnixTimestamp(toStartOfMinute(received_at)) AS minute, countIf(NOT is_bot), countIf(is_bot)
FROM clicks
WHERE tenant = {tenant:String} AND status = 'accepted' AND received_at >= toDateTime({first:UInt32}, 'UTC')
    AND ({promotion:String} = '' OR promotion_id = {promotion:String})
GROUP BY minute
"""

_TIME: Final = {"type": "string", "format": "date-time"}
_NUMBER_OR_NULL: Final = {"type": ["integer", "null"]}
_STATE: Final = {"enum": ["ok", "unreachable"]}


def _shape(description: str, **properties: Any) -> dict[str, Any]:
    shape = {"type": "object", "required": list(properties), "additionalProperties": False, "properties": properties}
    return {**shape, "description": description}


SCHEMAS: Final[Schemas] = {
    "Health": _shape(
        "null and `unknown` are what cannot be told now. Pipeline, audit, gaps and spools are those of all tenants.",
        tenant={"type": "string"},
        zone={"type": "string", "description": "Time zone of the tenant's days"},
        at={**_TIME, "description": "Of this look; it serves everybody for two seconds"},
        clickhouse=_shape("The table", state=_STATE),
        kafka=_shape("The topic of raw clicks", state=_STATE),
        lag=_shape("How old the oldest click is that has no row yet; 0: all have", behind_ms=_NUMBER_OR_NULL),
        freshness=_shape(
            "From the 200 to the row, of the tenant's clicks that became rows in the last `window_s` seconds",
            window_s={"type": "integer"},
            rows=_NUMBER_OR_NULL,
            p50_ms=_NUMBER_OR_NULL,
            p99_ms=_NUMBER_OR_NULL,
        ),
        audit=_shape(
            "The last `clickledger audit` that was recorded",
            state={"enum": ["clean", "not_clean", "no_verdict", "never", "unknown"]},
            at={"type": ["string", "null"], "format": "date-time"},
            findings=_NUMBER_OR_NULL,
        ),
        gaps=_shape("Ranges of clicks that somebody accepted as lost", accepted=_NUMBER_OR_NULL),
        spool=_shape(
            "API processes that keep clicks on disk while Kafka does not take them",
            processes={"type": "integer"},
            holding={"type": "integer", "description": "hold clicks that are in no figure yet"},
            silent={"type": "integer", "description": "were not heard of: nobody knows what they hold"},
        ),
    ),
    "Minutes": _shape(
        "Accepted clicks by the minute in which they were received",
        tenant={"type": "string"},
        rows={
            "type": "array",
            "items": _shape(
                "One minute; those without clicks too",
                minute=_TIME,
                clicks={"type": "integer", "description": "without bots"},
                bot_clicks={"type": "integer"},
            ),
        },
    ),
}
_HEALTH: Final[Responses] = REFUSALS | {200: answer("How things are", {"$ref": "#/components/schemas/Health"})}
_LAST_HOUR: Final[Responses] = REFUSALS | {200: answer("The last hour", {"$ref": "#/components/schemas/Minutes"})}


def router(state: State) -> APIRouter:
    """The routes."""
    routes = strict_router()

    @routes.get("/v1/health", summary="Whether the figures are fresh and proved", responses=_HEALTH)
    async def read_health(request: Request) -> dict[str, Any]:
        reader = reader_of(state, request)
        freshness, pipeline = await asyncio.gather(_freshness(state, reader.tenant), state.dashboard.pipeline.look())
        return {"tenant": reader.tenant, "zone": reader.zone, **_told(pipeline), "freshness": freshness}

    @routes.get("/v1/reports/minutes", summary="Clicks of the last hour by minute", responses=_LAST_HOUR)
    async def read_minutes(
        request: Request,
        promotion_id: Annotated[str, Query(max_length=256, description="Only this promotion")] = "",
    ) -> dict[str, Any]:
        reader = reader_of(state, request)
        async with state.turns.one(reader.tenant):
            rows = await _minutes(state.clickhouse, reader.tenant, promotion_id, int(time.time()))
        return {"tenant": reader.tenant, "rows": rows}

    return routes


async def _freshness(state: State, tenant: str) -> dict[str, Any]:
    """Of a tenant; nulls without rows, and while ClickHouse does not answer."""
    rows: int | None = None
    quantiles: tuple[int | None, int | None] = (None, None)
    try:
        async with asyncio.timeout(PATIENCE_S), state.turns.one(tenant):
            params = {"tenant": tenant, "seconds": WINDOW_S}
            ((rows, found),) = await state.clickhouse.query(_FRESHNESS, params)
            quantiles = (int(found[0]), int(found[1])) if rows else quantiles
    except (ClickledgerError, Refused, TimeoutError):  # Refused: too many wait for their turn
        rows = None
    return {"window_s": WINDOW_S, "rows": rows, "p50_ms": quantiles[0], "p99_ms": quantiles[1]}


async def _minutes(clickhouse: ClickHouse, tenant: str, promotion_id: str, now_s: int) -> list[dict[str, Any]]:
    """The last hour's minutes in order, the one that is running last. Raises as ClickHouse does."""
    first = now_s - now_s % 60 - 60 * (MINUTES - 1)
    params = {"tenant": tenant, "first": first, "promotion": promotion_id}
    found = {int(minute): (clicks, bots) for minute, clicks, bots in await clickhouse.query(_MINUTES, params)}
    rows = []
    for minute in range(first, first + 60 * MINUTES, 60):
        clicks, bots = found.get(minute, (0, 0))
        rows.append({"minute": rfc3339(minute * 1000), "clicks": int(clicks), "bot_clicks": int(bots)})
    return rows


def _told(pipeline: Pipeline) -> dict[str, Any]:
    """What everybody may know of the pipeline."""
    at_ms, verdict, findings = pipeline.audit or (None, "unknown" if pipeline.is_audited is None else "never", None)
    return {
        "at": rfc3339(pipeline.at_ms),
        "clickhouse": {"state": "ok" if pipeline.has_clickhouse else "unreachable"},
        "kafka": {"state": "ok" if pipeline.has_kafka else "unreachable"},
        "lag": {"behind_ms": pipeline.behind_ms},
        "audit": {"state": verdict, "at": None if at_ms is None else rfc3339(at_ms), "findings": findings},
        "gaps": {"accepted": pipeline.accepted_gaps},
        "spool": {
            "processes": pipeline.spools,
            "holding": pipeline.spools_holding,
            "silent": pipeline.spools_silent,
        },
    }
