"""Refusals of the reports, all in one shape: `{"code": "…", "description": "…"}`, code = HTTP status as a string."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from shared.errors import ClickledgerError, TransientError

log = logging.getLogger(__name__)

_AGAIN = {"Retry-After": "1"}
_HEADERS = {HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"}, HTTPStatus.SERVICE_UNAVAILABLE: _AGAIN}


class Refused(Exception):
    """A request that gets no report."""

    def __init__(
        self,
        status: HTTPStatus,
        description: str,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """`more`: further keys of the answer."""
        super().__init__(description)
        self.status = status
        self.description = description
        self.headers = headers or _HEADERS.get(status)
        self.more = more or {}


def problem(
    status: int,
    description: str,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The answer for a refusal; `more` are further keys."""
    body = {"code": str(status), "description": description, **(more or {})}
    return JSONResponse(body, status_code=status, headers=headers)


def add_handlers(app: FastAPI) -> None:
    """Answer every error of `app` in the one shape."""

    @app.exception_handler(Refused)
    async def refused(_: Request, exc: Refused) -> JSONResponse:
        return problem(exc.status, exc.description, exc.headers, exc.more)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, exc: RequestValidationError) -> JSONResponse:
        texts = (f"{'.'.join(str(part) for part in error['loc'][1:])}: {error['msg']}" for error in exc.errors())
        return problem(HTTPStatus.BAD_REQUEST, "; ".join(texts))

    @app.exception_handler(HTTPException)
    async def http(_: Request, exc: HTTPException) -> JSONResponse:
        return problem(exc.status_code, str(exc.detail), dict(exc.headers or {}))

    @app.exception_handler(ClickledgerError)
    async def failed(_: Request, exc: ClickledgerError) -> JSONResponse:
        log.error("report failed: %s", exc)
        if isinstance(exc, TransientError):
            text = "The report cannot be made at the moment. Try again."
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, text, _AGAIN)
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal server error")

    @app.exception_handler(Exception)  # a bug must be answered in the one shape too; the server logs its traceback
    async def bug(_: Request, __: Exception) -> JSONResponse:
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal server error")
