"""The bounds of the service's connections, and what it answers where no report is concerned."""

from __future__ import annotations

from http import HTTPStatus

import orjson

from reporting.metrics import cut_total, refused_total
from shared.http.answer import Answer, Header
from shared.http.lane import Cut, Lane, LaneLimits, Refusals

_AGAIN: Header = (b"retry-after", b"1")


def lane(connections_max: int) -> Lane:
    """No hot paths: every request is the application's, behind the same bounds as at the API."""
    refusals = Refusals(
        malformed=_refusal(HTTPStatus.BAD_REQUEST, "This is not HTTP/1.1.", "malformed"),
        head_too_large=_refusal(HTTPStatus.BAD_REQUEST, "The header is too large.", "head_too_large"),
        timed_out=_refusal(HTTPStatus.REQUEST_TIMEOUT, "The request did not end in time.", "timed_out"),
        too_many_connections=_refusal(
            HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections; try again.", "connections_full", _AGAIN
        ),
        too_much_unfinished=_refusal(
            HTTPStatus.SERVICE_UNAVAILABLE, "Too much of unfinished requests is waiting.", "unfinished_full", _AGAIN
        ),
        bug=_refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal server error", "bug"),
    )
    return Lane({}, refusals, LaneLimits(connections_max=connections_max), _count, _cut)


def _refusal(status: HTTPStatus, description: str, reason: str, *headers: Header) -> Answer:
    body = orjson.dumps({"code": str(status.value), "description": description})
    return Answer(status.value, body, headers, close=True, reason=reason)


def _count(answer: Answer) -> None:
    refused_total.labels(answer.reason).inc()


def _cut(why: Cut) -> None:
    cut_total.labels(why).inc()
