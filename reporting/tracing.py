"""What happened to a click: its rows, else its records that are no rows yet, else nothing is known.

The table answers first. Only what it does not have is looked for in Kafka, and then the table is asked once more,
because the click may have become a row meanwhile. Another tenant's id is as unknown as nobody's.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from reporting.kafka_search import Limits, Place, find_enriched, find_raw
from shared.clickhouse import ClickHouse
from shared.errors import DataError, OperatorError, TransientError
from shared.events import MalformedRaw, Status, decode_enriched, decode_raw
from shared.ids import partition_of
from shared.kafka import Record
from shared.settings import KafkaSettings

log = logging.getLogger(__name__)

COPIES_MAX: Final = 100
"""Rows of one id that are told; more copies than that are no different."""
_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[78][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

TIMES: Final = ("received_at", "clicked_at", "enriched_at", "inserted_at")
COLUMNS: Final = (
    *("status", "reason", "suspect", "replay_of", *TIMES, "clicked_at_ignored", "node", "key_id", "source"),
    *("stream", "raw_partition", "raw_offset", "promotion_id", "campaign_id", "deployment_id", "link", "link_name"),
    *("short_url", "recipient", "user_agent", "browser", "browser_version", "os", "os_version", "device"),
    *("device_brand", "device_type", "resolution", "is_bot", "bot_reason", "country"),
)
"""What is told of a copy, as in the table; None where it is not known yet."""
_SELECTED: Final = ", ".join(f"toUnixTimestamp64Milli({name})" if name in TIMES else name for name in COLUMNS)
_ROWS: Final = f"""
SELECT {_SELECTED}
FROM clicks
WHERE transaction_id = {{id:UUID}} AND ({{tenant:String}} = '' OR tenant = {{tenant:String}})
ORDER BY inserted_at, raw_partition, raw_offset
LIMIT {{limit:UInt32}}
"""  # noqa: S608  # our own names


class State(StrEnum):
    """How far a click is known to have come."""

    STORED = "stored"
    IN_FLIGHT = "in_flight"
    UNKNOWN = "unknown"


class Trace(NamedTuple):
    """What is known of an id."""

    transaction_id: str
    state: State
    copies: Sequence[Mapping[str, Any]]
    """`COLUMNS` with times in ms, and `enriched_offset`; accepted ones and duplicates in the order of their storing"""
    note: str
    """What could not be found out, or how far was looked; '' when nothing is missing"""


def parse_id(text: str) -> str:
    """A transaction-id as it is stored. Raises ValueError for what none of ours can be."""
    if not _ID.fullmatch(found := text.strip().lower()):
        raise ValueError(f"{text[:64]!r} is no transaction-id: it is a UUID of version 7 or 8")
    return found


async def trace(
    clickhouse: ClickHouse, kafka: KafkaSettings, limits: Limits, tenant: str, transaction_id: str
) -> Trace:
    """What happened to a click; tenant '' is every tenant's.

    Raises as ClickHouse does; TransientError when there is no row and Kafka cannot be asked.
    """
    if rows := await _rows(clickhouse, tenant, transaction_id):
        return await _with_positions(kafka, limits, transaction_id, rows)
    found = await find_raw(kafka, limits, transaction_id)
    if rows := await _rows(clickhouse, tenant, transaction_id):
        return await _with_positions(kafka, limits, transaction_id, rows)
    if found.raw is not None and (copy := _in_flight(partition_of(transaction_id), found.raw, found.enriched, tenant)):
        return Trace(transaction_id, State.IN_FLIGHT, [copy], "")
    looked = "all records" if found.is_whole else f"{limits.records:,} near its time and the last {limits.records:,}"
    note = f"no row; in Kafka {looked} of partition {partition_of(transaction_id)} were looked at"
    return Trace(transaction_id, State.UNKNOWN, (), note)


async def _rows(clickhouse: ClickHouse, tenant: str, transaction_id: str) -> list[dict[str, Any]]:
    params = {"id": transaction_id, "tenant": tenant, "limit": COPIES_MAX}
    return [dict(zip(COLUMNS, row, strict=True)) for row in await clickhouse.query(_ROWS, params)]


async def _with_positions(
    kafka: KafkaSettings, limits: Limits, transaction_id: str, rows: Sequence[dict[str, Any]]
) -> Trace:
    """Rows and, of the accepted one, the offset of its enriched record while Kafka has it: one search for all copies."""
    row = next((row for row in rows if row["status"] == Status.ACCEPTED), rows[0])
    try:
        enriched = await find_enriched(
            kafka, limits, transaction_id, Place(row["raw_partition"], row["raw_offset"], row["enriched_at"])
        )
    except (TransientError, OperatorError) as exc:
        log.warning("tracing %s: %s", transaction_id, exc)
        enriched, note = None, "Kafka does not answer, so enriched_offset is not known"
    else:
        note = "" if enriched else "the enriched record is no longer in Kafka, or not near its time"
    known = {id(row): enriched.offset if enriched else None}
    return Trace(
        transaction_id, State.STORED, [{**each, "enriched_offset": known.get(id(each))} for each in rows], note
    )


def _in_flight(partition: int, raw: Record, enriched: Record | None, tenant: str) -> dict[str, Any] | None:
    """What the records say; None when they are another tenant's or no click at all."""
    nothing: dict[str, Any] = dict.fromkeys((*COLUMNS, "enriched_offset"))
    position = {"raw_partition": partition, "raw_offset": raw.offset}
    try:
        click = decode_raw(raw.value)
        record = decode_enriched(enriched.value or b"") if enriched else {}
    except (MalformedRaw, DataError):
        return None
    if tenant not in ("", click.origin.tenant):
        return None
    known: dict[str, Any] = {
        "received_at": click.received_at_ms,
        "clicked_at_ignored": click.origin.clicked_at_ignored,
        "suspect": click.origin.suspect,
    }
    known |= {"node": click.origin.node, "key_id": click.origin.key_id, "source": click.origin.source.value}
    known |= {"link": click.link.get("link"), "promotion_id": click.link.get("promotion_id")}
    known |= {"short_url": click.click.get("short-url"), "recipient": click.link.get("recipient")}
    known |= {name: record[name] for name in COLUMNS if name in record}
    return nothing | known | position | {"enriched_offset": enriched.offset if enriched else None}


def delays(copy: Mapping[str, Any], now_ms: int) -> dict[str, int | None]:
    """Milliseconds of each step; of the one that is not done yet, those that it takes so far."""
    taken, enriched, stored = copy["received_at"], copy["enriched_at"], copy["inserted_at"]
    return {
        "to_enriched_ms": (enriched or now_ms) - taken,
        "to_stored_ms": None if enriched is None else (stored or now_ms) - enriched,
        "total_ms": (stored or now_ms) - taken,
    }


def readable(copy: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with its times in ISO 8601, UTC."""
    return {**copy, **{name: _iso(copy[name]) for name in TIMES}}


def _iso(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
