"""`clickledger settings`: every environment variable with default, unit and meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Annotated, Any, Final

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from shared import settings as shared_settings

_PREFACE: Final = """# Settings

<!-- Written by `clickledger settings --markdown`; a test compares. Change shared/settings/ instead. -->

Environment variables, read once when a process starts. A value out of its bounds, a name
that nothing reads, and values that contradict each other are refused at start with a message that names them. An empty variable counts as not set. The last word of a name is its
unit where it has one: `_MS` milliseconds, `_BYTES` bytes; `_MAX` is a limit.
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("settings")(settings)


def settings(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per setting and line.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="The page docs/settings.md.")] = False,
) -> None:
    """Print every setting (environment variable) with its default and meaning.

    Example: clickledger settings | grep SINK
    """
    if as_json and as_markdown:
        raise typer.BadParameter("--json or --markdown, not both")
    if as_markdown:
        typer.echo(markdown(), nl=False)
        return
    for name, group, default, meaning in rows():
        if as_json:
            typer.echo(json.dumps({"name": name, "group": group, "default": default, "meaning": meaning}))
        else:
            typer.echo(f"{name}={default}\n    {meaning}")


def markdown() -> str:
    """The page docs/settings.md: one table for each group, with what pydantic refuses."""
    bounds = dict(_bounds())
    page = [_PREFACE]
    for area, group in groupby(rows(), key=itemgetter(1)):
        page.append(f"## {area}\n\n| variable | default | allowed | meaning |\n|---|---|---|---|")
        for name, _area, default, meaning in group:
            page.append(f"| `{name}` | {_code(default)} | {bounds[name]} | {_cell(meaning)} |")
        page.append("")
    page.append("## not settings of a service\n\n| variable | meaning |\n|---|---|")
    page += [f"| `{name}` | {_cell(meaning)} |" for name, meaning in shared_settings.OTHER_VARIABLES.items()]
    return "\n".join(page) + "\n"


def _bounds() -> Iterator[tuple[str, str]]:
    """(variable, its allowed values as text; empty when its type says all)."""
    for group in shared_settings.GROUPS:
        fields = group.model_json_schema()["properties"]
        for name in group.model_fields:
            schema: dict[str, Any] = fields[name]
            yield str(group.model_config["env_prefix"]) + name.upper(), _allowed(schema)


def _allowed(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(map(_code, schema["enum"]))
    if schema.get("type") == "boolean":
        return "`true`, `false`"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{low:,} to {high:,}"
    bounds = {
        "minimum": "at least {:,}",
        "exclusiveMinimum": "above {:,}",
        "maximum": "at most {:,}",
        "maxLength": "at most {:,} characters",
    }
    return ", ".join(text.format(schema[name]) for name, text in bounds.items() if name in schema)


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


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
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default is None else str(default)
