"""Enriched clicks as they come: read without a group, filtered, as one coloured line each."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from rich.text import Text

from shared.errors import DataError
from shared.events import Status, decode_enriched
from shared.kafka import Reader
from shared.settings import KafkaSettings

_COLOURS: Final = {"accepted": "green", "duplicate": "yellow", "rejected": "red", "malformed": "bold red"}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which clicks to show; an empty set shows all."""

    statuses: frozenset[str]
    promotions: frozenset[str]
    tenant: str | None

    @classmethod
    def of(cls, statuses: Iterable[str], promotions: Iterable[str], tenant: str | None) -> Filter:
        """Make a filter. Raises ValueError naming the known statuses."""
        known = frozenset(str(status) for status in Status)
        wanted = frozenset(statuses)
        if not wanted <= known:
            raise ValueError(f"--status {', '.join(sorted(wanted - known))}: not one of {', '.join(sorted(known))}")
        return cls(wanted, frozenset(promotions), tenant)

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether a click is wanted."""
        return (
            (not self.statuses or record.get("status") in self.statuses)
            and (not self.promotions or record.get("promotion_id") in self.promotions)
            and (self.tenant is None or record.get("tenant") == self.tenant)
        )


async def follow(kafka: KafkaSettings, since_ms: int | None) -> AsyncIterator[tuple[bytes, dict[str, Any]]]:
    """Yield (value, record) of enriched clicks from now, or from `since_ms` ago, for ever.

    The order is each partition's; partitions are not merged by time. Raises TransientError when Kafka goes away.
    """
    reader = Reader(kafka, kafka.topic_enriched, client_id="clickledger-tail")
    try:
        await reader.start()
        reader.assign(await _positions(reader, since_ms))
        while True:
            for records in (await reader.getmany(timeout_ms=200)).values():
                for record in records:
                    try:
                        yield record.value or b"", decode_enriched(record.value or b"")
                    except DataError:
                        continue  # not one of ours; the sink stops there and says so
    finally:
        await reader.close()


async def _positions(reader: Reader, since_ms: int | None) -> dict[int, int]:
    partitions = await reader.partitions()
    ends = await reader.end_offsets(partitions)
    if since_ms is None:
        return ends
    found = await reader.offsets_at(time.time_ns() // 1_000_000 - since_ms, partitions)
    return {partition: ends[partition] if offset is None else offset for partition, offset in found.items()}


def line_of(record: Mapping[str, Any]) -> Text:
    """Give one click as one line: time, status, promotion, link, browser, system, country, bot."""
    when = datetime.fromtimestamp(record["received_at"] / 1000, UTC)
    status = str(record["status"])
    agent = " on ".join(filter(None, (record.get("browser"), record.get("os"))))
    parts = [
        (f"{when:%H:%M:%S}.{record['received_at'] % 1000:03d} ", "dim"),
        (f"{status:<9} ", _COLOURS.get(status, "")),
        (f"{_plain(record.get('promotion_id')) or '-'} ", "bold cyan"),
        (f"{_plain(record.get('short_url')) or '-'} ", ""),
        (f"{_plain(agent) or 'Others'} ", "magenta"),
        (f"{_plain(record.get('country'))} ".lstrip(), "blue"),
        (f"bot:{_plain(record.get('bot_reason'))} " if record.get("is_bot") else "", "red"),
        (_plain(record.get("reason")), "yellow"),
    ]
    return Text.assemble(*(part for part in parts if part[0]))


def _plain(value: object) -> str:
    """Give text without control characters: clicks come from strangers and must not drive the terminal."""
    return "".join(char if char.isprintable() else "?" for char in str(value or ""))
