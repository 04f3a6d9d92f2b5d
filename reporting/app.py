"""The HTTP surface of the reports."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse

from reporting import ctr, documentation
from reporting.authorize import Directory, Reader, find_reader
from reporting.problems import Refused, add_handlers
from reporting.turns import Turns
from shared.clickhouse import ClickHouse
from shared.runtime import Runtime, readiness


@dataclass(frozen=True, slots=True)
class State:
    """What requests need, made once per process."""

    catalog: Directory
    clickhouse: ClickHouse
    runtime: Runtime
    turns: Turns


def build_app(state: State) -> FastAPI:
    """The application."""
    app = FastAPI(title="Clickledger reports", docs_url=None, redoc_url=None)
    add_handlers(app)
    documentation.complete(app)

    @app.get("/livez", include_in_schema=False)
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> JSONResponse:
        reasons = state.runtime.why_not_ready()
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        return JSONResponse(readiness(reasons), status)

    @app.get(
        "/v1/reports/ctr", summary="Clicks and click-through rate by promotion and day", responses=documentation.CTR
    )
    async def read_ctr(
        request: Request,
        first: Annotated[
            date | None, Query(alias="from", description="First day, tenant's zone [29 days before]")
        ] = None,
        last: Annotated[date | None, Query(alias="to", description="Last day, tenant's zone [today]")] = None,
        promotion_id: Annotated[str, Query(max_length=256, description="Only this promotion")] = "",
    ) -> dict[str, Any]:
        reader = _reader(state, request)
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

    return app


def _reader(state: State, request: Request) -> Reader:
    values = [value for name, value in request.headers.raw if name == b"authorization"]
    state.catalog.refresh()
    return find_reader(state.catalog, values, time.time_ns() // 1_000_000)
