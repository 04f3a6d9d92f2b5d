"""`GET /v1/transactions/{id}`: what happened to one click of the reader's tenant."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request

from reporting.authorize import reader_of
from reporting.documentation import REFUSALS, Responses, Schemas, answer
from reporting.parameters import strict_router
from reporting.problems import Refused
from reporting.state import State
from reporting.tracing import COLUMNS, TIMES, Trace, delays, parse_id, readable, trace
from reporting.tracing import State as Step

_FLAGS: Final = ("suspect", "clicked_at_ignored", "is_bot")
_NUMBERS: Final = ("raw_partition", "raw_offset", "enriched_offset", "to_enriched_ms", "to_stored_ms", "total_ms")


def _type_of(name: str) -> dict[str, Any]:
    if name in TIMES:
        return {"type": ["string", "null"], "format": "date-time"}
    kind = "boolean" if name in _FLAGS else "integer" if name in _NUMBERS else "string"
    return {"type": [kind, "null"]}


SCHEMAS: Final[Schemas] = {
    "TransactionCopy": {
        "type": "object",
        "description": "One record of the id: the accepted click or a duplicate. Null is what is not known yet.",
        "properties": {name: _type_of(name) for name in dict.fromkeys((*COLUMNS, *_NUMBERS))},
    },
    "Transaction": {
        "type": "object",
        "required": ["transaction_id", "state", "copies", "note"],
        "properties": {
            "transaction_id": {"type": "string", "format": "uuid"},
            "state": {"enum": [Step.STORED, Step.IN_FLIGHT], "description": "in_flight: in Kafka, and no row yet"},
            "copies": {"type": "array", "items": {"$ref": "#/components/schemas/TransactionCopy"}},
            "note": {"type": "string", "description": "What could not be found out; empty when nothing is missing"},
        },
    },
}
_RESPONSES: Final[Responses] = REFUSALS | {
    200: answer("What happened to the click", {"$ref": "#/components/schemas/Transaction"}),
    404: answer("Unknown: no row, and no record where it was looked for; or another tenant's"),
}


def router(state: State) -> APIRouter:
    """The route of transactions."""
    routes = strict_router()

    @routes.get("/v1/transactions/{transaction_id}", summary="What happened to a click", responses=_RESPONSES)
    async def read_transaction(
        request: Request, transaction_id: Annotated[str, Path(description="As the app got it with its 200")]
    ) -> dict[str, Any]:
        reader = reader_of(state, request)
        try:
            wanted = parse_id(transaction_id)
        except ValueError as exc:
            raise Refused(HTTPStatus.BAD_REQUEST, str(exc)) from exc
        traces = state.traces
        async with traces.turns.one(reader.tenant):
            found = await trace(state.clickhouse, traces.kafka, traces.limits, reader.tenant, wanted)
        if found.state is Step.UNKNOWN:
            raise Refused(HTTPStatus.NOT_FOUND, f"Unknown transaction-id: {found.note}")
        return as_json(found, time.time_ns() // 1_000_000)

    return routes


def as_json(found: Trace, now_ms: int) -> dict[str, Any]:
    """The answer."""
    copies = [readable(copy) | delays(copy, now_ms) for copy in found.copies]
    return {"transaction_id": found.transaction_id, "state": found.state, "copies": copies, "note": found.note}
