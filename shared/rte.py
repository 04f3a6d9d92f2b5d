"""The real-time event stream without its transport: which clicks are wanted, where a reader stands, one click as an event.

Rules. A position counts *raw* offsets: `clicks.enriched` may hold a record again after a crash, but the first copies of
a partition go up without holes (docs/ARCHITECTURE.md, invariant 4), so "the next raw offset of each partition" says
exactly what was given and what was not, for ever. An event is the enriched record in a CloudEvents 1.0 envelope; a
dimension that is not known is absent.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

from shared.events import Status
from shared.ids import PARTITIONS_MAX

FILTER_VALUES_MAX: Final = 100
"""Promotions, or links, of one filter: more is a report, not a stream."""
FILTER_CHARS_MAX: Final = 2_048
"""Characters of one promotion or link; the longest short URL."""
OFFSET_MAX: Final = 2**63 - 1
"""Kafka's own limit."""

EVENT_TYPE: Final = "com.clickledger.click."
"""Before the status: the CloudEvents type of a click."""
SPEC_VERSION: Final = "1.0"

STREAMED: Final = frozenset(Status) - {Status.DUPLICATE}
"""The statuses that events have: the sink finds duplicates when their events have long been sent as accepted."""
NEVER_STREAMED: Final = "duplicate is found when a click is stored, after its event, which says accepted"

_BOTS: Final[Mapping[str, bool | None]] = {"any": None, "yes": True, "no": False}
_STREAM: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")
_OFFSET: Final = re.compile(r"0|[1-9][0-9]{0,18}")

TIME_FIELDS: Final = ("clicked_at", "received_at")
"""Milliseconds in the record, RFC 3339 in the event."""
TEXT_FIELDS: Final = (
    *("tenant", "short_url", "link", "link_name", "promotion_id", "campaign_id", "deployment_id", "recipient"),
    *("long_url", "user_agent", "browser", "browser_version", "os", "os_version", "device", "device_brand"),
    *("device_type", "resolution", "bot_reason", "ip", "ip_kind", "country", "region", "city", "reason"),
)
"""Absent when empty."""


class BadPosition(ValueError):
    """A text that is no position; the message says why."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a reader of one stream stands: everything below is given, nothing from here on.

    The text form is `<stream>.<offset of partition 0>.<offset of partition 1>…`, decimal, safe in URLs and as the id
    of a server-sent event.
    """

    stream: str
    offsets: tuple[int, ...]
    """The next raw offset of each partition from 0 on. A partition that is not named was made later: 0."""

    def offset(self, partition: int) -> int:
        """The next raw offset of a partition."""
        return self.offsets[partition] if partition < len(self.offsets) else 0

    def __str__(self) -> str:
        return ".".join((self.stream, *map(str, self.offsets)))

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read the text form. Raises BadPosition."""
        stream, *offsets = text.split(".", PARTITIONS_MAX + 1)
        if not _STREAM.fullmatch(stream):
            raise BadPosition(f"not a position: it begins with {stream[:80]!r}, which is not the id of a stream")
        if not 1 <= len(offsets) <= PARTITIONS_MAX:
            raise BadPosition(f"not a position: it has no offset, or more than {PARTITIONS_MAX:,}")
        for partition, offset in enumerate(offsets):
            if not _OFFSET.fullmatch(offset) or int(offset) > OFFSET_MAX:
                raise BadPosition(f"not a position: {offset[:40]!r} of partition {partition} is not an offset")
        return cls(stream, tuple(map(int, offsets)))


@dataclass(frozen=True, slots=True)
class Filter:
    """Which clicks are wanted. An empty set, or None, wants all; what is given must all hold."""

    statuses: frozenset[str] = frozenset()
    promotions: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()
    """Short URLs as sent, or registered links (`host/path`)."""
    bots: bool | None = None
    """True: bots only. False: no bots."""
    tenant: str | None = None

    @classmethod
    def of(
        cls,
        *,
        statuses: Iterable[str] = (),
        promotions: Iterable[str] = (),
        links: Iterable[str] = (),
        bots: str = "any",
        tenant: str | None = None,
        known: Collection[Status] = tuple(Status),
    ) -> Filter:
        """A filter from what somebody typed; `bots` is yes, no or any. Raises ValueError, naming the parameter.

        `known`: the statuses that what is filtered can have, those of rows or `STREAMED`.
        """
        wanted = frozenset(statuses)
        if unknown := wanted.difference(known):
            why = f"; {NEVER_STREAMED}" if Status.DUPLICATE in unknown else ""
            raise ValueError(f"status: {', '.join(sorted(unknown))[:80]} is not one of {', '.join(sorted(known))}{why}")
        if bots not in _BOTS:
            raise ValueError(f"bots: {bots[:80]!r} is not one of {', '.join(_BOTS)}")
        return cls(wanted, _bounded("promotion_id", promotions), _bounded("link", links), _BOTS[bots], tenant)

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether an enriched record is wanted."""
        return (
            (self.tenant is None or record.get("tenant") == self.tenant)
            and (not self.statuses or record.get("status") in self.statuses)
            and (not self.promotions or record.get("promotion_id") in self.promotions)
            and (not self.links or record.get("link") in self.links or record.get("short_url") in self.links)
            and (self.bots is None or bool(record.get("is_bot")) is self.bots)
        )


def _bounded(name: str, values: Iterable[str]) -> frozenset[str]:
    given = frozenset(values)
    if len(given) > FILTER_VALUES_MAX:
        raise ValueError(f"{name}: {len(given):,} values, at most {FILTER_VALUES_MAX} are allowed")
    for value in given:
        if not value or len(value) > FILTER_CHARS_MAX:
            raise ValueError(f"{name}: a value has 1 to {FILTER_CHARS_MAX:,} characters, not {len(value):,}")
    return given


def event_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """A decoded enriched record as a CloudEvent; `id` is the transaction-id, which copies of a click share."""
    clicked_at = rfc3339(record["clicked_at"])
    event = {
        "specversion": SPEC_VERSION,
        "id": record["transaction_id"],
        "source": source_of(record["tenant"]),
        "type": EVENT_TYPE + record["status"],
        "time": clicked_at,
        "datacontenttype": "application/json",
    }
    if record["promotion_id"]:
        event["subject"] = record["promotion_id"]
    event["data"] = data = {
        "transaction_id": record["transaction_id"],
        "status": record["status"],
        "suspect": record["suspect"],
        "clicked_at": clicked_at,
        "clicked_at_ignored": record["clicked_at_ignored"],
        "received_at": rfc3339(record["received_at"]),
        "is_bot": record["is_bot"],
        "stream": record["stream"],
        "raw_partition": record["raw_partition"],
        "raw_offset": record["raw_offset"],
    }
    for name in TEXT_FIELDS:
        if value := record[name]:
            data[name] = value
    if record["asn"]:
        data["asn"] = record["asn"]
    return event


@lru_cache(maxsize=4_096)  # tenants of one installation
def source_of(tenant: str) -> str:
    """The CloudEvents source of a tenant's clicks: with the id it names a click."""
    return f"/clickledger/tenants/{quote(tenant, safe='')}"


def rfc3339(time_ms: int) -> str:
    """Milliseconds since the epoch as RFC 3339, UTC, with milliseconds. Exact for the years 1970 to 9999."""
    seconds, ms = divmod(time_ms, 1_000)
    return f"{_to_second(seconds)}.{ms:03d}Z"


@lru_cache(maxsize=1_024)  # neighbours share their seconds
def _to_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
