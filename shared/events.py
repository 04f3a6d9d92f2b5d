"""The wire contracts: what stands in `clicks.raw` and `clicks.enriched`, version 1.

Rules: JSON, UTF-8, one click per Kafka record, snake_case, times in milliseconds since the epoch (UTC). Changes are
additive only; a golden file per version (tests/golden/) must decode for ever. A raw record is made by joining bytes
around the request body and the stored link, never by encoding either again. An enriched record is flat: its keys are
exactly `ENRICHED_FIELDS` (enriched_fields.py), in that order, so that the sink inserts the bytes that it read.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple

import orjson

from shared.enriched_fields import ENRICHED_NAMES
from shared.errors import DataError

RAW_VERSION: Final = 1
ENRICHED_VERSION: Final = 1

HEADER_SUSPECT: Final = "suspect"
"""Kafka header, value `1`: a copy of this click may exist (Idempotency-Key, spool, reprocess)."""
HEADER_RAW_OFFSET: Final = "raw_offset"
"""Kafka header of an enriched record: the offset of its raw record, 8 bytes, big endian."""

MIDDLES_MAX: Final = 128
"""Remembered middles of raw records: of the keys that report at one moment; at most 3 KB each, with an agent."""

_RAW_OFFSET: Final = struct.Struct(">Q")


class Status(StrEnum):
    """What became of a raw record. Every raw record becomes a row with exactly one of these."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    MALFORMED = "malformed"


class Source(StrEnum):
    """Which way a click came in."""

    API = "api"
    BATCH = "batch"
    SPOOL = "spool"
    REPROCESS = "reprocess"

    __hash__ = str.__hash__  # that of enumerations is a function in Python


class Reason(StrEnum):
    """Why a row is not `accepted`: closed, one per cause."""

    NONE = ""
    # duplicate
    IDEMPOTENCY_KEY_REPEATED = "idempotency_key_repeated"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    REPLAYED = "replayed"
    # rejected: a well-formed click that must not count
    UNKNOWN_LINK = "unknown_link"
    PROMOTION_MISSING = "promotion_missing"
    TENANT_UNKNOWN = "tenant_unknown"
    LINK_EXPIRED = "link_expired"
    LINK_DISABLED = "link_disabled"
    RETENTION_PASSED = "retention_passed"
    # malformed: not a click as `decode_raw` knows it
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    UNKNOWN_VERSION = "unknown_version"
    FIELD_MISSING = "field_missing"
    FIELD_INVALID = "field_invalid"
    KEY_MISMATCH = "key_mismatch"
    TIME_INVALID = "time_invalid"
    CATALOG_VERSION_AHEAD = "catalog_version_ahead"
    TOO_LARGE = "too_large"
    EMPTY = "empty"
    NOT_STORABLE = "not_storable"
    INTERNAL_ERROR = "internal_error"


class RawOrigin(NamedTuple):
    """What a raw record says beside the click itself: the same for many clicks of a key."""

    tenant: str
    key_id: str
    node: str
    source: Source
    suspect: bool
    replay_of: tuple[str, int, int] | None
    """(stream, partition, offset) of the row that was reprocessed."""
    clicked_at_ignored: bool
    caller_user_agent: str | None = None


class RawClick(NamedTuple):
    """A decoded raw record. Times in milliseconds UTC."""

    transaction_id: str
    received_at_ms: int
    origin: RawOrigin
    catalog_version: int
    """Offset in the catalog topic up to which the API had read when it accepted the click."""
    link: Mapping[str, Any]
    """The link record as it was at acceptance (kind `link` of the catalog)."""
    click: Mapping[str, Any]
    """The request body: `short-url`, `user-agent`, `ip-address`, `clicked-at`."""


