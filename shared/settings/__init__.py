"""Settings: `CLICKLEDGER_*` environment variables, read once by the composition root, frozen, passed in.

Every limit states its unit and its reason in the description. Values that contradict each other are refused at start
with a message that names both. `clickledger settings` prints all of them.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Final, TypeVar

from pydantic import ValidationError

from shared.errors import OperatorError
from shared.settings.api import ApiSettings
from shared.settings.connections import CatalogSettings, ClickHouseSettings, KafkaSettings, RuntimeSettings
from shared.settings.group import Group
from shared.settings.pipeline import EnricherSettings, SinkSettings
from shared.settings.reporting import ReportingSettings
from shared.settings.secret import SecretSettings
from shared.settings.webhooks import WebhookSettings

__all__ = [
    "GROUPS",
    "OTHER_VARIABLES",
    "ApiSettings",
    "CatalogSettings",
    "ClickHouseSettings",
    "EnricherSettings",
    "KafkaSettings",
    "ReportingSettings",
    "RuntimeSettings",
    "SecretSettings",
    "SinkSettings",
    "WebhookSettings",
    "load",
    "refuse_unknown",
]

G = TypeVar("G", bound=Group)

GROUPS: tuple[type[Group], ...] = (
    RuntimeSettings,
    KafkaSettings,
    ClickHouseSettings,
    CatalogSettings,
    SecretSettings,
    ApiSettings,
    EnricherSettings,
    SinkSettings,
    ReportingSettings,
    WebhookSettings,
)
"""Every group, in the order in which `clickledger settings` prints them."""


OTHER_VARIABLES: Final[Mapping[str, str]] = {
    "CLICKLEDGER_CACHE": "folder of the broker's jars, for the local stack; `~/.cache/clickledger` without",
    "CLICKLEDGER_KEY": "API key of `clickledger send`; the running local stack's without",
    "CLICKLEDGER_ADMIN_KEY": "key with the grant `admin` for `links load` and `promotions load`; the local stack's without",
    "CLICKLEDGER_REPORTS_KEY": "key with the grant `reports` for `clickledger edr export`; the local stack's without",
    "CLICKLEDGER_WEBHOOKS_KEY": "key with the grant `webhooks` for `clickledger webhooks`; the local stack's without",
    "CLICKLEDGER_CLICKHOUSE_PASSWORD": "local ClickHouse server: password of its owner; `up` sets it",
    "CLICKLEDGER_CLICKHOUSE_SINK_PASSWORD": "local ClickHouse server: password of the user `sink`, who may do what the sink does; `up` sets it",
    "CLICKLEDGER_CLICKHOUSE_REPORTING_PASSWORD": "local ClickHouse server: password of the user `reporting`, who reads; `up` sets it",
    "CLICKLEDGER_CLICKHOUSE_READER_PASSWORD": "local ClickHouse server: password of the user `reader`; no such user without",
    "CLICKLEDGER_CLICKHOUSE_ANONYMOUS_READER": "local ClickHouse server: `1` lets this machine read all tenants without password; `up` sets it unless it is `0`",
}
"""Variables that are read elsewhere, with their meaning: by the local stack and by commands, never by a service."""


def refuse_unknown(environ: Mapping[str, str]) -> None:
    """Raise OperatorError for a `CLICKLEDGER_*` variable that nothing reads: a misspelt limit must not pass unnoticed."""
    known = OTHER_VARIABLES.keys() | {f"CLICKLEDGER_{name.upper()}" for group in GROUPS for name in group.model_fields}
    for name in sorted(environ):
        if name.startswith("CLICKLEDGER_") and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else " (see: clickledger settings)"
            raise OperatorError(f"settings: {name} is no setting{hint}")


def load(group: type[G]) -> G:
    """Read a group from the environment. Raises OperatorError, one line for each wrong or unknown value."""
    refuse_unknown(os.environ)
    try:
        return group()
    except ValidationError as exc:
        lines = (
            f"{'CLICKLEDGER_' + str(error['loc'][0]).upper() + ': ' if error['loc'] else ''}"
            f"{error['msg'].removeprefix('Value error, ')}"
            for error in exc.errors()
        )
        raise OperatorError("settings: " + "; ".join(lines)) from None
