"""Where a command's Kafka, ClickHouse and API are: in the environment, else in the running local stack's ready file.

Rule: `--data` wins over the environment, the environment over the default folder. Only commands call this.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit

import typer
from pydantic import SecretStr

from clickledger.stack import ready
from shared.settings import CatalogSettings, ClickHouseSettings, KafkaSettings, load

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder of the running local stack [.clickledger, or CLICKLEDGER_DATA].")
]


@dataclass(frozen=True, slots=True)
class Located:
    """Settings of everything a command may talk to."""

    kafka: KafkaSettings
    catalog: CatalogSettings
    clickhouse: ClickHouseSettings
    """the owner of the tables"""
    reader: ClickHouseSettings
    """the read-only user; in production the same server with the owner's rights cut down per query"""
    stack: ready.Ready | None
    """the local stack; None when the environment names Kafka or ClickHouse"""


def locate(data: Path | None, environ: Mapping[str, str] | None = None) -> Located:
    """Find the services. Raises TransientError when nothing is named and no stack runs, or while it starts."""
    environ = os.environ if environ is None else environ
    if data is None and (environ.get("CLICKLEDGER_KAFKA_BOOTSTRAP") or environ.get("CLICKLEDGER_CLICKHOUSE_URL")):
        owner = load(ClickHouseSettings)
        return Located(load(KafkaSettings), load(CatalogSettings), owner, owner, None)
    return of_stack(ready.load(ready.data_folder(environ, data)))


def of_stack(stack: ready.Ready) -> Located:
    """Settings for a running local stack."""
    owner = load(ClickHouseSettings).model_copy(update={"clickhouse_url": SecretStr(stack.clickhouse_owner)})
    reader = owner.model_copy(update={"clickhouse_url": SecretStr(f"{stack.clickhouse}/{stack.database}")})
    replicas = min(3, len(stack.kafka.split(",")))
    kafka = load(KafkaSettings).model_copy(update={"kafka_bootstrap": stack.kafka, "replication_factor": replicas})
    return Located(kafka, load(CatalogSettings), owner, reader, stack)


def tenant_reader(found: Located, tenant: str | None, key: str | None) -> ClickHouseSettings:
    """Settings of a tenant's own reader: the user is the tenant, the password a key (on a server: its user's password).

    Raises typer.BadParameter when one of the two is neither given nor known from the local stack.
    """
    tenant = tenant or (found.stack.tenant if found.stack else None)
    if tenant is None:
        raise typer.BadParameter("whose key is this? give --tenant")
    if key is None and found.stack and tenant in found.stack.keys:
        key = found.stack.keys[tenant].reports_key
    if key is None:
        raise typer.BadParameter(f"no key of tenant {tenant!r} is known here: give --key")
    url = urlsplit(found.reader.clickhouse_url.get_secret_value())
    login = f"{quote(tenant, safe='')}:{quote(key, safe='')}"
    own = url._replace(netloc=f"{login}@{url.netloc.rpartition('@')[2]}").geturl()
    return found.reader.model_copy(update={"clickhouse_url": SecretStr(own)})


def api_access(
    data: Path | None, url: str | None, secret: str | None, *, grant: str = "key"
) -> tuple[str, str, ready.Ready | None]:
    """Return the API's base URL, a key, and the local stack if that is where they come from.

    `url` and `secret` are what the user gave; `grant` names the ready file's key to use otherwise: `key`, `admin_key`
    or `reports_key`. Raises typer.BadParameter when only a URL was given.
    """
    if url is not None and secret is not None:
        return url, secret, None
    if url is not None:
        raise typer.BadParameter("--url needs a key: --key, or the environment variable that --help names")
    stack = ready.load(ready.data_folder(os.environ, data))
    found = stack.reports if grant == "reports_key" else stack.api
    return found, secret or str(getattr(stack, grant)), stack
