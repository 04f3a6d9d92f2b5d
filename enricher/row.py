"""The row under construction: its bounds, and its bytes. What `enrich` and `malformed` share.

A row is JSON, joined of parts: what differs from click to click is encoded for each row; what an agent or an address
says, and the versions of the rules, stand ready as bytes. A test proves that the parts are together what encoding the
whole row would give.

The row can always be stored: strings are bounded and valid UTF-8, integers fit their columns, times are between 2001
and 2100, the id is a UUID.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson

from enricher.addresses import NO_ADDRESS_COLUMNS, AddressBook, Privacy
from enricher.agents import NO_AGENT_COLUMNS, AgentParser
from enricher.directory import DAY_MS, RETENTION_DAYS_DEFAULT, Directory, Tenant
from enricher.texts import TIME_MS_MAX, bounded, following
from shared.enriched_fields import ENRICHED_FIELDS
from shared.events import (
    ENRICHED_VERSION,
    HEADER_RAW_OFFSET,
    HEADER_SUSPECT,
    Reason,
    Status,
    encode_raw_offset,
)

TIME_MS_MIN: Final = 1_000_000_000_000
"""9 September 2001: below it, a number is more likely seconds than milliseconds."""
RECEIVED_AHEAD_MS_MAX: Final = 30 * DAY_MS
"""How far ahead of ours an API machine's clock may be before its time is no time: a wrong clock must not cost clicks."""
KEPT_AFTER_ENRICHING_MS: Final = 7 * DAY_MS
"""design.md 2.4: rows live at least this long, so that sealing runs ahead of expiry."""

RAW_BYTES_MAX: Final = 600_000
"""Larger records are not ours (a body has at most 16 KiB); with base64 the row still fits a Kafka batch of 1 MiB."""
ROW_BYTES_MAX: Final = 150_000
"""Bytes of a row without its `raw`, every string at its bound and escaped."""
REPLAY_OF_BYTES_MAX: Final = 512
CATALOG_VERSION_MAX: Final = 2**63 - 1
ORIGINS_MAX: Final = 4096
"""Origins remembered, of at most some 1,000 bytes: keys, nodes and ways in."""

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


def _empty(first: str, last: str) -> dict[str, Any]:
    """The columns from `first` to `last`, each with the value it has when nothing is known."""
    nothing: dict[str, Any] = {"string": "", "integer": 0, "boolean": False, "integer?": None}
    names = [field.name for field in ENRICHED_FIELDS]
    some = ENRICHED_FIELDS[names.index(first) : names.index(last) + 1]
    return {field.name: nothing[field.json_type] for field in some}


_EMPTY_LINK: Final[Mapping[str, Any]] = _empty("catalog_version", "sent_at")
_EMPTY_END: Final[Mapping[str, Any]] = _empty("click_digest", "raw")


@lru_cache(maxsize=64)
def rules_columns(agent_rules: str = "", bot_rules: str = "", geo_rules: str = "") -> bytes:
    """The columns of the rules' versions as they go on a row: see `following`."""
    return following({"agent_rules": agent_rules, "bot_rules": bot_rules, "geo_rules": geo_rules})


@lru_cache(maxsize=ORIGINS_MAX)
def origin_columns(tenant: str = "", key_id: str = "", source: str = "", node: str = "") -> bytes:
    """The columns from `tenant` to `node`, likewise."""
    return following({"tenant": tenant, "key_id": key_id, "source": source, "node": node})


@lru_cache(maxsize=4096)  # the partitions of a topic, at most
def position_columns(stream: str, partition: int) -> bytes:
    """A row up to its raw offset."""
    whole = orjson.dumps({"v": ENRICHED_VERSION, "stream": stream, "raw_partition": partition, "raw_offset": 0})
    return whole.removesuffix(b"0}")


