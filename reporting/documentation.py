"""What the reports say about themselves: answers and their shapes, in OpenAPI."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_ERROR: Final = {"$ref": "#/components/schemas/Error"}
_SCHEMAS: Final[dict[str, Any]] = {
    "Error": {
        "type": "object",
        "required": ["code", "description"],
        "additionalProperties": False,
        "properties": {
            "code": {"type": "string", "description": "The HTTP status as text."},
            "description": {"type": "string"},
        },
    },
    "CtrRow": {
        "type": "object",
        "description": "One promotion on one day of the tenant's zone. Bots are not among the clicks.",
        "properties": {
            "day": {"type": "string", "format": "date"},
            "promotion_id": {"type": "string"},
            "promotion": {"type": "string"},
            "campaign_id": {"type": "string"},
            "clicks": {"type": "integer"},
            "recipients": {"type": "integer"},
            "bot_clicks": {"type": "integer"},
            "sent": {"type": ["integer", "null"]},
            "delivered": {"type": ["integer", "null"]},
            "ctr_percent": {"type": ["number", "null"]},
        },
    },
    "CtrReport": {
        "type": "object",
        "required": ["tenant", "zone", "from", "to", "rows", "attribution"],
        "properties": {
            "tenant": {"type": "string"},
            "zone": {"type": "string"},
            "from": {"type": "string", "format": "date"},
            "to": {"type": "string", "format": "date"},
            "rows": {"type": "array", "items": {"$ref": "#/components/schemas/CtrRow"}},
            "attribution": {"type": "object"},
        },
    },
}


def _answer(description: str, schema: dict[str, Any] = _ERROR) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


CTR: Final[dict[int | str, dict[str, Any]]] = {
    200: _answer("The report", {"$ref": "#/components/schemas/CtrReport"}),
    400: _answer("Bad parameters: not a date, no or too many days"),
    401: _answer("No valid key"),
    403: _answer("The key may not read reports"),
    413: _answer("More rows than one answer holds"),
    500: _answer("An error that a repetition does not mend"),
    503: _answer("Not at the moment, with Retry-After"),
}


def complete(app: FastAPI) -> None:
    """Add the schemas and how to authenticate; take out the framework's own 422, which is never answered."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            bearer = {"type": "http", "scheme": "bearer", "description": "A key with the grant `reports`"}
            schema["components"] = {"schemas": _SCHEMAS, "securitySchemes": {"bearer": bearer}}
            for operations in schema["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
                    operation["security"] = [{"bearer": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
