"""What `clickledger reporting` needs to serve webhooks: a copy of where they stand, and their registry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from reporting.webhooks.registry import Registry
from shared.catalog import Catalog, CatalogFollower, Kind
from shared.runtime import Runtime
from shared.secret_box import SecretBox
from shared.settings import CatalogSettings, KafkaSettings, WebhookSettings
from shared.tasks import end

PLACES_KINDS: Final = (Kind.PROGRESS, Kind.REPLAY, Kind.STOP, Kind.TEST, Kind.DELIVERY)
"""What stands in the topic of webhooks."""


@asynccontextmanager
async def serving_webhooks(
    runtime: Runtime,
    kafka: KafkaSettings,
    catalog_settings: CatalogSettings,
    settings: WebhookSettings,
    box: SecretBox,
    catalog: Catalog,
) -> AsyncIterator[Registry]:
    """The registry, while its copy is followed. Reports do not wait for it: it is not asked whether it is ready."""
    folder = runtime.settings.data / "reporting-places"
    places = Catalog(catalog_settings, folder)
    follower = asyncio.create_task(
        CatalogFollower(catalog_settings, kafka, folder, PLACES_KINDS, kafka.topic_webhooks).run()
    )
    registry = Registry(kafka, settings, box, catalog, places)
    try:
        yield registry
    finally:
        await registry.close()
        await end(follower)
        places.close()
