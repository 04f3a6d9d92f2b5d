"""The local stack's first tenant: its keys and one link to try, made once per data folder."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any

from clickledger.stack.ready import TenantKeys
from shared.catalog import Catalog, CatalogFollower, CatalogWriter, Entry, Kind, followed, promotion_key
from shared.kafka import Producer
from shared.settings import CatalogSettings, KafkaSettings

DEFAULT_TENANT = "default"
DEFAULT_SHORT_URL = "http://localhost/hello"
DEMO_TENANT = "demo"
DEMO_SHORT_URL = "http://shortdomain/dsltrack/employee/j460A8"  # the published example's

_FIRST_PROMOTION = "first-steps"
_SECRET_BYTES = 32
_CATALOG_SECONDS_MAX = 120.0

# One key for each job, so that the one that sits in an app can read nothing.
_GRANTS = {"key": ["shortlinkclicks"], "reports_key": ["reports", "webhooks"], "admin_key": ["admin"]}


def first_entries(tenant: str, short_url: str, keys: TenantKeys, now_ms: int) -> list[Entry]:
    """Catalog records of a local tenant: itself, its three keys, one promotion and one link."""
    link = short_url.removeprefix("http://")
    return [
        Entry(Kind.TENANT, tenant, _tenant(tenant)),
        *(
            Entry(Kind.KEY, f"{tenant}-{name}", _key(tenant, f"{tenant}-{name}", grants, getattr(keys, name), now_ms))
            for name, grants in _GRANTS.items()
        ),
        Entry(Kind.PROMOTION, promotion_key(tenant, _FIRST_PROMOTION), _promotion(tenant, now_ms)),
        Entry(Kind.LINK, link, _link(tenant, link, now_ms)),
    ]


def new_keys() -> TenantKeys:
    """Three fresh secrets of 256 random bits."""
    return TenantKeys(**{name: secrets.token_urlsafe(_SECRET_BYTES) for name in _GRANTS})


def digest_of(secret: str) -> str:
    """What the catalog keeps of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


async def ensure_tenant(
    kafka: KafkaSettings, catalog: CatalogSettings, tenant: str, short_url: str, known: TenantKeys | None
) -> TenantKeys:
    """Give the tenant's keys: the known ones when the catalog has them, else new ones, written with all that belongs to them.

    Raises TransientError when Kafka does not answer.
    """
    if known is not None and await _has_keys(kafka, catalog, known):
        return known
    keys = new_keys()
    producer = Producer(kafka, "clickledger-up")
    await producer.start()
    try:
        entries = first_entries(tenant, short_url, keys, time.time_ns() // 1_000_000)
        await CatalogWriter(kafka, producer).put_many(entries)
    finally:
        await producer.close()
    return keys


async def _has_keys(kafka: KafkaSettings, settings: CatalogSettings, keys: TenantKeys) -> bool:
    with tempfile.TemporaryDirectory(prefix="clickledger-up-") as scratch:
        folder = Path(scratch)
        follower = CatalogFollower(settings, kafka, folder, (Kind.KEY,))
        with followed(Catalog(settings, folder), follower) as catalog:
            await catalog.wait_until_current(_CATALOG_SECONDS_MAX)
            found = [catalog.key_by_digest(digest_of(getattr(keys, name))) for name in _GRANTS]
    return all(record is not None and not record["revoked"] for record in found)


def _tenant(tenant: str) -> dict[str, Any]:
    return {"v": 1, "tenant": tenant, "retention_days": 90, "privacy": "store", "zone": "UTC", "rate_limit": 10_000}


def _key(tenant: str, key_id: str, grants: list[str], secret: str, now_ms: int) -> dict[str, Any]:
    return {
        "v": 1,
        "key_id": key_id,
        "tenant": tenant,
        "grants": grants,
        "secrets": [{"digest": digest_of(secret), "created_at": now_ms, "expires_at": None}],
        "rate_limit": None,
        "revoked": False,
        "caller_user_agent": False,
    }


def _promotion(tenant: str, now_ms: int) -> dict[str, Any]:
    return {
        "v": 1,
        "tenant": tenant,
        "promotion_id": _FIRST_PROMOTION,
        "name": "First steps",
        "campaign_id": "first-steps",
        "deployment_id": "1",
        "sent": 1,
        "delivered": 1,
        "sent_at": now_ms,
    }


def _link(tenant: str, link: str, now_ms: int) -> dict[str, Any]:
    return {
        "v": 1,
        "tenant": tenant,
        "link": link,
        "promotion_id": _FIRST_PROMOTION,
        "recipient": "",
        "link_name": "hello",
        "long_url": "",
        "sent_at": now_ms,
        "expires_at": None,
        "disabled": False,
        "match": "exact",
        "registered_at": now_ms,
    }