class MalformedRaw(DataError):
    """A raw record that is not one of ours; `reason` names the cause."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def _json(value: str) -> bytes:
    return orjson.dumps(value)


def raw_origin(tenant: str, key_id: str, node: str, source: Source) -> bytes:
    """The part of a raw record that is the same for every click of a key on a node: encode once, pass to `encode_raw`."""
    return b'"tenant":%b,"key_id":%b,"node":%b,"source":"%b"' % (
        _json(tenant),
        _json(key_id),
        _json(node),
        source.encode(),
    )


@lru_cache(maxsize=MIDDLES_MAX)
def raw_middle(
    received_at_ms: int,
    origin: bytes,
    catalog_version: int,
    suspect: bool,  # noqa: FBT001 remembered by position, which is twice as fast
    clicked_at_ignored: bool,  # noqa: FBT001
    caller_user_agent: bytes = b"",
    replay_of: bytes = b"null",
) -> bytes:
    """What stands in a raw record between its transaction-id and its link: the same for many clicks of a moment.

    `origin` comes from `raw_origin`; `caller_user_agent` is empty or a JSON string; `replay_of` is `null` or a JSON array.
    """
    return (
        b'","received_at":%d,%b,"suspect":%b,"replay_of":%b,"clicked_at_ignored":%b,%b"catalog_version":%d,"link":'
        % (
            received_at_ms,
            origin,
            b"true" if suspect else b"false",
            replay_of,
            b"true" if clicked_at_ignored else b"false",
            b'"caller_user_agent":%b,' % caller_user_agent if caller_user_agent else b"",
            catalog_version,
        )
    )


_BEGIN: Final = b'{"v":1,"transaction_id":"'
_CLICK: Final = b',"click":'


def join_raw(transaction_id: bytes, middle: bytes, link: bytes, click: bytes) -> bytes:
    """The value of a raw record; `middle` is a `raw_middle`, `link` and `click` are JSON objects, kept byte for byte."""
    return b"".join((_BEGIN, transaction_id, middle, link, _CLICK, click, b"}"))  # half the time of a format


def join_raws(ids: Sequence[bytes], middle: bytes, links: Sequence[bytes], clicks: Sequence[bytes]) -> list[bytes]:
    """`join_raw` for many that share a `middle`."""
    return [
        b"".join((_BEGIN, transaction_id, middle, link, _CLICK, click, b"}"))
        for transaction_id, link, click in zip(ids, links, clicks, strict=True)
    ]


def encode_raw(
    *,
    transaction_id: bytes,
    received_at_ms: int,
    origin: bytes,
    suspect: bool,
    clicked_at_ignored: bool,
    catalog_version: int,
    link: bytes,
    click: bytes,
    replay_of: bytes = b"null",
    caller_user_agent: bytes = b"",
) -> bytes:
    """The value of one raw record; see `raw_middle` and `join_raw`."""
    flags = (suspect, clicked_at_ignored)
    middle = raw_middle(received_at_ms, origin, catalog_version, *flags, caller_user_agent, replay_of)
    return join_raw(transaction_id, middle, link, click)


_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_ORIGIN: Final = re.compile(
    rb'(\{"v":1,"transaction_id":%b,"received_at":\d+,"tenant":%b,"key_id":%b,"node":%b,)'
    rb'"source":%b,"suspect":(?:true|false),' % ((_STRING,) * 5),
    re.DOTALL,
)
"""A raw record from its first byte to `suspect`, string by string: nothing inside a string can be taken for a name."""


def mark_replayed(value: bytes) -> bytes:
    """The value of a raw record as the spool's replay sends it: `source` is `spool`, `suspect` is true, the rest as it was.

    Raises DataError for bytes that `encode_raw` did not write.
    """
    found = _ORIGIN.match(value)
    if found is None:
        raise DataError(f"not a raw record of version {RAW_VERSION}: {value[:80]!r}")
    return b'%b"source":"%b","suspect":true,%b' % (found[1], Source.SPOOL.encode(), value[found.end() :])


class RawField(NamedTuple):
    """One key of the raw record."""

    name: str
    type: type
    comment: str


RAW_FIELDS: Final[tuple[RawField, ...]] = (
    RawField("transaction_id", str, "the id that the caller was given, a UUID"),
    RawField("received_at", int, "when the API took the click"),
    RawField("tenant", str, "whose click it is"),
    RawField("key_id", str, "id of the API key that reported it"),
    RawField("node", str, "API machine that took it"),
    RawField("source", str, "api, batch, spool or reprocess"),
    RawField("suspect", bool, "a copy of this click may exist (Idempotency-Key, spool, reprocess)"),
    RawField("clicked_at_ignored", bool, "a clicked-at was given but was outside its bounds"),
    RawField("catalog_version", int, "catalog version at acceptance"),
    RawField("link", dict, "the catalog's record of the matched link, as it was at acceptance"),
    RawField("click", dict, "the request body: short-url, user-agent, ip-address, clicked-at"),
)
"""What every raw record has besides `v`; `replay_of` and `caller_user_agent` may be null or absent."""

_RAW_VALUES: Final = itemgetter(*(field.name for field in RAW_FIELDS))
_RAW_TYPES: Final = tuple(field.type for field in RAW_FIELDS)
_SOURCES: Final = {str(source): source for source in Source}


def decode_raw(value: bytes | None) -> RawClick:
    """Decode the value of a raw record. Raises MalformedRaw, with a reason, for anything that is none of ours."""
    return _click_of(_decode_object(value))


def _click_of(record: Mapping[str, Any]) -> RawClick:
    if record.get("v") != RAW_VERSION:
        raise MalformedRaw(Reason.UNKNOWN_VERSION, f"v is {record.get('v')!r:.40}, known: {RAW_VERSION}")
    try:
        values = _RAW_VALUES(record)
    except KeyError:
        values = ()
    if tuple(map(type, values)) != _RAW_TYPES:
        raise _wrong_field(record)
    transaction_id, received_at, tenant, key_id, node, source, suspect, ignored, version, link, click = values
    caller = record.get("caller_user_agent")
    if caller is not None and not isinstance(caller, str):
        raise MalformedRaw(Reason.FIELD_INVALID, "caller_user_agent is not str")
    known = _SOURCES.get(source)
    if known is None:
        raise MalformedRaw(Reason.FIELD_INVALID, f"source {source!r:.40}")
    replay_of = record.get("replay_of")
    position = None if replay_of is None else decode_position(replay_of)
    origin = RawOrigin(tenant, key_id, node, known, suspect, position, ignored, caller)
    return RawClick(transaction_id, received_at, origin, version, link, click)


def _wrong_field(record: Mapping[str, Any]) -> MalformedRaw:
    for name, kind, _ in RAW_FIELDS:
        if name not in record:
            return MalformedRaw(Reason.FIELD_MISSING, name)
        if type(record[name]) is not kind:
            return MalformedRaw(Reason.FIELD_INVALID, f"{name} is not {kind.__name__}")
    raise AssertionError("every field is there and of its type")


def _decode_object(value: bytes | None) -> dict[str, Any]:
    if not value:
        raise MalformedRaw(Reason.EMPTY, "record without a value")
    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError as exc:
        raise MalformedRaw(Reason.NOT_JSON, str(exc)) from exc
    if not isinstance(record, dict):
        raise MalformedRaw(Reason.NOT_AN_OBJECT, type(record).__name__)
    return record


def decode_position(value: object) -> tuple[str, int, int] | None:
    """`replay_of` of a raw record: (stream, partition, offset), or None. Raises MalformedRaw."""
    if value is None:
        return None
    match value:
        case [str() as stream, int() as partition, int() as offset]:
            return stream, partition, offset
    raise MalformedRaw(Reason.FIELD_INVALID, "replay_of is not [stream, partition, offset]")


def encode_enriched(record: Mapping[str, Any]) -> bytes:
    """The value of an enriched record; `record` holds every name of `ENRICHED_FIELDS`. A missing one is a KeyError."""
    return orjson.dumps({name: record[name] for name in ENRICHED_NAMES})


def decode_enriched(value: bytes) -> dict[str, Any]:
    """Decode an enriched record of any version up to ours; unknown keys are kept. Raises DataError."""
    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError as exc:
        raise DataError(f"enriched record is not JSON: {exc}") from exc
    if not isinstance(record, dict) or not isinstance(record.get("raw_offset"), int):
        raise DataError("enriched record is not an object with a raw_offset")
    return record


def encode_raw_offset(raw_offset: int) -> bytes:
    """The value of the Kafka header `raw_offset`."""
    return _RAW_OFFSET.pack(raw_offset)


def raw_offset_of(headers: Sequence[tuple[str, bytes]]) -> int | None:
    """The raw offset in an enriched record's Kafka headers, None when it has no valid one."""
    for name, value in headers:
        if name == HEADER_RAW_OFFSET and value and len(value) == _RAW_OFFSET.size:  # Kafka has null values, too
            return int(_RAW_OFFSET.unpack(value)[0])
    return None


def is_suspect(headers: Sequence[tuple[str, bytes]]) -> bool:
    """Whether a record's Kafka headers mark a possible copy."""
    return (HEADER_SUSPECT, b"1") in headers
