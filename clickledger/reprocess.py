"""A stored row that is not accepted, made into a raw record again. Pure: no I/O, no clock.

`transaction_id` and `received_at` are the row's, tenant, key and click those of the kept bytes. The record says what it
is: `source` `reprocess`, `suspect`, and in `replay_of` which row it repeats. Whether it will be read is judged here by
the very functions with which the enricher reads it.

The link: a malformed row may hold a click that was answered with 200, so a usable link in its bytes stays; what was
true at acceptance stays true. A rejected row was rejected for its link, promotion or tenant, so the link is looked up
as the API does now; where none is registered, that of the bytes stays.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple, Protocol

import orjson

from enricher.enrich import check_record
from enricher.raw_bytes import restore_raw
from enricher.row import RawRecord
from ingest_api.answers import Refusal
from ingest_api.resolve import FoundLink, LinkCatalog, find_link
from shared.errors import TransientError
from shared.events import MalformedRaw, RawClick, Reason, Source, Status, decode_raw, encode_raw, raw_origin
from shared.ids import partition_of

STATUSES: Final = (Status.MALFORMED, Status.REJECTED)
"""What can be reprocessed: `accepted` counts already, and a `duplicate` has an accepted row."""


class Unsendable(StrEnum):
    """Why no record can be made of a row's bytes; beside the reasons for which `decode_raw` refuses them."""

    CUT = "cut"
    """The record was too large and was kept in part."""
    WITHHELD = "withheld"
    """The tenant does not store addresses, and the record could not be written again without."""
    NOT_BASE64 = "not_base64"
    TOO_DEEP = "too_deep"
    """Nested deeper than JSON can be written."""


class Stored(NamedTuple):
    """A row as the table has it."""

    stream: str
    partition: int
    offset: int
    transaction_id: str
    received_at_ms: int
    status: Status
    raw: str
    """the column `raw`"""

    @property
    def position(self) -> str:
        """As a replay's row names it in `replay_of`."""
        return f"{self.stream}/{self.partition}/{self.offset}"


class Replay(NamedTuple):
    """A record for `clicks.raw`."""

    partition: int
    key: bytes
    value: bytes


class Catalog(LinkCatalog, Protocol):
    """The part of `shared.catalog.Catalog` that is needed."""

    version: int


def replay_of(row: Stored, catalog: Catalog, partitions: int, now_ms: int) -> Replay | Unsendable | Reason:
    """The raw record that repeats a row, or why there is none. `partitions`: of `clicks.raw` now.

    Raises TransientError while the catalog's copy is behind, since "no such link" is not known then.
    """
    try:
        click = decode_raw(_bytes_of(row.raw))
        value = _encode(row, click, catalog)
        key = row.transaction_id.encode()
        partition = partition_for(row.transaction_id, row.partition, partitions)
        check_record(RawRecord(row.stream, partition, row.offset, key, value, now_ms), decode_raw(value), now_ms)
    except MalformedRaw as exc:
        return exc.reason
    except orjson.JSONEncodeError:
        return Unsendable.TOO_DEEP
    except _NotWhole as exc:
        return exc.reason
    return Replay(partition, key, value)


def partition_for(transaction_id: str, raw_partition: int, partitions: int) -> int:
    """Where all copies of an id meet: the partition that it carries; where there is none, that of its row."""
    carried = partition_of(transaction_id) if transaction_id[14] in "78" else raw_partition
    return carried if carried < partitions else raw_partition % partitions


class _NotWhole(Exception):
    def __init__(self, reason: Unsendable) -> None:
        self.reason = reason


def _bytes_of(raw: str) -> bytes:
    try:
        return restore_raw(raw)
    except ValueError as exc:
        kept_as = raw.partition(":")[0]
        raise _NotWhole(Unsendable(kept_as) if kept_as in tuple(Unsendable) else Unsendable.NOT_BASE64) from exc


def _encode(row: Stored, click: RawClick, catalog: Catalog) -> bytes:
    return encode_raw(
        transaction_id=row.transaction_id.encode(),
        received_at_ms=row.received_at_ms,
        origin=raw_origin(click.origin.tenant, click.origin.key_id, click.origin.node, Source.REPROCESS),
        suspect=True,
        clicked_at_ignored=click.origin.clicked_at_ignored,
        catalog_version=catalog.version,
        link=_link_of(row, click, catalog),
        click=orjson.dumps(click.click),
        replay_of=orjson.dumps([row.stream, row.partition, row.offset]),
        caller_user_agent=orjson.dumps(click.origin.caller_user_agent) if click.origin.caller_user_agent else b"",
    )


def _link_of(row: Stored, click: RawClick, catalog: Catalog) -> bytes:
    short_url, link = click.click.get("short-url"), click.link
    if short_url is None or short_url == "":
        raise MalformedRaw(Reason.FIELD_MISSING, "short-url")
    if not isinstance(short_url, str):
        raise MalformedRaw(Reason.FIELD_INVALID, "short-url is not a string")
    is_usable = (
        bool(link.get("link") and link.get("promotion_id"))
        and link.get("tenant", click.origin.tenant) == click.origin.tenant
    )
    if row.status is not Status.MALFORMED or not is_usable:
        found = find_link(catalog, click.origin.tenant, short_url)
        if isinstance(found, FoundLink):
            return found.raw
        if found is Refusal.CATALOG_STALE:
            raise TransientError("the catalog is not up to date: Kafka does not answer")
    return orjson.dumps(link)
