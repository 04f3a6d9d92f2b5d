"""The row of a record that is no click: its position, its bytes, and what little is known of it."""

from __future__ import annotations

import hashlib

import orjson

from enricher.raw_bytes import keep_raw
from enricher.row import (
    CATALOG_VERSION_MAX,
    RECEIVED_AHEAD_MS_MAX,
    TIME_MS_MIN,
    UUID,
    RawRecord,
    Row,
    Tools,
    expires_at_ms,
    origin_columns,
    privacy_of,
    replay_of_text,
    retention_ms_of,
)
from enricher.texts import ID_BYTES_MAX, TIME_MS_MAX, bounded
from shared.events import MalformedRaw, RawClick, Reason, Status, decode_position


def malformed_row(raw: RawRecord, click: RawClick | None, tools: Tools, now_ms: int, reason: Reason) -> Row:
    """The row of a record that is no click: its position, its bytes, and what little is known of it."""
    row = Row(now_ms)
    hint, replay_of = _hints(raw.value, tools.raw_bytes_max)
    tenant = tools.directory.tenant(hint) if hint else None
    received_at_ms = next(
        ms
        for ms in (click.received_at_ms if click else 0, raw.timestamp_ms, now_ms)
        if ms == now_ms or TIME_MS_MIN <= ms <= min(TIME_MS_MAX, now_ms + RECEIVED_AHEAD_MS_MAX)
    )
    row.transaction_id = ids_of_malformed(raw, click)[0]
    row.status = Status.MALFORMED
    row.reason = reason
    row.received_at = row.clicked_at = received_at_ms
    row.expires_at = expires_at_ms(received_at_ms, retention_ms_of(tenant), now_ms)
    row.replay_of = replay_of
    catalog_version, key_id, source, node = -1, "", "", ""
    if click is not None:
        key_id, node = (bounded(name, ID_BYTES_MAX) for name in (click.origin.key_id, click.origin.node))
        source = click.origin.source
        catalog_version = max(-1, min(click.catalog_version, CATALOG_VERSION_MAX))
    row.origin = origin_columns(hint, key_id, source, node)
    row.link = {**row.link, "catalog_version": catalog_version}
    row.put_end(raw=keep_raw(raw.value or b"", privacy_of(tenant), tools.raw_bytes_max))
    return row


def ids_of_malformed(raw: RawRecord, click: RawClick | None) -> list[str]:
    """The ids that a malformed record's row may have, the first is taken where `click` is known.

    The record's own (its key, its click's), and one made of its position: the same every time.
    """
    named = ((raw.key or b"").decode("ascii", "replace"), click.transaction_id if click else "")
    digest = hashlib.sha256(f"clickledger-position\0{raw.stream}\0{raw.partition}\0{raw.offset}".encode()).hexdigest()
    # Version 8 (RFC 9562, 5.8) with the partition in `rand_a`, as in shared.ids.
    made = f"{digest[:8]}-{digest[8:12]}-8{raw.partition & 0xFFF:03x}-8{digest[13:16]}-{digest[16:28]}"
    return [*filter(UUID.fullmatch, named), made]


def _hints(value: bytes | None, bytes_max: int) -> tuple[str, str]:
    """The tenant and the replayed row that a malformed record names, each '' when it names none."""
    if not value or len(value) > bytes_max:
        return "", ""
    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError:
        return "", ""
    if not isinstance(record, dict):
        return "", ""
    tenant = record.get("tenant")
    try:
        replay_of = replay_of_text(decode_position(record.get("replay_of")))
    except MalformedRaw:
        replay_of = ""
    return tenant if isinstance(tenant, str) and len(tenant.encode()) <= ID_BYTES_MAX else "", replay_of
