"""`clickledger webhooks …`: make, list, change, try and replay webhooks through the HTTP API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from clickledger.exit_codes import ExitCode
from clickledger.located import DataOption, api_access

_UrlOption = Annotated[str | None, typer.Option("--api", help="The reports [the running stack's].")]
_KeyOption = Annotated[
    str | None,
    typer.Option(envvar="CLICKLEDGER_WEBHOOKS_KEY", help="Key with the grant webhooks; its tenant is meant."),
]
_JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
_IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `webhooks list` shows it.")]
_StatusOption = Annotated[list[str] | None, typer.Option(help="Only accepted, rejected or malformed; may be repeated.")]
_PromotionOption = Annotated[list[str] | None, typer.Option(help="Only this promotion; may be repeated.")]
_LinkOption = Annotated[list[str] | None, typer.Option(help="Only this short URL; may be repeated.")]
_BotsOption = Annotated[str | None, typer.Option(help="yes: bots only; no: no bots; any.")]
_BatchOption = Annotated[int | None, typer.Option(min=0, help="Up to so many events in a request; 0: one in each.")]
_LingerOption = Annotated[int | None, typer.Option("--linger-ms", min=0, help="With --batch: ms to wait for more.")]
_HeaderOption = Annotated[list[str] | None, typer.Option(help="'Name: value' of every request; may be repeated.")]
_DescriptionOption = Annotated[str | None, typer.Option(help="A note.")]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.callback()(lambda: None)
    for name, command in (
        ("create", create),
        ("list", list_all),
        ("update", update),
        ("rotate", rotate),
        ("delete", delete),
        ("test", try_out),
        ("deliveries", deliveries),
        ("replay", replay),
        ("reseal", reseal),
    ):
        group.command(name)(command)
    app.add_typer(group, name="webhooks", help="Webhooks: events of clicks, sent to a URL of yours.")


def create(
    *,
    target: Annotated[str, typer.Option("--url", help="Where to send: https.")],
    status: _StatusOption = None,
    promotion: _PromotionOption = None,
    link: _LinkOption = None,
    bots: _BotsOption = None,
    batch: _BatchOption = None,
    linger_ms: _LingerOption = None,
    header: _HeaderOption = None,
    description: _DescriptionOption = None,
    as_json: _JsonOption = False,
    api: _UrlOption = None,
    key: _KeyOption = None,
    data: DataOption = None,
) -> None:
    """Make a webhook; it begins with the next event. Its signing secret is printed once, on standard output.

    Example: clickledger webhooks create --url https://hooks.example/clicks --promotion spring-sale --batch 100
    """
    body = {"url": target, **_fields(status, promotion, link, bots, batch, linger_ms, header, description)}
    made = _ask(data, api, key, "POST", "", body)
    if as_json:
        typer.echo(json.dumps(made))
        return
    typer.echo(f"{made['id']} begins with the next event; its signing secret is shown this once:", err=True)
    typer.echo(made["secret"])


def list_all(
    *, as_json: _JsonOption = False, api: _UrlOption = None, key: _KeyOption = None, data: DataOption = None
) -> None:
    """List the tenant's webhooks.

    Example: clickledger webhooks list
    """
    from clickledger import output, webhooks

    found = _ask(data, api, key, "GET")["webhooks"]
    output.print_records(found if as_json else [*map(webhooks.row_of, found)], webhooks.COLUMNS, as_json=as_json)


def update(
    *,
    webhook: _IdArgument,
    target: Annotated[str | None, typer.Option("--url", help="Where to send from now on.")] = None,
    status: _StatusOption = None,
    promotion: _PromotionOption = None,
    link: _LinkOption = None,
    bots: _BotsOption = None,
    all_events: Annotated[bool, typer.Option("--all-events", help="Without a filter.")] = False,
    batch: _BatchOption = None,
    linger_ms: _LingerOption = None,
    header: _HeaderOption = None,
    description: _DescriptionOption = None,
    enable: Annotated[bool | None, typer.Option("--enable/--disable", help="Go on where it stood, or pause.")] = None,
    latest: Annotated[bool, typer.Option("--latest", help="Leave out what was not delivered yet.")] = False,
    api: _UrlOption = None,
    key: _KeyOption = None,
    data: DataOption = None,
) -> None:
    """Change a webhook; what is not given stays, but a filter is replaced as a whole.

    Example: clickledger webhooks update wh_0123 --enable
    """
    body = _fields(status, promotion, link, bots, batch, linger_ms, header, description)
    body |= {"url": target} if target is not None else {}
    body |= {"filter": {}} if all_events else {}
    body |= {"enabled": enable} if enable is not None else {}
    body |= {"position": "latest"} if latest else {}
    if not body:
        raise typer.BadParameter("what is to be changed? (see --help)")
    _ask(data, api, key, "PATCH", f"/{_safe(webhook)}", body)
    typer.echo(f"{webhook} is changed")


def rotate(*, webhook: _IdArgument, api: _UrlOption = None, key: _KeyOption = None, data: DataOption = None) -> None:
    """Print a new signing secret; the former one signs beside it for 24 hours.

    Example: clickledger webhooks rotate wh_0123
    """
    typer.echo(_ask(data, api, key, "POST", f"/{_safe(webhook)}/rotate")["secret"])


def delete(*, webhook: _IdArgument, api: _UrlOption = None, key: _KeyOption = None, data: DataOption = None) -> None:
    """Delete a webhook, its place and its log.

    Example: clickledger webhooks delete wh_0123
    """
    _ask(data, api, key, "DELETE", f"/{_safe(webhook)}")
    typer.echo(f"{webhook} is deleted")


def try_out(
    *,
    webhook: _IdArgument,
    as_json: _JsonOption = False,
    api: _UrlOption = None,
    key: _KeyOption = None,
    data: DataOption = None,
) -> None:
    """Send a test event and print how it went. Exit status 1 when it was not taken.

    Example: clickledger webhooks test wh_0123
    """
    found = _ask(data, api, key, "POST", f"/{_safe(webhook)}/test")
    outcome = found.get("outcome")
    if as_json:
        typer.echo(json.dumps(found))
    elif outcome is None:
        typer.echo("no outcome in time: is a deliverer running? Look at: clickledger webhooks deliveries", err=True)
    else:
        typer.echo(f"{outcome}, status {found['status']}, {found['duration_ms']} ms")
    raise typer.Exit(ExitCode.OK if outcome == "delivered" else ExitCode.FAILED)


def deliveries(
    *,
    webhook: _IdArgument,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="The newest attempts.")] = 20,
    as_json: _JsonOption = False,
    api: _UrlOption = None,
    key: _KeyOption = None,
    data: DataOption = None,
) -> None:
    """Print the newest attempts of a webhook.

    Example: clickledger webhooks deliveries wh_0123
    """
    from clickledger import output, webhooks

    found = _ask(data, api, key, "GET", f"/{_safe(webhook)}/deliveries?limit={limit}")["deliveries"]
    output.print_records(found, webhooks.DELIVERY_COLUMNS, as_json=as_json)


def replay(
    *,
    webhook: _IdArgument,
    first: Annotated[str, typer.Option("--from", metavar="TIME", help="RFC 3339, as 2026-05-31T12:00:00Z.")],
    last: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Exclusive [now].")] = None,
    api: _UrlOption = None,
    key: _KeyOption = None,
    data: DataOption = None,
) -> None:
    """Send the events of clicks received in a range again, with the same ids, beside new ones.

    Example: clickledger webhooks replay wh_0123 --from 2026-05-31T12:00:00Z --to 2026-05-31T13:00:00Z
    """
    body = {"from": first} | ({"to": last} if last is not None else {})
    found = _ask(data, api, key, "POST", f"/{_safe(webhook)}/replay", body)
    typer.echo(f"{found['id']}: {found['from']} to {found['to']}")


def reseal(data: DataOption = None) -> None:
    """Seal every webhook with the first key of CLICKLEDGER_SECRET_KEY, so that the former key is not needed any more.

    For the operator: it writes to the catalog. Give all processes `NEW,FORMER` before, and `NEW` alone after.

    Example: CLICKLEDGER_SECRET_KEY=$NEW,$FORMER clickledger webhooks reseal
    """
    from clickledger.located import locate
    from clickledger.webhook_seals import reseal_all
    from shared.settings import SecretSettings, load

    count = asyncio.run(reseal_all(locate(data), load(SecretSettings)))
    typer.echo(f"{count:,} webhooks sealed")


def _fields(
    status: list[str] | None,
    promotion: list[str] | None,
    link: list[str] | None,
    bots: str | None,
    batch: int | None,
    linger_ms: int | None,
    header: list[str] | None,
    description: str | None,
) -> dict[str, Any]:
    """The part of a body that both making and changing have."""
    from clickledger.webhooks import read_headers

    given = {"status": status, "promotion_id": promotion, "link": link, "bots": bots}
    wanted = {name: value for name, value in given.items() if value is not None}
    body: dict[str, Any] = {"filter": wanted} if wanted else {}
    if batch is not None:
        lingering = {} if linger_ms is None else {"linger_ms": linger_ms}
        body["batch"] = {"events_max": batch, **lingering} if batch else None
    elif linger_ms is not None:
        raise typer.BadParameter("--linger-ms needs --batch")
    if header is not None:
        try:
            body["headers"] = read_headers(header)
        except ValueError as exc:
            raise typer.BadParameter(str(exc)) from exc
    return body | ({} if description is None else {"description": description})


def _safe(webhook: str) -> str:
    from urllib.parse import quote

    return quote(webhook, safe="")


def _ask(
    data: Path | None,
    api: str | None,
    key: str | None,
    method: str,
    path: str = "",
    body: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    from clickledger import webhooks

    if api is not None and key is None:
        raise typer.BadParameter("--api needs a key: --key, or the environment variable CLICKLEDGER_WEBHOOKS_KEY")
    base, secret, _ = api_access(data, api, key, grant="reports_key")
    try:
        return webhooks.ask(base, secret, method, path, body)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
