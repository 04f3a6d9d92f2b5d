"""Sealing webhooks anew after CLICKLEDGER_SECRET_KEY has got a new first key."""

from __future__ import annotations

from dataclasses import replace

import orjson

from clickledger.directory import read_catalog
from clickledger.located import Located
from reporting.webhooks.model import PURPOSE, decode_webhook, encode_webhook, seal
from shared.catalog import CatalogWriter, Entry, Kind
from shared.errors import OperatorError
from shared.kafka import Producer
from shared.secret_box import NotOurs, SecretBox
from shared.settings import SecretSettings


async def reseal_all(found: Located, settings: SecretSettings) -> int:
    """Write every webhook's record with its secrets under the first key; how many there are.

    All or none: raises OperatorError, and writes nothing, when there is no key or one does not open. A change that its owner
    makes in this moment may be undone, as by any later record. Raises TransientError as Kafka does.
    """
    box = SecretBox(settings, PURPOSE)
    if not box.is_lasting:
        raise OperatorError(
            "settings: CLICKLEDGER_SECRET_KEY is not set: give the new key and the former one, with a comma"
        )
    async with read_catalog(found.kafka, found.catalog, (Kind.WEBHOOK,)) as catalog:
        entries = []
        for _, value in catalog.scan(Kind.WEBHOOK):
            webhook = decode_webhook(orjson.loads(value))
            try:
                sealed = seal(box, webhook.key, webhook.opened(box))
            except NotOurs as exc:
                raise OperatorError(f"webhook {webhook.key}: no key of CLICKLEDGER_SECRET_KEY opens it") from exc
            entries.append(Entry(Kind.WEBHOOK, webhook.key, encode_webhook(replace(webhook, sealed=sealed))))
    if not entries:
        return 0
    producer = Producer(found.kafka, "clickledger-reseal")
    try:
        await producer.start()
        await CatalogWriter(found.kafka, producer).put_many(entries)
    finally:
        await producer.close()
    return len(entries)
