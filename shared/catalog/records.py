"""What stands in the catalog topic: kinds, keys, changes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

from shared.stored_links import StoredLink

PARTITION: Final = 0
"""The catalog has one partition, so that one number is its version."""


class Kind(StrEnum):
    """What a catalog record describes; the part of its Kafka key before the colon."""

    STREAM = "stream"
    TENANT = "tenant"
    KEY = "key"
    PROMOTION = "promotion"
    LINK = "link"
    SPOOL = "spool"
    CONTROL = "control"
    WEBHOOK = "webhook"
    # In the topic of webhooks, which has the same form: where they stand, and what was tried.
    PROGRESS = "progress"
    REPLAY = "replay"
    STOP = "stop"
    TEST = "test"
    DELIVERY = "delivery"


class Match(NamedTuple):
    """A link found for a URL key: by which rule (`exact` or `prefix`), and as it is stored."""

    rule: str
    link: StoredLink


class Entry(NamedTuple):
    """One change of the catalog; `value` None deletes."""

    kind: Kind
    id: str
    value: Mapping[str, Any] | None


def promotion_key(tenant: str, promotion_id: str) -> str:
    """The id of a promotion's record: promotions belong to a tenant."""
    return f"{tenant}/{promotion_id}"
