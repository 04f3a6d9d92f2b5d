"""The process `clickledger deliverer`: sends webhooks. It needs the way out to the internet, and no ClickHouse.

Any number of processes, up to the number of partitions, share out the webhooks; each reads the whole topic.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

from reporting.webhooks.addresses import Reach
from reporting.webhooks.deliverer import Deliverer, Parts
from reporting.webhooks.feed import Feed
from reporting.webhooks.journal import Journal
from reporting.webhooks.keys import refuse_without_key
from reporting.webhooks.metrics import SERVICE, Alarm
from reporting.webhooks.model import PURPOSE
from reporting.webhooks.sender import Sender
from reporting.webhooks.serving import PLACES_KINDS
from reporting.webhooks.writing import Writing
from shared.alarms import Alarms
from shared.catalog import Catalog, CatalogFollower, Kind
from shared.errors import OperatorError, TransientError
from shared.kafka import Consumer
from shared.metrics import errors
from shared.runtime import Runtime, instance_slot, run_service
from shared.secret_box import SecretBox
from shared.settings import (
    CatalogSettings,
    KafkaSettings,
    RuntimeSettings,
    SecretSettings,
    WebhookSettings,
    load,
)
from shared.tasks import end

log = logging.getLogger(__name__)

KINDS: Final = (Kind.STREAM, Kind.WEBHOOK)
LOOK_MS: Final = 100
"""How often webhooks, places and owners are looked at."""
RETRY_S: Final = 1.0
FETCH_BYTES: Final = 4_096
"""The group is there for its owners; what it would read is never looked at."""


async def deliver(
    runtime: Runtime,
    settings: WebhookSettings,
    kafka: KafkaSettings,
    catalog_settings: CatalogSettings,
    secrets: SecretSettings,
) -> None:
    """Send until the runtime stops. Raises OperatorError when there are webhooks and no key, or settings are wrong."""
    slot = instance_slot(runtime.settings, SERVICE)
    reach, box = Reach.of(settings), SecretBox(secrets, PURPOSE)
    folders = runtime.settings.data / "deliverer-catalog", runtime.settings.data / "deliverer-places"
    catalog, places = (Catalog(catalog_settings, folder) for folder in folders)
    runtime.checks.append(lambda: "" if catalog.is_ready and places.is_ready else "no catalog yet")
    followers = [
        asyncio.create_task(CatalogFollower(catalog_settings, kafka, folders[0], KINDS).run()),
        asyncio.create_task(
            CatalogFollower(catalog_settings, kafka, folders[1], PLACES_KINDS, kafka.topic_webhooks).run()
        ),
    ]
    writing = Writing(kafka, slot.instance_id)
    journal = Journal(writing, kafka.topic_webhooks)
    alarms = Alarms[Alarm](SERVICE, "start", log)
    runtime.checks.append(lambda: "; ".join(alarms.standing.values()))
    followers.append(asyncio.create_task(journal.run()))
    try:
        async with Sender(settings, reach) as sender:
            while not runtime.stopping.is_set():
                feed = Feed(kafka, bytes_max=settings.webhooks_memory_bytes, readers=settings.webhooks_readers)
                parts = Parts(catalog, places, box, feed, sender, journal, settings)
                try:
                    await _work(runtime, parts, kafka, slot.instance_id, lambda: alarms.clear_alarm(Alarm.START))
                except TransientError as exc:
                    errors.labels(SERVICE, "transient").inc()
                    log.warning("beginning anew: %s", exc)
                except OperatorError as exc:
                    errors.labels(SERVICE, "operator").inc()
                    alarms.raise_alarm(Alarm.START, str(exc))
                await runtime.pause(RETRY_S)
    finally:
        await end(*followers)
        await writing.close()
        catalog.close()
        places.close()


async def _work(
    runtime: Runtime, parts: Parts, kafka: KafkaSettings, instance_id: str, works: Callable[[], None]
) -> None:
    """As a member of the group of one stream, until told to stop. Raises TransientError, OperatorError: begin anew."""
    stream = await _find_stream(runtime, parts, kafka.topic_raw)
    if stream is None:
        return
    deliverer = Deliverer(parts, stream["stream"], stream["partitions"])
    member = Consumer(
        kafka,
        kafka.topic_enriched,
        f"clickledger-webhooks-{stream['stream']}",
        service=SERVICE,
        instance_id=instance_id,
        start_offset=lambda _partition: 0,
        on_assigned=deliverer.assigned,
        on_revoked=deliverer.revoked,
        on_name_taken=lambda detail: deliverer.alarms.raise_alarm(Alarm.NAME_TAKEN, detail),
        partition_fetch_bytes_max=FETCH_BYTES,
    )
    following = asyncio.create_task(parts.feed.run())

    def why_not() -> str:
        return "; ".join(deliverer.alarms.standing.values())

    runtime.checks.append(why_not)
    try:
        await member.start()
        works()
        while not runtime.stopping.is_set():
            for partition in member.assignments:
                member.hold(partition)
            await member.getmany(LOOK_MS)
            if following.done():
                following.result()
            parts.catalog.refresh()
            parts.places.refresh()
            if parts.catalog.stream(kafka.topic_raw) != stream:
                raise TransientError("the stream has changed")
            deliverer.look()
    finally:
        runtime.checks.remove(why_not)
        await member.close(leave=True)
        await end(following)
        await parts.feed.close()
        deliverer.alarms.drop()


async def _find_stream(runtime: Runtime, parts: Parts, topic: str) -> dict[str, Any] | None:
    """The stream record of the raw topic, waited for; None when told to stop. Raises OperatorError."""
    while True:
        parts.catalog.refresh()
        parts.places.refresh()
        if parts.catalog.is_current and parts.places.is_ready:
            refuse_without_key(parts.catalog, parts.box)
            record = parts.catalog.stream(topic)
            if record is None:
                raise OperatorError(f"the catalog has no stream for topic {topic}: run `clickledger setup`")
            return record
        if await runtime.pause(LOOK_MS / 1_000):
            return None


def main() -> None:
    """Run the service, configured by the environment, and end the process with its status."""
    settings, kafka, catalog = load(WebhookSettings), load(KafkaSettings), load(CatalogSettings)
    secrets = load(SecretSettings)

    def serve(runtime: Runtime) -> Awaitable[None]:
        return deliver(runtime, settings, kafka, catalog, secrets)

    sys.exit(run_service(SERVICE, load(RuntimeSettings), serve, health_port=settings.deliverer_health_port))
