"""`GET /v1/edr`: event detail records of a time range, or of what comes after a cursor."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from reporting.authorize import reader_of, still_reads
from reporting.documentation import REFUSALS, Responses, answer
from reporting.edr import pulls
from reporting.edr.answer import ExportAnswer, Planned
from reporting.edr.columns import Compression, Format, Shape
from reporting.edr.selection import ROWS, Clock, Spans, TimeRange, count_of, query_of, time_range
from reporting.parameters import strict_router
from reporting.problems import Refused
from reporting.state import State
from shared.enriched import Stream
from shared.events import Status
from shared.rte import FILTER_CHARS_MAX, Filter

CURSOR_CHARS_MAX: Final = 4_096 * 20
"""The longest position: an offset of 19 digits for each of 4,096 partitions."""
NEXT_CURSOR: Final = "X-Next-Cursor"
REMAINING: Final = "X-Cursor-Remaining"
EARLIEST_CURSOR: Final = "X-Earliest-Cursor"

_FILE: Final = {"schema": {"type": "string", "format": "binary"}}
_TEXT: Final = {"schema": {"type": "string"}}
_RESPONSES: Final[Responses] = REFUSALS | {
    200: {
        "description": "The rows. A body that breaks off is not whole.",
        "content": {
            "text/csv": _FILE,
            "application/x-ndjson": _FILE,
            "application/vnd.apache.parquet": _FILE,
            "application/gzip": _FILE,
            "application/zstd": _FILE,
        },
        "headers": {
            NEXT_CURSOR: {**_TEXT, "description": "Where the next pull begins; only with `cursor`"},
            REMAINING: {**_TEXT, "description": "Raw offsets that are stored behind it already; only with `cursor`"},
            ROWS: {**_TEXT, "description": "Rows that were counted a moment before; only with `count`"},
        },
    },
    410: {
        **answer("Rows behind the cursor have expired"),
        "headers": {EARLIEST_CURSOR: {**_TEXT, "description": "The first cursor behind which every row is there"}},
    },
    505: answer("HTTP/1.0 cannot tell a whole body from one that broke off"),
}
_STATUSES: Final = "|".join(Status)


def router(state: State) -> APIRouter:
    """The route of exports."""
    routes = strict_router()

    @routes.get("/v1/edr", summary="Event detail records", responses=_RESPONSES, response_class=Response)
    async def read_edr(
        request: Request,
        first: Annotated[
            str, Query(alias="from", max_length=64, description="First time, ISO 8601 with zone; needed without cursor")
        ] = "",
        end: Annotated[str, Query(alias="to", max_length=64, description="First time not wanted any more [now]")] = "",
        clock: Annotated[Clock, Query(alias="time", description="What from and to are about")] = Clock.RECEIVED_AT,
        cursor: Annotated[
            str,
            Query(
                max_length=CURSOR_CHARS_MAX, description="Instead of times: earliest, latest or X-Next-Cursor's value"
            ),
        ] = "",
        promotion_id: Annotated[str, Query(max_length=FILTER_CHARS_MAX, description="Only this promotion")] = "",
        link: Annotated[
            str, Query(max_length=FILTER_CHARS_MAX, description="Only this link: short URL as sent, or host/path")
        ] = "",
        status: Annotated[
            str,
            Query(pattern=rf"^({_STATUSES})(,({_STATUSES}))*$|^$", description="Only these, separated by commas [all]"),
        ] = "",
        bots: Annotated[str, Query(pattern="^(yes|no|any)$", description="Only bots, no bots, or any")] = "any",
        form: Annotated[Format, Query(alias="format", description="How rows are written")] = Format.CSV,
        compression: Annotated[
            Compression | None,
            Query(description="Of the file; inside of Parquet [by Accept-Encoding; zstd inside of Parquet]"),
        ] = None,
        count: Annotated[bool, Query(description="Count the rows first, in a query of its own: `X-Rows`")] = False,  # noqa: FBT002 # a query parameter
    ) -> Response:
        reader = reader_of(state, request)
        if request.scope["http_version"] == "1.0":
            raise Refused(
                HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.0 cannot tell that a body is whole: use HTTP/1.1"
            )
        shape, headers = _shape(form, compression, request.headers.get("accept-encoding", ""))
        wanted = _filter(reader.tenant, promotion_id, link, status, bots)
        may_read = partial(still_reads, state, request, reader.tenant)

        if cursor and (first or end or clock is not Clock.RECEIVED_AT):
            raise Refused(HTTPStatus.BAD_REQUEST, "cursor goes without from, to and time")
        times = None if cursor else _times(clock, first, end)

        async def plan() -> Planned:
            reader_of(state, request)  # it may have waited long for its turn
            where, more = (times, headers) if times else await _plan_pull(state, cursor, headers)
            if count:
                ((rows,),) = await state.exports.clickhouse.query(*count_of(wanted, where))
                more = {**more, ROWS: str(rows)}
            return Planned(query_of(shape, wanted, where), more)

        return ExportAnswer(state.exports, reader.tenant, may_read, plan)

    return routes


def _times(clock: Clock, first: str, end: str) -> TimeRange:
    if not first:
        raise Refused(HTTPStatus.BAD_REQUEST, "from is needed, such as 2026-05-31T00:00:00Z, or cursor")
    try:
        return time_range(clock, first, end, datetime.now(UTC))
    except ValueError as exc:
        raise Refused(HTTPStatus.BAD_REQUEST, str(exc)) from exc


async def _plan_pull(state: State, cursor: str, headers: Mapping[str, str]) -> tuple[Spans, Mapping[str, str]]:
    exports = state.exports
    record = state.catalog.stream(exports.topic_raw)
    if record is None:
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "The stream is not known yet. Try again.")
    current = Stream(record["stream"], tuple(record["start_offsets"]))
    try:
        after = await pulls.position_of(exports.clickhouse, current, cursor)
        pull = await pulls.plan_pull(exports.clickhouse, current, after, exports.pull_rows_max)
    except ValueError as exc:
        raise Refused(HTTPStatus.BAD_REQUEST, f"cursor: {exc}") from exc
    except pulls.Expired as exc:
        text = f"{exc}: nothing is left out in silence. The earliest cursor is {exc.earliest}"
        raise Refused(HTTPStatus.GONE, text[:4_096], {EARLIEST_CURSOR: str(exc.earliest)}) from exc
    more = {NEXT_CURSOR: str(pull.next), REMAINING: str(pull.remaining)}
    return pull.spans, {**headers, **more}


def _filter(tenant: str, promotion_id: str, link: str, status: str, bots: str) -> Filter:
    try:
        return Filter.of(
            statuses=status.split(",") if status else (),
            promotions=(promotion_id,) if promotion_id else (),
            links=(link,) if link else (),
            bots=bots,
            tenant=tenant,
        )
    except ValueError as exc:
        raise Refused(HTTPStatus.BAD_REQUEST, str(exc)) from exc


def _shape(form: Format, compression: Compression | None, accepted: str) -> tuple[Shape, dict[str, str]]:
    """How the rows are written, and the headers that say so.

    A compression that is asked for makes a compressed file; what Accept-Encoding allows is undone by the client.
    """
    headers = {"Cache-Control": "no-store", "Vary": "Accept-Encoding"}
    if form is Format.PARQUET:
        shape = Shape(form, compression or Compression.ZSTD)
    elif compression is None:
        shape = Shape(form, _negotiated(accepted))
        if shape.encoding:
            headers["Content-Encoding"] = shape.encoding
    else:
        shape = Shape(form, compression)
    plain = Shape(form, Compression.NONE) if "Content-Encoding" in headers else shape
    headers["Content-Type"] = plain.media_type
    headers["Content-Disposition"] = f'attachment; filename="edr{plain.suffix}"'
    return shape, headers


def _negotiated(accepted: str) -> Compression:
    """The best compression that an Accept-Encoding header allows."""
    allowed = set()
    for item in accepted.lower().split(","):
        name, _, weight = item.replace(" ", "").partition(";")
        if weight not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            allowed.add(name)
    return next((each for each in (Compression.ZSTD, Compression.GZIP) if each.value in allowed), Compression.NONE)
