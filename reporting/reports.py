"""`GET /v1/reports/…`: the figures of a tenant's clicks, by any of their dimensions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from reporting.authorize import Reader, reader_of
from reporting.dimensions import BY_MAX, FILTERS, OTHERS, OWNERS, TIMES, By, check_empty, parse_by
from reporting.documentation import REFUSALS, Responses, Schemas, answer
from reporting.figures import NUMBERS, ROWS_MAX, TOO_MANY, Question, count_groups, knows_promotion, read, says_nothing
from reporting.parameters import strict_router
from reporting.periods import DAYS_DEFAULT, period_of, zone_of
from reporting.problems import Refused
from reporting.state import State
from reporting.tables import as_csv, as_xlsx

ATTRIBUTION: Final = {"text": "IP Geolocation by DB-IP", "url": "https://db-ip.com"}
"""Asked for by the licence of the country database (CC BY 4.0)."""
_ATTRIBUTED: Final = {"countries": " ".join(ATTRIBUTION.values())}
CTR_BY: Final = (*OWNERS, By.LINK, By.LINK_NAME, *TIMES)
"""What the click-through report is divided by; the other one by everything."""


_BY: Final = f"At most {BY_MAX} of {{}}, separated by commas; none: one row"
Value = Annotated[
    str | None, Field(min_length=1, max_length=2048, description="Only this value; Others is the missing one")
]


class Format(StrEnum):
    """How a report is sent."""

    JSON = "json"
    CSV = "csv"
    XLSX = "xlsx"


_TYPES: Final = {
    Format.CSV: "text/csv",
    Format.XLSX: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
_COUNTS, _RATES = NUMBERS[:4], NUMBERS[7:]
_NUMBERS: Final = (
    {name: {"type": "integer"} for name in _COUNTS}
    | {name: {"type": ["integer", "null"]} for name in ("unique_recipients", "sent", "delivered")}
    | {name: {"type": ["number", "null"]} for name in _RATES}
)
SCHEMAS: Final[Schemas] = {
    "ReportRow": {
        "type": "object",
        "description": "The values that it is of, a column for each dimension, and the numbers.",
        "required": list(NUMBERS),
        "properties": _NUMBERS,
        "additionalProperties": {"type": "string"},
    },
    "Report": {
        "type": "object",
        "required": ["tenant", "zone", "from", "to", "by", "groups", "rows", "attribution"],
        "properties": {
            "tenant": {"type": "string"},
            "zone": {"type": "string", "description": "IANA name of the zone of days and hours"},
            "from": {"type": "string", "format": "date-time"},
            "to": {"type": "string", "format": "date-time", "description": "not included"},
            "by": {"type": "array", "items": {"enum": list(By)}},
            "groups": {"type": "integer", "description": "Rows that there are without `limit`"},
            "rows": {"type": "array", "items": {"$ref": "#/components/schemas/ReportRow"}},
            "attribution": {"type": "object"},
        },
    },
}
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_OK: Final = answer("The report", {"$ref": "#/components/schemas/Report"})
_RESPONSES: Final[Responses] = REFUSALS | {
    200: _OK
    | {"content": _OK["content"] | {_TYPES[Format.CSV]: {"schema": {"type": "string"}}, _TYPES[Format.XLSX]: _BINARY}},
    404: answer(
        "`promotion_id` names no promotion of the tenant's; one that was just registered is known within seconds"
    ),
    413: answer("More rows than one answer holds"),
}


class Asked(BaseModel):
    """The query parameters of a report."""

    first: str = Field(
        "",
        alias="from",
        max_length=40,
        description=f"First day, `2026-05-01`, or moment, `2026-05-01T10:00:00Z` [{DAYS_DEFAULT} days]",
    )
    last: str = Field("", alias="to", max_length=40, description="Last day, included, or moment, not included [today]")
    zone: str = Field("", max_length=64, description="IANA time zone of hours, days and weeks [the tenant's]")
    by: str = ""
    unique: bool = Field(
        default=True,
        description="Whether different recipients are counted; false is faster, many millions of clicks need it",
    )
    empty: bool = Field(
        default=False,
        description="Whether groups without a click have rows too: every registered promotion, campaign or deployment, "
        "or every hour, day or week of the period; by one of these",
    )
    limit: int | None = Field(
        None, ge=1, le=ROWS_MAX, description="Only so many rows, those with the most clicks; `groups` says of how many"
    )
    format: Format | None = Field(None, description="[json, or what `Accept` names]")
    promotion_id: Value = None
    campaign_id: Value = None
    deployment_id: Value = None
    link: Value = None
    link_name: Value = None
    browser: Value = None
    os: Value = None
    device: Value = None
    device_brand: Value = None
    device_type: Value = None
    resolution: Value = None
    country: Value = None
    bot_reason: Value = None
    source: Value = None

    @property
    def filters(self) -> dict[str, str]:
        """Column -> the value that the report is narrowed to."""
        return {column: value for column in FILTERS if (value := getattr(self, column)) is not None}


class CtrAsked(Asked):
    """Those of the click-through report."""

    by: str = Field(By.PROMOTION, max_length=256, description=_BY.format(", ".join(CTR_BY)))


class BreakdownAsked(Asked):
    """Those of a breakdown."""

    by: str = Field(By.BROWSER, max_length=256, description=_BY.format(", ".join(By)))


def router(state: State) -> APIRouter:
    """The routes of the reports."""
    routes = strict_router()

    @routes.get("/v1/reports/ctr", summary="Click-through by promotion, link and time", responses=_RESPONSES)
    async def read_ctr(request: Request, asked: Annotated[CtrAsked, Query()]) -> Response:
        return await _report(state, request, "ctr", asked, CTR_BY)

    @routes.get("/v1/reports/breakdown", summary="Clicks by any dimensions", responses=_RESPONSES)
    async def read_breakdown(request: Request, asked: Annotated[BreakdownAsked, Query()]) -> Response:
        return await _report(state, request, "breakdown", asked, tuple(By))

    return routes


async def _report(state: State, request: Request, name: str, asked: Asked, allowed: Sequence[By]) -> Response:
    reader = reader_of(state, request)
    try:
        question = question_of(asked, reader, allowed, datetime.now(UTC))
    except ValueError as exc:
        raise Refused(HTTPStatus.BAD_REQUEST, str(exc)) from exc
    async with state.turns.one(reader.tenant):
        rows = await read(state.clickhouse, question)
        is_cut = len(rows) == question.limit
        groups = await count_groups(state.clickhouse, question) if is_cut else len(rows)
        if says_nothing(rows):
            await _refuse_unknown_promotion(state, question)
    if len(rows) > ROWS_MAX:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TOO_MANY)
    return await _answer(name, question, rows, groups, asked.format or _accepted(request))


async def _refuse_unknown_promotion(state: State, question: Question) -> None:
    """Raise Refused where a report says nothing because it is of a promotion that does not exist."""
    promotion = question.filters.get("promotion_id", OTHERS)
    if promotion != OTHERS and not await knows_promotion(state.clickhouse, question.tenant, promotion):
        raise Refused(HTTPStatus.NOT_FOUND, f"No promotion {promotion[:64]!r} is registered, and none has clicks")


def question_of(asked: Asked, reader: Reader, allowed: Sequence[By], now: datetime) -> Question:
    """What is asked for. Raises ValueError, saying what is wrong."""
    period = period_of(asked.first, asked.last, zone_of(asked.zone or reader.zone), now)
    by = parse_by(asked.by, allowed)
    if asked.empty:
        check_empty(by)
    return Question(reader.tenant, period, by, asked.filters, asked.unique, asked.empty, asked.limit)


def _accepted(request: Request) -> Format:
    first = request.headers.get("accept", "").split(",")[0].split(";")[0].strip().lower()
    return next((form for form, media_type in _TYPES.items() if media_type == first), Format.JSON)


async def _answer(name: str, question: Question, rows: list[dict[str, Any]], groups: int, form: Format) -> Response:
    period = question.period
    if form is Format.JSON:
        counted = {"by": list(question.by), "groups": groups, "rows": rows}
        found = {**_about(question), **counted, "attribution": ATTRIBUTION}
        return JSONResponse(found)
    if form is Format.CSV:
        body = await asyncio.to_thread(as_csv, question.columns, rows)
    else:
        facts = {
            **_about(question),
            **question.filters,
            "by": ", ".join(question.by),
            "groups": str(groups),
            **_ATTRIBUTED,
        }
        body = await asyncio.to_thread(as_xlsx, question.columns, rows, facts)
    file = f"{name}-{period.first}-{period.last}.{form}"
    return Response(body, media_type=_TYPES[form], headers={"content-disposition": f'attachment; filename="{file}"'})


def _about(question: Question) -> dict[str, Any]:
    period = question.period
    bounds = {"from": period.begin.isoformat(), "to": period.end.isoformat()}
    return {"tenant": question.tenant, "zone": period.zone.key} | bounds
