"""`GET /v1/rte`: clicks as they are enriched, as server-sent events."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import StringConstraints
from starlette.types import Receive, Scope, Send

from reporting.authorize import Standing, reader_of
from reporting.documentation import REFUSALS, Responses, Schemas, answer
from reporting.parameters import strict_router
from reporting.problems import Refused
from reporting.rte.client import Client
from reporting.rte.desk import Start
from reporting.state import State
from shared.clicked_at import clicked_at_ms
from shared.rte import FILTER_CHARS_MAX, FILTER_VALUES_MAX, STREAMED, BadPosition, Filter, Position

AHEAD_MS_MAX: Final = 300_000
"""How far `from` may lie in the future: clocks differ."""

SCHEMAS: Final[Schemas] = {
    "PositionGone": {
        "type": "object",
        "required": ["code", "description", "earliest"],
        "additionalProperties": False,
        "properties": {
            "code": {"type": "string", "description": "The HTTP status as text."},
            "description": {"type": "string"},
            "earliest": {"type": "string", "description": "The position at which the stream begins now"},
        },
    },
}

_STREAM: Final[dict[str, Any]] = {
    "description": "The stream: each event's `data` is a CloudEvent (docs/schemas/click-event.json), its `id` the position behind it",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
_RESPONSES: Final[Responses] = REFUSALS | {
    200: _STREAM,
    410: answer("What comes next at this position is no longer there", {"$ref": "#/components/schemas/PositionGone"}),
    505: answer("HTTP/1.0 cannot tell that a stream has ended from one that broke off"),
}
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter: nginx must not collect events


class EventStream(StreamingResponse):
    """The answer that lasts; whatever ends it, the client's place is given back."""

    media_type = "text/event-stream"

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pieces = client.pieces()
        super().__init__(self._pieces, headers=_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream to its end or to the client's."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._pieces.aclose()
            self._client.close()


def router(state: State) -> APIRouter:
    """The route of the event stream."""
    routes = strict_router()

    @routes.get("/v1/rte", summary="Clicks in real time", responses=_RESPONSES, response_class=StreamingResponse)
    async def read_rte(
        request: Request,
        status: Annotated[
            list[str],
            Query(max_length=4, description="Only these: accepted, rejected, malformed; may be repeated"),
        ] = [],  # noqa: B006
        promotion_id: Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=256)]],
            Query(max_length=FILTER_VALUES_MAX, description="Only these promotions; may be repeated"),
        ] = [],  # noqa: B006
        link: Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=FILTER_CHARS_MAX)]],
            Query(
                max_length=FILTER_VALUES_MAX,
                description="Only these links: short URLs as sent, or registered links (host/path); may be repeated",
            ),
        ] = [],  # noqa: B006
        bots: Annotated[str, Query(description="yes: bots only, no: no bots, any")] = "any",
        begin: Annotated[
            str,
            Query(alias="from", description="latest, earliest, or a time: RFC 3339 with zone or milliseconds"),
        ] = "latest",
        after: Annotated[str, Query(description="Resume behind this position; wins over `from`")] = "",
        last_event_id: Annotated[str, Query(description="The same, for clients that name it so")] = "",
        header_id: Annotated[
            str, Header(alias="Last-Event-ID", description="The same, as browsers send it; wins over both")
        ] = "",
    ) -> EventStream:
        reader = reader_of(state, request)
        if request.scope["http_version"] == "1.0":
            raise Refused(
                HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.0 cannot tell that a stream has ended: use HTTP/1.1"
            )
        try:
            wanted = Filter.of(
                statuses=status,
                promotions=promotion_id,
                links=link,
                bots=bots,
                tenant=reader.tenant,
                known=STREAMED,
            )
            start = _start(begin, header_id or after or last_event_id, time.time_ns() // 1_000_000)
        except ValueError as exc:
            raise Refused(HTTPStatus.BAD_REQUEST, str(exc)) from exc

        return EventStream(await state.desk.open(wanted, start, Standing(state, request, reader.tenant)))

    return routes


def _start(begin: str, position: str, now_ms: int) -> Start:
    """Where a stream begins. Raises ValueError, naming the parameter."""
    if position:
        try:
            return Position.parse(position)
        except BadPosition as exc:
            raise ValueError(f"Last-Event-ID, after: {exc}") from exc
    if begin in ("latest", "earliest"):
        return begin  # type: ignore[return-value]  # one of the two
    time_ms = clicked_at_ms(begin)
    if time_ms is None or not 0 <= time_ms <= now_ms + AHEAD_MS_MAX:
        raise ValueError(
            f"from: {begin[:64]!r} is not latest, earliest, or a time in the past (RFC 3339 with zone, or milliseconds)"
        )
    return time_ms
