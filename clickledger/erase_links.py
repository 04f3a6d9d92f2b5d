"""The links that were made for a recipient, in the catalog."""

from __future__ import annotations

import orjson

from clickledger.directory import read_catalog
from clickledger.located import Located
from shared.catalog import CatalogWriter, Entry, Kind
from shared.kafka import Producer


async def links_of(found: Located, tenant: str, recipient: str) -> list[str] | None:
    """The links (host and path) of a tenant that name a recipient; None when nobody has heard of the tenant.

    Raises TransientError when Kafka does not answer.
    """
    async with read_catalog(found.kafka, found.catalog, (Kind.LINK, Kind.TENANT)) as catalog:
        records = ((link, orjson.loads(value)) for link, value in catalog.scan(Kind.LINK))
        links = [link for link, record in records if (record["tenant"], record["recipient"]) == (tenant, recipient)]
        return None if not links and catalog.tenant(tenant) is None else links


async def remove_links(found: Located, links: list[str]) -> None:
    """Delete links from the catalog. Raises as Kafka does."""
    producer = Producer(found.kafka, "clickledger-erase")
    try:
        await producer.start()
        await CatalogWriter(found.kafka, producer).put_many([Entry(Kind.LINK, link, None) for link in links])
    finally:
        await producer.close()
