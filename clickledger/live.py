"""Enriched clicks as they come: read without a group, as one coloured line each."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from rich.text import Text

from clickledger.audit_run import read_stream
from clickledger.located import Located
from shared.enriched import Enriched, Stream, Taken
from shared.errors import DataError
from shared.events import decode_enriched
from shared.rte import Position

_BUFFER_BYTES: Final = 4 << 20
"""Read ahead: some thousand clicks."""
_COLOURS: Final = {"accepted": "green", "rejected": "red", "malformed": "bold red"}


async def follow(found: Located, begin: int | Position | None) -> AsyncIterator[tuple[Taken, dict[str, Any]]]:
    """Yield enriched clicks, each once, from a time (ms), from a position, or from now, for ever.

    The order is each partition's; partitions are not merged by time. Raises TransientError when Kafka goes away,
    PositionLost, OperatorError before `setup` has run.
    """
    enriched = Enriched(found.kafka, await _stream(found), "clickledger-tail", _BUFFER_BYTES)
    try:
        await enriched.open()
        match begin:
            case None:
                await enriched.begin_latest()
            case int():
                await enriched.begin_at(begin)
            case Position():
                await enriched.begin(begin)
        while True:
            for taken in await enriched.read(timeout_ms=200):
                with contextlib.suppress(DataError):  # not one of ours; the sink stops there and says so
                    yield taken, decode_enriched(taken.value)
    finally:
        await enriched.close()


async def _stream(found: Located) -> Stream:
    record, _ = await read_stream(found)
    return Stream(record.stream, record.start_offsets)


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
        ("clicked-at ignored " if record.get("clicked_at_ignored") else "", "yellow"),
        (_plain(record.get("reason")), "yellow"),
    ]
    return Text.assemble(*(part for part in parts if part[0]))


def _plain(value: object) -> str:
    """Give text without control characters: clicks come from strangers and must not drive the terminal."""
    return "".join(char if char.isprintable() else "?" for char in str(value or ""))
