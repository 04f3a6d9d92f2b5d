"""The local stack's first tenant: its keys and one link to try, made once per data folder."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from clickledger.directory import read_catalog
from clickledger.keyring import SECRET_BYTES, create_key, create_tenant
from clickledger.stack.ready import TenantKeys
from shared.catalog import CatalogWriter, Entry, Kind, promotion_key
from shared.kafka import Producer
from shared.keys import Grant, digest_of

if TYPE_CHECKING:
    from clickledger.setup import SetupSettings

DEFAULT_TENANT = "default"
DEFAULT_SHORT_URL = "http://localhost/hello"
DEMO_TENANT = "demo"
DEMO_SHORT_URL = "http://shortdomain/dsltrack/employee/j460A8"  # the published example's

_FIRST_PROMOTION = "first-steps"

# One key for each job, so that the one that sits in an app can read nothing.
_GRANTS = {"key": [Grant.CLICKS], "reports_key": [Grant.REPORTS, Grant.WEBHOOKS], "admin_key": [Grant.ADMIN]}


class Made(NamedTuple):
    """A new tenant's plain secrets and its catalog records."""

    keys: TenantKeys
    entries: list[Entry]


def make_tenant(tenant: str, short_url: str, random_bytes: Callable[[int], bytes], now_ms: int) -> Made:
    """Make a local tenant: itself, a key for each job, one promotion and one link."""
    issued = {
        name: create_key(
            key_id=f"{tenant}-{name.removesuffix('_key')}",
            tenant=tenant,
            grants=grants,
            random_bytes=random_bytes(SECRET_BYTES),
            now_ms=now_ms,
        )
        for name, grants in _GRANTS.items()
    }
    link = short_url.removeprefix("http://")
    entries = [
        Entry(Kind.TENANT, tenant, create_tenant(tenant)),
        *(Entry(Kind.KEY, each.record["key_id"], each.record) for each in issued.values()),
        Entry(Kind.PROMOTION, promotion_key(tenant, _FIRST_PROMOTION), _promotion(tenant, now_ms)),
        Entry(Kind.LINK, link, _link(tenant, link, now_ms)),
    ]
    return Made(TenantKeys(**{name: each.secret for name, each in issued.items()}), entries)


async def ensure_tenant(settings: SetupSettings, tenant: str, short_url: str, known: TenantKeys | None) -> TenantKeys:
    """Give the tenant's keys: the known ones when the catalog has them, else new ones, written with all that belongs to them.

    Raises TransientError when Kafka does not answer.
    """
    kafka = settings.kafka
    if known is not None and await _has_keys(settings, known):
        return known
    made = make_tenant(tenant, short_url, secrets.token_bytes, time.time_ns() // 1_000_000)
    producer = Producer(kafka, "clickledger-up")
    await producer.start()
    try:
        await CatalogWriter(kafka, producer).put_many(made.entries)
    finally:
        await producer.close()
    return made.keys


async def _has_keys(settings: SetupSettings, keys: TenantKeys) -> bool:
    async with read_catalog(settings.kafka, settings.catalog, (Kind.KEY,), settings.catalog_copy) as catalog:
        found = [catalog.key_by_digest(digest_of(getattr(keys, name).encode())) for name in _GRANTS]
    return all(record is not None and not record["revoked"] for record in found)


def _promotion(tenant: str, now_ms: int) -> dict[str, Any]:
    return {
        "v": 1,
        "tenant": tenant,
        "promotion_id": _FIRST_PROMOTION,
        "name": "First steps",
        "campaign_id": "first-steps",
        "deployment_id": "1",
        "sent": None,  # nobody was sent anything: no rate is honest here
        "delivered": None,
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
