"""Tenants and keys in the catalog: read all of the topic, change one record, write it.

Why not the machine's copy: a command may run where no service does, and a change must start from the newest record.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from clickledger import keyring
from clickledger.keyring import KeyringError
from shared.catalog import Catalog, CatalogFollower, CatalogWriter, Kind, followed
from shared.kafka import Admin, Producer
from shared.settings import CatalogSettings, KafkaSettings

_CATALOG_SECONDS_MAX = 120.0  # a million links are read in a few seconds
KEPT: Final = (Kind.STREAM, Kind.KEY)
"""What a kept copy holds: of other kinds there may be millions."""
_KEY_ID_BYTES = 5  # 40 random bits name a key among the few that a tenant has


@asynccontextmanager
async def read_catalog(
    kafka: KafkaSettings, settings: CatalogSettings, kinds: Collection[Kind], kept: Path | None = None
) -> AsyncIterator[Catalog]:
    """Give a complete copy of the catalog's records of some kinds.

    Raises TransientError when Kafka does not answer, which is asked first: who follows tries again and again.

    `kept`: a folder that keeps the copy, so that the next time only what is new is read; it holds `KEPT`. Without it all
    of the topic is read.
    """
    async with Admin(kafka):
        pass
    with nullcontext(kept) if kept else tempfile.TemporaryDirectory(prefix="clickledger-catalog-") as name:
        folder = Path(name)
        catalog = Catalog(settings, folder)
        catalog.require_proof()
        async with followed(catalog, CatalogFollower(settings, kafka, folder, KEPT if kept else kinds)):
            await catalog.wait_until_current(_CATALOG_SECONDS_MAX)
            yield catalog


@dataclass(frozen=True, slots=True)
class Directory:
    """Tenants and keys as they are now, and the way to change them."""

    catalog: Catalog
    _writer: CatalogWriter

    def tenants(self) -> list[dict[str, Any]]:
        """Every tenant, by name."""
        return [orjson.loads(value) for _, value in self.catalog.scan(Kind.TENANT)]

    def keys(self, tenant: str | None = None) -> list[dict[str, Any]]:
        """Every key, or those of one tenant, by id. Raises KeyringError when there is no such tenant."""
        if tenant is not None:
            self._tenant(tenant)
        records = (orjson.loads(value) for _, value in self.catalog.scan(Kind.KEY))
        return [record for record in records if tenant in (None, record["tenant"])]

    async def create_tenant(self, tenant: str, **settings: Any) -> dict[str, Any]:
        """Write a new tenant. Raises KeyringError when it exists."""
        if self.catalog.tenant(tenant) is not None:
            raise KeyringError(f"tenant {tenant} exists: change it with: clickledger tenants set {tenant} …")
        record = keyring.change_tenant(keyring.create_tenant(tenant), **settings)
        await self._writer.put(Kind.TENANT, tenant, record)
        return record

    async def change_tenant(self, tenant: str, **settings: Any) -> dict[str, Any]:
        """Write a tenant's changed record. Raises KeyringError when there is none."""
        record = keyring.change_tenant(self._tenant(tenant), **settings)
        await self._writer.put(Kind.TENANT, tenant, record)
        return record

    async def create_key(self, tenant: str, **properties: Any) -> keyring.Issued:
        """Write a new key of a tenant. Raises KeyringError when there is no such tenant."""
        self._tenant(tenant)
        issued = keyring.create_key(
            key_id=f"k{secrets.token_hex(_KEY_ID_BYTES)}",
            tenant=tenant,
            random_bytes=secrets.token_bytes(keyring.SECRET_BYTES),
            now_ms=_now_ms(),
            **properties,
        )
        await self._write_key(issued.record)
        return issued

    async def roll_key(self, key_id: str, expires_ms: int | None) -> keyring.Issued:
        """Write a key with one more secret. Raises KeyringError."""
        random_bytes = secrets.token_bytes(keyring.SECRET_BYTES)
        issued = keyring.roll_key(self._key(key_id), random_bytes=random_bytes, now_ms=_now_ms(), expires_ms=expires_ms)
        await self._write_key(issued.record)
        return issued

    async def revoke_key(self, key_id: str, secret_number: int | None) -> dict[str, Any]:
        """Write a key without one of its secrets, or revoked. Raises KeyringError."""
        record = keyring.revoke_key(self._key(key_id), secret_number)
        await self._write_key(record)
        return record

    def _tenant(self, tenant: str) -> dict[str, Any]:
        record = self.catalog.tenant(tenant)
        if record is None:
            raise KeyringError(f"no tenant {tenant}: make it with: clickledger tenants create {tenant}")
        return record

    def _key(self, key_id: str) -> dict[str, Any]:
        record = self.catalog.key(key_id)
        if record is None:
            raise KeyringError(f"no key {key_id}: see: clickledger keys list")
        return record

    async def _write_key(self, record: dict[str, Any]) -> None:
        await self._writer.put(Kind.KEY, record["key_id"], record)


@asynccontextmanager
async def open_directory(kafka: KafkaSettings, settings: CatalogSettings) -> AsyncIterator[Directory]:
    """Give the directory for the body. Raises TransientError, OperatorError as Kafka does."""
    async with read_catalog(kafka, settings, (Kind.TENANT, Kind.KEY)) as catalog:
        producer = Producer(kafka, "clickledger-directory")
        try:
            await producer.start()
            yield Directory(catalog, CatalogWriter(kafka, producer))
        finally:
            await producer.close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
