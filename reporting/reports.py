"""`GET /v1/reports/…`: figures by promotion and day."""

from __future__ import annotations

from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request

from reporting import ctr
from reporting.authorize import reader_of
from reporting.documentation import REFUSALS, Responses, Schemas, answer
from reporting.parameters import strict_router
from reporting.problems import Refused
from reporting.state import State

SCHEMAS: Final[Schemas] = {
    "CtrRow": {
        "type": "object",
        "description": "One promotion on one day of the tenant's zone. Bots are not among the clicks.",
        "properties": {
            "day": {"type": "string", "format": "date"},
            "promotion_id": {"type": "string"},
            "promotion": {"type": "string"},
            "campaign_id": {"type": "string"},
            "clicks": {"type": "integer"},
            "recipients": {"type": "integer"},
            "bot_clicks": {"type": "integer"},
            "sent": {"type": ["integer", "null"]},
            "delivered": {"type": ["integer", "null"]},
            "ctr_percent": {"type": ["number", "null"]},
        },
    },
    "CtrReport": {
        "type": "object",
        "required": ["tenant", "zone", "from", "to", "rows", "attribution"],
        "properties": {
            "tenant": {"type": "string"},
            "zone": {"type": "string"},
            "from": {"type": "string", "format": "date"},
            "to": {"type": "string", "format": "date"},
            "rows": {"type": "array", "items": {"$ref": "#/components/schemas/CtrRow"}},
            "attribution": {"type": "object"},
        },
    },
}

_CTR: Final[Responses] = REFUSALS | {
    200: answer("The report", {"$ref": "#/components/schemas/CtrReport"}),
    413: answer("More rows than one answer holds"),
}


def router(state: State) -> APIRouter:
    """The routes of the reports."""
    routes = strict_router()

    @routes.get("/v1/reports/ctr", summary="Clicks and click-through rate by promotion and day", responses=_CTR)
    async def read_ctr(
        request: Request,
        first: Annotated[
            date | None, Query(alias="from", description="First day, tenant's zone [29 days before]")
        ] = None,
        last: Annotated[date | None, Query(alias="to", description="Last day, tenant's zone [today]")] = None,
        promotion_id: Annotated[str, Query(max_length=256, description="Only this promotion")] = "",
    ) -> dict[str, Any]:
        reader = reader_of(state, request)
        try:
            period = ctr.period_of(first, last, reader.zone, datetime.now(UTC))
        except ValueError as exc:
            raise Refused(HTTPStatus.BAD_REQUEST, str(exc)) from exc
        async with state.turns.one():
            rows = await ctr.read(state.clickhouse, reader.tenant, period, promotion_id)
        if len(rows) > ctr.ROWS_MAX:
            text = f"More than {ctr.ROWS_MAX:,} rows: ask for fewer days or one promotion"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
        return {
            "tenant": reader.tenant,
            "zone": reader.zone,
            "from": str(period.first),
            "to": str(period.last),
            "rows": rows,
            "attribution": ctr.ATTRIBUTION,
        }

    return routes
