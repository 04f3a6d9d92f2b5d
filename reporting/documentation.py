"""What the reports say about themselves, in OpenAPI: each feature brings its own shapes, in `SCHEMAS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

Responses: TypeAlias = dict[int | str, dict[str, Any]]
"""Answers of a route by status, as FastAPI's `responses`."""
Schemas: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Shapes by name, for `#/components/schemas/`."""

_ERROR: Final = {"$ref": "#/components/schemas/Error"}
_SCHEMAS: Final[Schemas] = {
    "Error": {
        "type": "object",
        "required": ["code", "description"],
        "additionalProperties": False,
        "properties": {
            "code": {"type": "string", "description": "The HTTP status as text."},
            "description": {"type": "string"},
        },
    },
}


def answer(description: str, schema: Mapping[str, Any] = _ERROR) -> dict[str, Any]:
    """One JSON answer; an error unless a schema is given."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


REFUSALS: Final[Responses] = {
    400: answer("Bad parameters: unknown, given twice, or not what they should be"),
    401: answer("No valid key"),
    403: answer("The key may not read reports"),
    500: answer("An error that a repetition does not mend"),
    503: answer("Not at the moment, with Retry-After"),
}
"""What every route may answer."""


def complete(app: FastAPI, *features: Schemas) -> None:
    """Add the shapes and how to authenticate; take out the framework's own 422, which is never answered."""
    shapes: dict[str, Any] = dict(_SCHEMAS)
    for feature in features:
        if doubled := shapes.keys() & feature.keys():
            raise ValueError(f"shapes of two features: {', '.join(sorted(doubled))}")
        shapes |= feature

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            bearer = {
                "type": "http",
                "scheme": "bearer",
                "description": "A key with the grant `reports`, or `webhooks`",
            }
            schema["components"] = {"schemas": shapes, "securitySchemes": {"bearer": bearer}}
            for operations in schema["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
                    operation["security"] = [{"bearer": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
