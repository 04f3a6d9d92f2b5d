"""Query parameters that a route does not know, or has twice, are refused: a misspelt filter must not widen a report.

A parameter whose documented type is a list may be repeated.
"""

from __future__ import annotations

from collections import Counter
from http import HTTPStatus
from typing import cast

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.routing import APIRoute

from reporting.problems import Refused


def strict_router() -> APIRouter:
    """A router whose routes take the query parameters of their documentation, each at most once unless it is a list, and no others."""
    return APIRouter(dependencies=[Depends(_only_known)])


async def _only_known(request: Request) -> None:
    app, route = cast("FastAPI", request.app), cast("APIRoute", request.scope["route"])
    parameters = app.openapi()["paths"][route.path_format][request.method.lower()].get("parameters", ())
    known = {each["name"]: each["schema"].get("type") for each in parameters if each["in"] == "query"}
    for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            names = ", ".join(known) or "none"
            raise Refused(HTTPStatus.BAD_REQUEST, f"Unknown parameter {name[:64]!r}; the parameters are: {names}")
        if count > 1 and known[name] != "array":
            raise Refused(HTTPStatus.BAD_REQUEST, f"The parameter {name!r} is given {count} times")
