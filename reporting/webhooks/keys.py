"""Refuses to start without the key that webhooks were sealed with."""

from __future__ import annotations

import orjson

from reporting.webhooks.model import decode_webhook
from shared.catalog import Catalog, Kind
from shared.errors import ClickledgerError
from shared.secret_box import NotOurs, SecretBox


class KeyMissing(ClickledgerError):
    """The process cannot work with this key: it ends at once and says so."""


def refuse_without_key(catalog: Catalog, box: SecretBox) -> None:
    """Raise KeyMissing when a webhook exists and there is no key, or none of them opens with it."""
    records = [orjson.loads(value) for _, value in catalog.scan(Kind.WEBHOOK)]
    if not records:
        return
    text = f"{len(records)} webhooks exist and their secrets are sealed: start with the CLICKLEDGER_SECRET_KEY that"
    if not box.is_lasting:
        raise KeyMissing(f"{text} they were made with; it is not set")
    if not any(_opens(record, box) for record in records):
        raise KeyMissing(f"{text} they were made with; this one opens none of them")


def _opens(record: dict[str, object], box: SecretBox) -> bool:
    try:
        decode_webhook(record).opened(box)
    except NotOurs:
        return False
    return True
