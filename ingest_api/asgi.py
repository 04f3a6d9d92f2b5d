"""Between ASGI and answers: bodies with a bound, answers as responses, every error with the two keys.

Nothing here knows a rule of the API; it is the shell that FastAPI's routes share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingest_api.answers import Answers, Refusal
from ingest_api.endpoints import HotPath, answer_async
from shared.http.answer import Answer, Header
from shared.http.lane import COMMON_FIELDS


class BodyTooLarge(Exception):
    """A body has more than `bytes_max` bytes."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(f"more than {bytes_max} bytes")
        self.bytes_max = bytes_max


async def read_body(request: Request, bytes_max: int) -> bytes:
    """The body. Raises BodyTooLarge as soon as it has more than `bytes_max` bytes."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > bytes_max:
            raise BodyTooLarge(bytes_max)
    return bytes(body)


def respond(answer: Answer) -> Response:
    """An answer as a response; the fields that every response has are added by `WithCommonFields`."""
    response = Response(answer.body, status_code=answer.status)
    response.raw_headers += [(b"content-type", b"application/json"), *answer.headers]
    if answer.close:
        response.raw_headers.append((b"connection", b"close"))
    return response


async def serve_hot_path(request: Request, path: HotPath) -> Response:
    """A hot path for a request that came by ASGI: the same checks in the same order as on the fast lane."""
    method, headers, peer = request.method.encode(), request_headers(request), peer_of(request)
    refusal = path.precheck(method, headers, peer)
    if refusal is not None:
        return respond(refusal)
    try:
        body = await read_body(request, path.body_bytes_max)
    except BodyTooLarge:
        return respond(path.oversized(method, headers, peer))
    target = request.scope["path"].encode()
    return respond(await answer_async(path, method, target, headers, body, peer))


def request_headers(request: Request) -> Sequence[Header]:
    """Header fields as the cores take them."""
    fields: list[Header] = request.scope["headers"]
    return fields


def peer_of(request: Request) -> str:
    """The address at the other end of the connection, '' when there is none."""
    return request.client.host if request.client else ""


class WithCommonFields:
    """Adds to every response what every answer carries: never cached, never sniffed, never framed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; touch only the start of a response."""

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                have = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(f for f in COMMON_FIELDS if f[0] not in have)]
            await send(message)

        await self._app(scope, receive, send_on if scope["type"] == "http" else send)


def install_error_answers(app: FastAPI, answers: Answers, count: Callable[[Answer], Answer]) -> None:
    """Give every error of the framework the shape of ours, and count it."""

    async def http_error(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        if exc.status_code == 404:
            return respond(count(answers.refuse(Refusal.PATH_UNKNOWN)))
        if exc.status_code == 405:
            return respond(count(_wrong_method(app, request, answers)))
        return respond(count(answers.plain(exc.status_code, str(exc.detail))))

    async def wrong_parameters(_request: Request, exc: Exception) -> Response:
        assert isinstance(exc, RequestValidationError)
        text = "; ".join(_describe(error) for error in exc.errors())
        return respond(count(answers.plain(400, text)))

    async def gone(_request: Request, _exc: Exception) -> Response:
        return Response(status_code=499)  # nobody is there to read it: the client left in mid-body, or was refused

    async def bug(_request: Request, _exc: Exception) -> Response:
        return respond(count(answers.refuse(Refusal.INTERNAL_ERROR)))

    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, wrong_parameters)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, bug)


def _describe(error: Any) -> str:
    return f"{'.'.join(str(part) for part in error['loc'][1:])}: {error['msg']}"


def _wrong_method(app: FastAPI, request: Request, answers: Answers) -> Answer:
    """405 naming every method of the path."""
    allowed: set[str] = set()
    for route in app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            allowed |= route.methods or set()
    names = ", ".join(sorted(allowed))
    answer = answers.refuse(Refusal.METHOD, f"Use {names}.")
    return answer._replace(headers=((b"allow", names.encode()),))
