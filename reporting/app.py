"""The HTTP surface of the reports: health, and one router per feature."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from reporting import documentation, health, reports, transactions
from reporting.dashboard import routes as dashboard
from reporting.edr import routes as edr
from reporting.problems import add_handlers
from reporting.rte import routes as rte
from reporting.state import State
from reporting.webhooks import api as webhooks
from reporting.webhooks import documentation as webhooks_documentation
from shared.runtime import readiness


def build_app(state: State) -> FastAPI:
    """The application."""
    app = FastAPI(title="Clickledger reports", docs_url=None, redoc_url=None)
    add_handlers(app)
    for feature in (reports, transactions, rte, health, dashboard, edr, webhooks):
        app.include_router(feature.router(state))
    documentation.complete(
        app,
        reports.SCHEMAS,
        transactions.SCHEMAS,
        rte.SCHEMAS,
        health.SCHEMAS,
        dashboard.SCHEMAS,
        webhooks_documentation.SCHEMAS,
    )

    @app.get("/livez", include_in_schema=False)
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> JSONResponse:
        reasons = state.runtime.why_not_ready()
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        return JSONResponse(readiness(reasons), status)

    return app
