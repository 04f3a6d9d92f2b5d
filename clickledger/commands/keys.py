"""`clickledger keys create|list|roll|revoke`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from clickledger.located import DataOption, locate

_ExpiresOption = Annotated[
    str | None, typer.Option("--expires", help="Life of the secret, as 30d, 12h or 90m; for ever without.")
]
_IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `keys list` shows it.")]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("create")(create)
    group.command("list")(list_)
    group.command("roll")(roll)
    group.command("revoke")(revoke)
    app.add_typer(group, name="keys", help="API keys: create, list, roll over, revoke. Secrets are shown once.")


def create(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose key it is; it acts on this tenant only.")],
    grants: Annotated[
        str, typer.Option("--grants", help="Comma-separated: shortlinkclicks, reports, webhooks, admin.")
    ],
    expires: _ExpiresOption = None,
    rate_limit: Annotated[
        int | None, typer.Option("--rate-limit", help="Clicks per window (1 s by default) [the tenant's limit].")
    ] = None,
    caller_user_agent: Annotated[
        bool,
        typer.Option(
            "--caller-user-agent", help="Take the User-Agent header of requests as the click's (phones call directly)."
        ),
    ] = False,
    data: DataOption = None,
) -> None:
    """Make a key and print its secret, once. Only its SHA-256 is stored.

    The secret alone goes to standard output, so that a script can keep it.

    Example: clickledger keys create --tenant acme --grants shortlinkclicks

    Example: clickledger keys create --tenant acme --grants reports,webhooks --expires 30d
    """
    from clickledger import keyring

    try:
        properties = {
            "grants": keyring.parse_grants(grants.split(",")),
            "expires_ms": _duration_ms(expires),
            "rate_limit": keyring.check_rate_limit(rate_limit),
            "caller_user_agent": caller_user_agent,
        }
    except keyring.KeyringUsage as exc:
        raise typer.BadParameter(str(exc)) from exc
    asyncio.run(_create(data, tenant, properties))


def roll(key_id: _IdArgument, expires: _ExpiresOption = None, data: DataOption = None) -> None:
    """Give a key its second secret. Both are valid until the first is revoked, so no call fails meanwhile.

    Example: clickledger keys roll k0123456789, then hand out the new secret, then: clickledger keys revoke k0123456789 --secret 1
    """
    from clickledger import keyring

    try:
        expires_ms = _duration_ms(expires)
    except keyring.KeyringUsage as exc:
        raise typer.BadParameter(str(exc)) from exc
    asyncio.run(_roll(data, key_id, expires_ms))


def revoke(
    key_id: _IdArgument,
    secret: Annotated[
        int | None,
        typer.Option("--secret", min=1, max=2, help="Revoke this secret only; the other one becomes the first."),
    ] = None,
    data: DataOption = None,
) -> None:
    """Revoke a key, or one of its two secrets. Reaches every API process within a second.

    Example: clickledger keys revoke k0123456789

    Example: clickledger keys revoke k0123456789 --secret 1
    """
    asyncio.run(_revoke(data, key_id, secret))


def list_(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant's keys.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per key and line.")] = False,
    data: DataOption = None,
) -> None:
    """List keys: ids, grants, state. Never secrets.

    Example: clickledger keys list --tenant acme
    """
    asyncio.run(_list(data, tenant, as_json=as_json))


def _duration_ms(text: str | None) -> int | None:
    from clickledger.keyring import parse_duration_ms

    return None if text is None else parse_duration_ms(text)


async def _create(data: Path | None, tenant: str, properties: Mapping[str, Any]) -> None:
    from clickledger.directory import open_directory

    found = locate(data)
    async with open_directory(found.kafka, found.catalog) as directory:
        issued = await directory.create_key(tenant, **properties)
    _show(issued.record, issued.secret)


async def _roll(data: Path | None, key_id: str, expires_ms: int | None) -> None:
    from clickledger.directory import open_directory

    found = locate(data)
    async with open_directory(found.kafka, found.catalog) as directory:
        issued = await directory.roll_key(key_id, expires_ms)
    _show(issued.record, issued.secret)


async def _revoke(data: Path | None, key_id: str, secret_number: int | None) -> None:
    from clickledger.directory import open_directory

    found = locate(data)
    async with open_directory(found.kafka, found.catalog) as directory:
        record = await directory.revoke_key(key_id, secret_number)
    state = "revoked" if record["revoked"] else f"{len(record['secrets'])} secret left"
    typer.echo(f"{record['key_id']}: {state}")


def _show(record: Mapping[str, Any], secret: str) -> None:
    end = _state(record, len(record["secrets"]) - 1)
    typer.echo(f"{record['key_id']} of {record['tenant']}: {','.join(record['grants'])}, {end}; shown once:", err=True)
    typer.echo(secret)


async def _list(data: Path | None, tenant: str | None, *, as_json: bool) -> None:
    from clickledger.directory import open_directory
    from clickledger.output import print_records

    found = locate(data)
    async with open_directory(found.kafka, found.catalog) as directory:
        records = directory.keys(tenant)
    rows = [
        {
            "key_id": record["key_id"],
            "tenant": record["tenant"],
            "grants": ",".join(record["grants"]),
            "rate_limit": record["rate_limit"],
            "secret_1": _state(record, 0),
            "secret_2": _state(record, 1),
        }
        for record in records
    ]
    print_records(rows, ("key_id", "tenant", "grants", "rate_limit", "secret_1", "secret_2"), as_json=as_json)


def _state(record: Mapping[str, Any], index: int) -> str:
    if record["revoked"]:
        return "revoked" if index == 0 else ""
    if index >= len(record["secrets"]):
        return ""
    expires_at_ms = record["secrets"][index]["expires_at"]
    if expires_at_ms is None:
        return "valid"
    moment = datetime.fromtimestamp(expires_at_ms / 1000, UTC)
    return f"{'expired' if moment <= datetime.now(UTC) else 'until'} {moment:%Y-%m-%d %H:%M}Z"
