"""What the services may do in the database, as rights of ClickHouse: enough for their work, and no more.

The local engine has roles of these rights, and `up` gives each service the user of its own; docs/grants/clickhouse.sql says the
same for a server. Only the owner, which is `clickledger setup` and an operator's commands, makes, changes and deletes.
"""

from __future__ import annotations

from typing import Final

SINK_INSERTS: Final = (
    "clicks",
    "clicks_probe",
    "clicks_readback",
    "promotions",
    "seals",
    "seals_announced",
    "tenants",
)
"""Tables that the sink writes into."""


def sink_grants(database: str) -> list[str]:
    """Read all, write what it stores."""
    return [
        f"GRANT SELECT, SHOW ON {database}.*",
        *(f"GRANT INSERT ON {database}.{table}" for table in SINK_INSERTS),
    ]


def reporting_grants(database: str) -> list[str]:
    """Read all."""
    return [f"GRANT SELECT, SHOW ON {database}.*"]
