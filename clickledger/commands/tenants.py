"""`clickledger tenants create|list|set`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from clickledger.located import DataOption, locate

_RetentionOption = Annotated[
    int | None, typer.Option("--retention-days", help="Days that a click counts after its message was sent [90].")
]
_PrivacyOption = Annotated[
    str | None, typer.Option("--privacy", help="What happens to addresses: store, truncate (/24, /48) or drop [store].")
]
_ZoneOption = Annotated[str | None, typer.Option("--zone", help="Time zone of the tenant's days in reports [UTC].")]
_RateOption = Annotated[
    int | None, typer.Option("--rate-limit", help="Clicks per window (1 s by default) and key [10000].")
]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("create")(create)
    group.command("list")(list_)
    group.command("set")(set_)
    app.add_typer(group, name="tenants", help="Tenants: create, list, change.")


def create(
    tenant: Annotated[str, typer.Argument(help="Its name: letters, digits, '.', '_', '-'.")],
    retention_days: _RetentionOption = None,
    privacy: _PrivacyOption = None,
    zone: _ZoneOption = None,
    rate_limit: _RateOption = None,
    data: DataOption = None,
) -> None:
    """Make a tenant.

    Example: clickledger tenants create acme --zone Asia/Kolkata --retention-days 180
    """
    settings = {"retention_days": retention_days, "privacy": privacy, "zone": zone, "rate_limit": rate_limit}
    asyncio.run(_write(data, tenant, settings, is_new=True))


def set_(
    tenant: Annotated[str, typer.Argument(help="Its name.")],
    retention_days: _RetentionOption = None,
    privacy: _PrivacyOption = None,
    zone: _ZoneOption = None,
    rate_limit: _RateOption = None,
    data: DataOption = None,
) -> None:
    """Change a tenant's settings; what is not given stays.

    Example: clickledger tenants set acme --privacy truncate
    """
    settings = {"retention_days": retention_days, "privacy": privacy, "zone": zone, "rate_limit": rate_limit}
    if all(value is None for value in settings.values()):
        raise typer.BadParameter("nothing to change: give one of --retention-days, --privacy, --zone, --rate-limit")
    asyncio.run(_write(data, tenant, settings, is_new=False))


def list_(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per tenant and line.")] = False,
    data: DataOption = None,
) -> None:
    """List every tenant with its settings.

    Example: clickledger tenants list --json
    """
    asyncio.run(_list(data, as_json=as_json))


async def _write(data: Any, tenant: str, settings: dict[str, Any], *, is_new: bool) -> None:
    from clickledger.directory import open_directory
    from clickledger.keyring import KeyringUsage

    found = locate(data)
    async with open_directory(found.kafka, found.catalog) as directory:
        try:
            change = directory.create_tenant if is_new else directory.change_tenant
            record = await change(tenant, **settings)
        except KeyringUsage as exc:
            raise typer.BadParameter(str(exc)) from exc
    typer.echo(
        f"{record['tenant']}: retention {record['retention_days']} days, privacy {record['privacy']}, "
        f"zone {record['zone']}, {record['rate_limit']} clicks/s"
    )


async def _list(data: Any, *, as_json: bool) -> None:
    from clickledger.directory import open_directory
    from clickledger.output import print_records

    found = locate(data)
    async with open_directory(found.kafka, found.catalog) as directory:
        tenants = directory.tenants()
    print_records(tenants, ("tenant", "retention_days", "privacy", "zone", "rate_limit"), as_json=as_json)
