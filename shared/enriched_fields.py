"""The keys of an enriched record, version 1, in their order, and the column that each becomes: the second wire contract."""

from __future__ import annotations

from typing import Final, NamedTuple


class EnrichedField(NamedTuple):
    """One key of the enriched record and the column it becomes."""

    name: str
    json_type: str
    """`string`, `integer`, `boolean`, or `integer?` (nullable)."""
    clickhouse_type: str
    comment: str


_LOW: Final = "LowCardinality(String)"
_TIME: Final = "DateTime64(3, 'UTC')"

ENRICHED_FIELDS: Final[tuple[EnrichedField, ...]] = tuple(
    EnrichedField(*row)
    for row in (
        ("v", "integer", "UInt8", "version of this record's contract"),
        ("stream", "string", _LOW, "random id of the raw topic's incarnation"),
        ("raw_partition", "integer", "UInt16", "partition of clicks.raw"),
        ("raw_offset", "integer", "UInt64", "offset in clicks.raw; (stream, raw_partition, raw_offset) is the row's position"),
        ("transaction_id", "string", "UUID", "the id that the caller was given"),
        ("status", "string", _LOW, "accepted, duplicate, rejected or malformed"),
        ("reason", "string", _LOW, "why the row is not accepted; empty when it is"),
        ("suspect", "boolean", "Bool", "a copy of this click may exist (Idempotency-Key, spool, reprocess)"),
        ("replay_of", "string", "String", "stream/partition/offset of the row that was reprocessed, else empty"),
        ("received_at", "integer", _TIME, "when the API took the click"),
        ("clicked_at", "integer", _TIME, "when the phone clicked: a valid clicked-at, else received_at; reports use this time"),
        ("clicked_at_ignored", "boolean", "Bool", "a clicked-at was given but was outside its bounds"),
        ("enriched_at", "integer", _TIME, "when the enricher wrote the record"),
        ("expires_at", "integer", _TIME, "when the row may be deleted"),
        ("tenant", "string", _LOW, "whose click it is"),
        ("key_id", "string", _LOW, "id of the API key that reported it"),
        ("source", "string", _LOW, "api, batch, spool or reprocess"),
        ("node", "string", _LOW, "API machine that took it"),
        ("catalog_version", "integer", "Int64", "catalog version at acceptance"),
        ("short_url", "string", "String", "the short URL as sent"),
        ("link", "string", "String", "normalised key of the matched link: host/path"),
        ("promotion_id", "string", _LOW, "promotion of the link"),
        ("campaign_id", "string", _LOW, "campaign of the promotion"),
        ("deployment_id", "string", _LOW, "deployment of the promotion"),
        ("link_name", "string", _LOW, "name of the link"),
        ("recipient", "string", "String", "recipient the link was made for"),
        ("long_url", "string", "String", "where the link leads"),
        ("sent_at", "integer?", f"Nullable({_TIME})", "when the message was sent"),
        ("user_agent", "string", "String", "user agent as sent, trimmed, at most 2,048 bytes"),
        ("browser", "string", _LOW, "browser family"),
        ("browser_version", "string", _LOW, "browser version"),
        ("os", "string", _LOW, "operating system family"),
        ("os_version", "string", _LOW, "operating system version"),
        ("device", "string", _LOW, "device model"),
        ("device_brand", "string", _LOW, "device brand"),
        ("device_type", "string", _LOW, "phone, tablet, pc, bot, other; empty without a user agent"),
        ("resolution", "string", _LOW, "WIDTHxHEIGHT where the agent prints it"),
        ("is_bot", "boolean", "Bool", "crawler, link preview or scanner"),
        ("bot_reason", "string", _LOW, "name of the rule that matched"),
        ("ip", "string", "String", "address, after the tenant's privacy mode"),
        ("ip_kind", "string", _LOW, "public, private, loopback, cgnat, link_local, documentation, other, invalid; empty when none"),
        ("country", "string", _LOW, "ISO 3166-1 alpha-2, of public addresses"),
        ("region", "string", _LOW, "region, from an optional database"),
        ("city", "string", _LOW, "city, from an optional database"),
        ("asn", "integer", "UInt32", "autonomous system number, 0 when unknown"),
        ("agent_rules", "string", _LOW, "version of the user-agent rules"),
        ("bot_rules", "string", _LOW, "version of the bot rules"),
        ("geo_rules", "string", _LOW, "version of the address database"),
        ("click_digest", "string", "String", "digest of the request body, suspects only: tells a repeated from a reused key"),
        ("raw", "string", "String", "original bytes of records that are not accepted (base64:… when not UTF-8)"),
    )
)  # fmt: skip

ENRICHED_NAMES: Final[tuple[str, ...]] = tuple(field.name for field in ENRICHED_FIELDS)
