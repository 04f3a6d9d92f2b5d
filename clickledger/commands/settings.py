"""`clickledger settings`: every environment variable with default, unit and meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from shared import settings as shared_settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("settings")(settings)


def settings(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per setting and line.")] = False,
) -> None:
    """Print every setting (environment variable) with its default and meaning.

    Example: clickledger settings | grep SINK
    """
    for name, group, default, meaning in rows():
        if as_json:
            typer.echo(json.dumps({"name": name, "group": group, "default": default, "meaning": meaning}))
        else:
            typer.echo(f"{name}={default}\n    {meaning}")


def rows() -> Iterator[tuple[str, str, str, str]]:
    """(variable, service or area, default as text, meaning) of every setting, in print order."""
    for group in shared_settings.GROUPS:
        prefix = str(group.model_config["env_prefix"])
        for name, field in group.model_fields.items():
            area = group.__name__.removesuffix("Settings").lower()
            yield prefix + name.upper(), area, _default_text(field), field.description or ""


def _default_text(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return ""  # made from this machine, for example its name
    default: Any = field.default
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    return "" if default is None else str(default)
