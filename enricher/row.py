"""The row under construction: its bounds, and its bytes. What `enrich` and `malformed` share.

The row can always be stored: strings are bounded and valid UTF-8, integers fit their columns, times are between 2001
and 2100, the id is a UUID.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from enricher.addresses import AddressBook, Privacy
from enricher.agents import AgentParser
from enricher.directory import DAY_MS, RETENTION_DAYS_DEFAULT, Directory, Tenant
from enricher.texts import bounded
from shared.events import (
    ENRICHED_FIELDS,
    ENRICHED_VERSION,
    HEADER_RAW_OFFSET,
    HEADER_SUSPECT,
    Reason,
    Status,
    encode_raw_offset,
)

TIME_MS_MIN: Final = 1_000_000_000_000
"""9 September 2001: below it, a number is more likely seconds than milliseconds."""
TIME_MS_MAX: Final = 4_102_444_800_000
"""1 January 2100: the table's TTL counts in 32 bits of seconds, which end in 2106."""
RECEIVED_AHEAD_MS_MAX: Final = 30 * DAY_MS
"""How far ahead of ours an API machine's clock may be before its time is no time: a wrong clock must not cost clicks."""
KEPT_AFTER_ENRICHING_MS: Final = 7 * DAY_MS
"""design.md 2.4: rows live at least this long, so that sealing runs ahead of expiry."""

ID_BYTES_MAX: Final = 256
"""Ids (tenant, key, promotion): low-cardinality columns; a longer one is not ours, and cutting would alias another."""
RAW_BYTES_MAX: Final = 600_000
"""Larger records are not ours (a body has at most 16 KiB); with base64 the row still fits a Kafka batch of 1 MiB."""
ROW_BYTES_MAX: Final = 150_000
"""Bytes of a row without its `raw`, every string at its bound and escaped."""
REPLAY_OF_BYTES_MAX: Final = 512
CATALOG_VERSION_MAX: Final = 2**63 - 1

UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
"""The text of a transaction-id."""


class RawRecord(NamedTuple):
    """One record of clicks.raw as Kafka gave it."""

    stream: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int


class EnrichedRecord(NamedTuple):
    """One record for clicks.enriched."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    timestamp_ms: int
    status: Status
    reason: Reason


class Tools(NamedTuple):
    """What the steps use; everything that changes with time is in the directory."""

    agents: AgentParser
    addresses: AddressBook
    directory: Directory
    raw_bytes_max: int = RAW_BYTES_MAX
    """Bytes of a raw record beyond which it is malformed and cut."""


Row = dict[str, Any]

EMPTY: Final[Mapping[str, Any]] = {
    field.name: {"string": "", "integer": 0, "boolean": False, "integer?": None}[field.json_type]
    for field in ENRICHED_FIELDS
}
"""Every key of the enriched record, in order, with the value it has when nothing is known."""


def raw_bytes_max(batch_bytes_max: int) -> int:
    """How large a raw record may be so that its row, bytes in base64 and all, fits a produced batch.

    Never less than 40 kB: our API's largest record (a body of 16 KiB, a link) must stay whole.
    """
    return min(RAW_BYTES_MAX, max(40_000, (batch_bytes_max - ROW_BYTES_MAX) * 3 // 4))


def put_position(row: Row, raw: RawRecord, now_ms: int) -> None:
    """Where the raw record stands; `now_ms` is when it is enriched."""
    row["v"] = ENRICHED_VERSION
    row["stream"] = raw.stream
    row["raw_partition"] = raw.partition
    row["raw_offset"] = raw.offset
    row["enriched_at"] = now_ms


def encode_row(raw: RawRecord, row: Row) -> EnrichedRecord:
    """The Kafka record of a finished row. The keys stand in order already, as `encode_enriched` would write them."""
    headers = [(HEADER_RAW_OFFSET, encode_raw_offset(raw.offset))]
    if row["suspect"] or row["replay_of"]:  # a replay is compared with others of its row, whatever became of it
        headers.append((HEADER_SUSPECT, b"1"))
    is_late = row["received_at"] < raw.timestamp_ms <= row["enriched_at"]
    return EnrichedRecord(
        key=row["transaction_id"].encode(),
        value=orjson.dumps(row),
        headers=headers,
        timestamp_ms=raw.timestamp_ms if is_late else row["received_at"],  # Kafka's retention counts from it
        status=row["status"],
        reason=row["reason"] or Reason.NONE,
    )


def retention_ms_of(tenant: Tenant | None) -> int:
    """A tenant's retention period in ms, the default for an unknown tenant."""
    return RETENTION_DAYS_DEFAULT * DAY_MS if tenant is None else tenant.retention_ms


def privacy_of(tenant: Tenant | None) -> Privacy:
    """An unknown tenant's rows are rejected and kept whole, so that they can be reprocessed."""
    return Privacy.STORE if tenant is None else tenant.privacy


def expires_at_ms(received_at_ms: int, retention_ms: int, now_ms: int) -> int:
    """When the row may be deleted (contract.md, Retention), within what the table holds."""
    return min(max(received_at_ms + retention_ms, now_ms + KEPT_AFTER_ENRICHING_MS), TIME_MS_MAX)


def replay_of_text(replay_of: tuple[str, int, int] | None) -> str:
    """`stream/partition/offset` of the row that was reprocessed, '' when the record is no replay."""
    return bounded("/".join(map(str, replay_of)), REPLAY_OF_BYTES_MAX) if replay_of else ""


def text_of(value: object, bytes_max: int) -> str:
    """A stored text or number as a bounded string; '' for anything else."""
    if isinstance(value, str):
        return bounded(value, bytes_max)
    return str(value) if type(value) in (int, float) else ""


def time_ms_of(value: object) -> int | None:
    """A time in milliseconds that the table can hold, else None."""
    return value if type(value) is int and 0 <= value <= TIME_MS_MAX else None
