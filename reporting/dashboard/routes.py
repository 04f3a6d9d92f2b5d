"""The routes of the dashboard: its page and files, login and logout, one-time login links."""

from __future__ import annotations

import html
import time
from http import HTTPStatus
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from reporting.authorize import bearer_digest_of
from reporting.dashboard.assets import SECURITY, Assets
from reporting.dashboard.links import LASTS_MS, LinkFault
from reporting.dashboard.login import HOME, TEXTS, Login, LoginFault, is_https
from reporting.documentation import REFUSALS, Responses, Schemas, answer
from reporting.metrics import refused_total
from reporting.parameters import strict_router
from reporting.sessions import is_same_origin, put_cookie
from reporting.state import State

_NOT_STORED: Final = {**SECURITY, "Cache-Control": "no-store"}
_MESSAGE_MARK: Final = "{{message}}"
_SOON: Final = {HTTPStatus.TOO_MANY_REQUESTS: "300", HTTPStatus.SERVICE_UNAVAILABLE: "1"}

SCHEMAS: Final[Schemas] = {
    "LoginLink": {
        "type": "object",
        "required": ["path", "lasts_s"],
        "additionalProperties": False,
        "properties": {
            "path": {"type": "string", "description": "Of the page to open at this service's address, once."},
            "lasts_s": {"type": "integer"},
        },
    }
}
_LOGIN_LINK: Final[Responses] = REFUSALS | {
    201: answer("A link that logs a browser in, once", {"$ref": "#/components/schemas/LoginLink"})
}


def router(state: State) -> APIRouter:
    """The routes."""
    routes, documented = APIRouter(), strict_router()
    assets = Assets()
    links = state.dashboard.links
    _add_pages(routes, assets)
    _add_login(routes, assets, Login(state.catalog, state.sessions, links, state.dashboard.attempts))

    @documented.post(
        "/v1/login-links", summary="A link that logs a browser in, once", status_code=201, responses=_LOGIN_LINK
    )
    async def make_link(request: Request) -> JSONResponse:
        digest = bearer_digest_of(state, request)
        token = links.make(digest, time.time_ns() // 1_000_000)
        # Behind the "#" a token reaches no server, log or referrer before the page posts it.
        body = {"path": f"/login#once={token}", "lasts_s": LASTS_MS // 1000}
        return JSONResponse(body, HTTPStatus.CREATED, headers={"Cache-Control": "no-store"})

    routes.include_router(documented)
    return routes


def _add_pages(routes: APIRouter, assets: Assets) -> None:
    @routes.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse(HOME, HTTPStatus.TEMPORARY_REDIRECT, headers=SECURITY)

    @routes.get(HOME, include_in_schema=False)
    async def page(request: Request) -> Response:
        # Without figures, so for everybody: what it then asks for needs the session.
        return assets.answer("index.html", request.headers) or _nothing()

    @routes.get(HOME + "/static/{version}/{name:path}", include_in_schema=False)
    async def file(request: Request, version: str, name: str) -> Response:
        found = None if name.endswith(".html") else assets.answer(name, request.headers, version)
        return found or _nothing()


def _nothing() -> Response:
    return Response("no such file", HTTPStatus.NOT_FOUND, headers=_NOT_STORED, media_type="text/plain")


def _add_login(routes: APIRouter, assets: Assets, login: Login) -> None:
    def form(status: HTTPStatus, message: str = "") -> HTMLResponse:
        fields = _NOT_STORED | ({"Retry-After": _SOON[status]} if status in _SOON else {})
        text = assets.page("login.html").replace(_MESSAGE_MARK, html.escape(message))
        return HTMLResponse(text, status, headers=fields)

    @routes.get("/login", include_in_schema=False)
    async def ask() -> HTMLResponse:
        return form(HTTPStatus.OK)

    @routes.post("/login", include_in_schema=False)
    async def log_in(request: Request) -> Response:
        found = await login.judge(request)
        if isinstance(found, LoginFault | LinkFault):
            return form(*TEXTS[found])
        response = RedirectResponse(found.next, HTTPStatus.SEE_OTHER, headers=_NOT_STORED)
        put_cookie(response, found.cookie, seconds=found.seconds, is_https=found.is_https)
        return response

    @routes.post("/logout", include_in_schema=False)
    async def log_out(request: Request) -> Response:
        if not is_same_origin(request.headers):
            refused_total.labels("logout_cross_site").inc()
            return form(HTTPStatus.FORBIDDEN, "This was not sent from the dashboard.")
        response = RedirectResponse("/login", HTTPStatus.SEE_OTHER, headers=_NOT_STORED)
        put_cookie(response, "", seconds=0, is_https=is_https(request.headers))
        return response
