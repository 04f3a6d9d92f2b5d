"""The FastAPI application: everything that is not on the fast lane, and the published description of all of it.

The hot paths are declared here too: for the documentation, and for requests that reach them by ASGI (another server, an
absolute or percent-encoded target); they run through the same functions.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import FastAPI, Request
from starlette.responses import Response

from ingest_api import documentation as docs
from ingest_api.answers import RETRY_AFTER, Answers
from ingest_api.asgi import WithCommonFields, install_error_answers, respond, serve_hot_path
from ingest_api.batch import BATCH_PATHS
from ingest_api.endpoints import BatchPath, ClickPath, HotPath
from ingest_api.handler import PATHS, HandlerState
from ingest_api.links_api import LinksApi
from ingest_api.metrics import Tallies
from ingest_api.readiness import Readiness
from ingest_api.registry import Registry
from shared.http.answer import Answer


@dataclass(frozen=True, slots=True)
class Surface:
    """What the application stands on; built by the composition root."""

    state: HandlerState
    clicks: ClickPath
    batches: BatchPath
    readiness: Readiness
    registry: Registry
    tallies: Tallies


def create_app(surface: Surface) -> FastAPI:
    """Build the application. It starts nothing and reads no environment."""
    app = FastAPI(
        title="Clickledger",
        version="1",
        description=docs.DESCRIPTION,
        openapi_tags=docs.TAGS,
        docs_url=None,  # pages that load scripts from a foreign host have no place on an API with keys
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(WithCommonFields)
    install_error_answers(app, surface.state.answers, surface.tallies.other)
    _add_hot_path(app, surface.clicks, sorted(PATHS), docs.CLICK)
    _add_hot_path(app, surface.batches, sorted(BATCH_PATHS), docs.BATCH)
    LinksApi(surface.state, surface.registry, surface.tallies).add_to(app)
    _add_health(app, surface.readiness, surface.state.answers)
    docs.complete(app)
    return app


def _add_hot_path(app: FastAPI, path: HotPath, targets: list[bytes], documented: docs.Documented) -> None:
    """Only the first target is documented; the others are the same."""

    async def serve(request: Request) -> Response:
        return await serve_hot_path(request, path)

    for number, target in enumerate(target.decode() for target in targets):
        app.add_api_route(
            target, serve, methods=["POST"], response_model=None, include_in_schema=number == 0, **documented
        )


def _add_health(app: FastAPI, readiness: Readiness, answers: Answers) -> None:
    async def live() -> Response:
        return respond(Answer(200, b'{"status":"alive"}'))

    async def ready() -> Response:
        if reasons := readiness.reasons():
            return respond(answers.plain(503, "; ".join(reasons), (RETRY_AFTER,)))
        return respond(Answer(200, b'{"status":"ready","catalog_version":%d}' % readiness.catalog_version))

    app.add_api_route("/livez", live, methods=["GET"], response_model=None, **docs.LIVE)
    app.add_api_route("/readyz", ready, methods=["GET"], response_model=None, **docs.READY)