class Row:
    """A row under construction, at first without knowledge of anything; the attributes are columns, or groups of them."""

    __slots__ = (
        "address",
        "agent",
        "clicked_at",
        "clicked_at_ignored",
        "end",
        "enriched_at",
        "expires_at",
        "link",
        "origin",
        "reason",
        "received_at",
        "replay_of",
        "rules",
        "status",
        "suspect",
        "transaction_id",
    )

    def __init__(self, now_ms: int) -> None:
        self.transaction_id = ""
        self.status = ACCEPTED
        self.reason = NO_REASON
        self.suspect = False
        self.replay_of = ""
        self.received_at = self.clicked_at = self.expires_at = 0
        self.clicked_at_ignored = False
        self.enriched_at = now_ms
        self.origin = NO_ORIGIN_COLUMNS
        """From `tenant` to `node`: see `following`."""
        self.link: Mapping[str, Any] = _EMPTY_LINK
        """From `catalog_version` to `sent_at`, in order."""
        self.agent = NO_AGENT_COLUMNS
        """From `user_agent` to `bot_reason`: see `following`."""
        self.address = NO_ADDRESS_COLUMNS
        """From `ip` to `asn`, likewise."""
        self.rules = NO_RULES_COLUMNS
        """From `agent_rules` to `geo_rules`, likewise."""
        self.end: Mapping[str, Any] = _EMPTY_END
        """`click_digest` and `raw`."""

    def put_end(self, **columns: str) -> None:
        """Set `click_digest` or `raw`."""
        self.end = {**self.end, **columns}

    def encode(self, raw: RawRecord) -> bytes:
        """The row as JSON. The id is a UUID, so JSON escapes nothing of it."""
        begin = (
            f'{raw.offset},"transaction_id":"{self.transaction_id}",'
            f'{self._fate()},"received_at":{self.received_at},"clicked_at":{self.clicked_at},'
            f'"clicked_at_ignored":{"true" if self.clicked_at_ignored else "false"},'
            f'"enriched_at":{self.enriched_at},"expires_at":{self.expires_at}'
        ).encode()
        position, link, end = position_columns(raw.stream, raw.partition), following(self.link), following(self.end)
        return b"".join((position, begin, self.origin, link, self.agent, self.address, self.rules, end, b"}"))

    def _fate(self) -> str:
        if self.reason is NO_REASON and not self.suspect and not self.replay_of:
            return _FATE_OF_MOST
        columns = {
            "status": self.status,
            "reason": self.reason,
            "suspect": self.suspect,
            "replay_of": self.replay_of,
        }
        return orjson.dumps(columns)[1:-1].decode()


ACCEPTED: Final = Status.ACCEPTED
NO_REASON: Final = Reason.NONE
"""An enumeration's members take ten times as long to get at as a name of the module."""
NO_ORIGIN_COLUMNS: Final = origin_columns()
NO_RULES_COLUMNS: Final = rules_columns()
END_OF_MOST: Final = following(_EMPTY_END)
_FATE_OF_MOST: Final = '"status":"accepted","reason":"","suspect":false,"replay_of":""'


def raw_bytes_max(batch_bytes_max: int) -> int:
    """How large a raw record may be so that its row, bytes in base64 and all, fits a produced batch.

    Never less than 40 kB: our API's largest record (a body of 16 KiB, a link) must stay whole.
    """
    return min(RAW_BYTES_MAX, max(40_000, (batch_bytes_max - ROW_BYTES_MAX) * 3 // 4))


def encode_row(raw: RawRecord, row: Row) -> EnrichedRecord:
    """The Kafka record of a finished row."""
    # A replay is compared with others of its row, whatever became of it.
    headers = headers_of(raw.offset, is_suspect=row.suspect or bool(row.replay_of))
    made_ms = kafka_time_ms(row.received_at, raw.timestamp_ms, row.enriched_at)
    return EnrichedRecord(row.transaction_id.encode(), row.encode(raw), headers, made_ms, row.status, row.reason)


def headers_of(raw_offset: int, *, is_suspect: bool) -> list[tuple[str, bytes]]:
    """The Kafka headers of a raw record's row."""
    headers = [(HEADER_RAW_OFFSET, encode_raw_offset(raw_offset))]
    if is_suspect:
        headers.append((HEADER_SUSPECT, b"1"))
    return headers


def kafka_time_ms(received_at_ms: int, raw_ms: int, now_ms: int) -> int:
    """The Kafka timestamp of a row; `raw_ms`: its raw record's. Retention counts from it, and a late one must not be over it."""
    return raw_ms if received_at_ms < raw_ms <= now_ms else received_at_ms


def retention_ms_of(tenant: Tenant | None) -> int:
    """A tenant's retention period in ms, the default for an unknown tenant."""
    return RETENTION_DAYS_DEFAULT * DAY_MS if tenant is None else tenant.retention_ms


def privacy_of(tenant: Tenant | None) -> Privacy:
    """An unknown tenant's rows are rejected and kept whole, so that they can be reprocessed."""
    return Privacy.STORE if tenant is None else tenant.privacy


def expires_at_ms(received_at_ms: int, retention_ms: int, now_ms: int) -> int:
    """When the row may be deleted (contract.md, Retention), within what the table holds."""
    expires_at_ms, least_ms = received_at_ms + retention_ms, now_ms + KEPT_AFTER_ENRICHING_MS
    if least_ms <= expires_at_ms <= TIME_MS_MAX:
        return expires_at_ms
    return min(max(expires_at_ms, least_ms), TIME_MS_MAX)


def replay_of_text(replay_of: tuple[str, int, int] | None) -> str:
    """`stream/partition/offset` of the row that was reprocessed, '' when the record is no replay."""
    return bounded("/".join(map(str, replay_of)), REPLAY_OF_BYTES_MAX) if replay_of else ""
