"""Feeds names, denominators and zones from the catalog into the tables `promotions` and `tenants`, for reports.

The tables are a copy that may be written any number of times: the row with the highest catalog version wins. So every
member writes what differs from what it wrote before, and after a restart everything once. What the table has then and the
catalog has no longer was deleted while nobody looked.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from shared.catalog import Catalog, Kind, promotion_key
from shared.clickhouse import ClickHouse
from shared.errors import DataError, OperatorError, TransientError

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
ROWS_PER_INSERT: Final = 10_000
_TABLES: Final = {Kind.PROMOTION: "promotions", Kind.TENANT: "tenants"}


def promotion_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a promotion's catalog record."""
    return {
        "tenant": record["tenant"],
        "promotion_id": record["promotion_id"],
        "name": record.get("name") or "",
        "campaign_id": record.get("campaign_id") or "",
        "deployment_id": record.get("deployment_id") or "",
        "sent": record.get("sent"),
        "delivered": record.get("delivered"),
        "sent_at": record.get("sent_at"),
    }


def tenant_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a tenant's catalog record."""
    return {
        "tenant": record["tenant"],
        "zone": record.get("zone") or "UTC",
        "retention_days": record.get("retention_days") or 0,
        "privacy": record.get("privacy") or "store",
    }


_FIELDS: Final = {
    Kind.PROMOTION: ("tenant", "promotion_id", "name", "campaign_id", "deployment_id", "sent", "delivered", "sent_at"),
    Kind.TENANT: ("tenant", "zone", "retention_days", "privacy"),
}
"""Columns that are fields of a record, too."""
_AS_IN_A_RECORD: Final = {"sent_at": "toUnixTimestamp64Milli(sent_at)"}
_ROWS: Final = {Kind.PROMOTION: promotion_row, Kind.TENANT: tenant_row}


class Directory:
    """Copies changes from the catalog into the tables."""

    def __init__(self, catalog: Catalog, clickhouse: ClickHouse, settings: Mapping[str, Any]) -> None:
        self._catalog, self._clickhouse = catalog, clickhouse
        self._settings = {**settings, "insert_deduplicate": 0}
        self._written: dict[tuple[Kind, str], bytes] = {}
        self._version = -1

    async def run(self) -> None:
        """Copy until cancelled; failures are logged and tried again."""
        while True:
            try:
                await self.copy()
            except (TransientError, OperatorError, DataError) as exc:
                log.warning("copying promotions and tenants: %s", exc)
            await asyncio.sleep(LOOK_EVERY_S * random.uniform(0.8, 1.2))  # noqa: S311  # jitter

    async def copy(self) -> None:
        """Write what changed since the last call. Raises as ClickHouse does, and then nothing counts as written."""
        self._catalog.refresh()
        if self._catalog.version == self._version or not self._catalog.is_ready:
            return
        version = self._catalog.version
        if self._version < 0:
            self._written = {key: value for kind in _TABLES for key, value in await self._stored(kind)}
        for kind in _TABLES:
            await self._copy_kind(kind, version)
        self._version = version

    async def _copy_kind(self, kind: Kind, version: int) -> None:
        current = {(kind, record_id): value for record_id, value in self._catalog.scan(kind)}
        changed = {key: value for key, value in current.items() if self._written.get(key) != value}
        gone = {key: self._written[key] for key in self._written if key[0] is kind and key not in current}
        rows = [self._encode(kind, value, version, is_deleted=False) for value in changed.values()]
        rows += [self._encode(kind, value, version, is_deleted=True) for value in gone.values()]
        for begin in range(0, len(rows), ROWS_PER_INSERT):
            await self._insert(kind, rows[begin : begin + ROWS_PER_INSERT])
        self._written.update(changed)
        for key in gone:
            del self._written[key]

    async def _stored(self, kind: Kind) -> list[tuple[tuple[Kind, str], bytes]]:
        """What the table has, in the form of records. A record says the same in other words, so it is written once more."""
        columns = ", ".join(_AS_IN_A_RECORD.get(name, name) for name in _FIELDS[kind])
        found = await self._clickhouse.query(f"SELECT {columns} FROM {_TABLES[kind]} FINAL WHERE NOT is_deleted")  # noqa: S608  # constants
        records = [dict(zip(_FIELDS[kind], row, strict=True)) for row in found]
        ids = (
            promotion_key(record["tenant"], record["promotion_id"]) if kind is Kind.PROMOTION else record["tenant"]
            for record in records
        )
        return [((kind, record_id), orjson.dumps(record)) for record_id, record in zip(ids, records, strict=True)]

    def _encode(self, kind: Kind, value: bytes, version: int, *, is_deleted: bool) -> bytes:
        return orjson.dumps(_ROWS[kind](orjson.loads(value)) | {"is_deleted": is_deleted, "version": version})

    async def _insert(self, kind: Kind, rows: Iterable[bytes]) -> None:
        await self._clickhouse.insert_bytes(_TABLES[kind], b"\n".join(rows), self._settings)
