"""Writes the public description of the topics and the event stream: docs/schemas/*.json and docs/asyncapi.yaml.

    python -m tools.schemas

Everything comes from `shared/events.py` and `shared/rte.py`; tests/unit/test_schemas.py fails when a file is not current.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import yaml

from shared.enriched_fields import ENRICHED_FIELDS, EnrichedField
from shared.events import (
    ENRICHED_VERSION,
    HEADER_RAW_OFFSET,
    HEADER_SUSPECT,
    RAW_FIELDS,
    RAW_VERSION,
    Reason,
    Source,
    Status,
)
from shared.rte import EVENT_TYPE, NEVER_STREAMED, SPEC_VERSION, STREAMED, TEXT_FIELDS, TIME_FIELDS

DOCS: Final = Path(__file__).parents[1] / "docs"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TYPES: Final = {str: "string", int: "integer", bool: "boolean", dict: "object"}
_OF_THE_SINK: Final = frozenset(
    (Reason.IDEMPOTENCY_KEY_REPEATED, Reason.IDEMPOTENCY_KEY_REUSED, Reason.REPLAYED, Reason.NOT_STORABLE)
)
"""Reasons that a row gets when it is stored, after its event."""
_ENUMS: Final = {
    "status": [str(each) for each in Status if each in STREAMED],
    "reason": [str(each) for each in Reason if each not in _OF_THE_SINK],
    "source": [str(each) for each in Source],
}
_MS: Final = "; milliseconds since the epoch, UTC"

Schema = dict[str, Any]


def enriched_schema() -> Schema:
    """The value of a record of clicks.enriched."""
    properties = {field.name: _enriched_property(field) for field in ENRICHED_FIELDS}
    properties["v"]["const"] = ENRICHED_VERSION
    return _object("An enriched click: value of a record in clicks.enriched", properties, list(properties))


def _enriched_property(field: EnrichedField) -> Schema:
    is_time = "DateTime64" in field.clickhouse_type
    kind = field.json_type
    found: Schema = {
        "type": ["integer", "null"] if kind == "integer?" else kind,
        "description": field.comment + (_MS if is_time else ""),
    }
    if field.name in _ENUMS:
        found["enum"] = _ENUMS[field.name]
    if field.name == "status":
        found["description"] = f"what became of the click; {NEVER_STREAMED}"
    if field.name == "transaction_id":
        found["format"] = "uuid"
    if kind == "integer" and field.clickhouse_type.startswith("UInt"):
        found["minimum"] = 0
    return found


def raw_schema() -> Schema:
    """The value of a record of clicks.raw."""
    properties: Schema = {"v": {"type": "integer", "const": RAW_VERSION, "description": "version of this contract"}}
    for name, kind, comment in RAW_FIELDS:
        properties[name] = {"type": _TYPES[kind], "description": comment + (_MS if name == "received_at" else "")}
    properties["source"]["enum"] = _ENUMS["source"]
    properties["replay_of"] = {
        "type": ["array", "null"],
        "prefixItems": [{"type": "string"}, {"type": "integer"}, {"type": "integer"}],
        "minItems": 3,
        "maxItems": 3,
        "description": "[stream, partition, offset] of the row that was reprocessed",
    }
    properties["caller_user_agent"] = {
        "type": ["string", "null"],
        "description": "the caller's own user agent, where its key asks for that",
    }
    required = ["v", *(field.name for field in RAW_FIELDS)]
    return _object("A click as the API took it: value of a record in clicks.raw", properties, required)


def event_schema() -> Schema:
    """A click in the event stream."""
    fields = {field.name: field for field in ENRICHED_FIELDS}
    data: Schema = {}
    for name in ("transaction_id", "status", "suspect", "is_bot", "stream", "raw_partition", "raw_offset"):
        data[name] = _enriched_property(fields[name])
    for name in TIME_FIELDS:
        data[name] = {"type": "string", "format": "date-time", "description": fields[name].comment}
    required = list(data)
    for name in TEXT_FIELDS:
        data[name] = {
            "type": "string",
            "minLength": 1,
            "description": _first(fields[name].comment) + "; absent if none",
        }
    data["clicked_at_ignored"] = _enriched_property(fields["clicked_at_ignored"])  # not in events of earlier versions
    data["asn"] = {"type": "integer", "minimum": 1, "description": "autonomous system number; absent if unknown"}
    envelope: Schema = {
        "specversion": {"const": SPEC_VERSION},
        "id": {"type": "string", "format": "uuid", "description": "the transaction-id; copies of a click share it"},
        "source": {"type": "string", "format": "uri-reference", "description": "the tenant's clicks"},
        "type": {"enum": [EVENT_TYPE + status for status in _ENUMS["status"]]},
        "time": {"type": "string", "format": "date-time", "description": "when the phone clicked"},
        "subject": {"type": "string", "minLength": 1, "description": "the promotion; absent if none"},
        "datacontenttype": {"const": "application/json"},
        "data": {"type": "object", "properties": data, "required": [*required, "tenant"]},
    }
    required = [name for name in envelope if name != "subject"]
    return _object("A click as a CloudEvent: what GET /v1/rte sends", envelope, required)


def _first(comment: str) -> str:
    return comment.partition("; empty")[0]


def _object(title: str, properties: Schema, required: list[str]) -> Schema:
    return {
        "$schema": _DIALECT,
        "title": title,
        "description": "Later versions only add keys: ignore those that you do not know.",
        "type": "object",
        "properties": properties,
        "required": required,
    }


_CHANNELS: Final[Schema] = {
    "enriched": {
        "address": "clicks.enriched",
        "description": "One record per click, in the order of clicks.raw; after a crash some stand twice",
        "messages": {"click": {"$ref": "#/components/messages/enriched"}},
        "bindings": {"kafka": {"topic": "clicks.enriched", "bindingVersion": "0.5.0"}},
    },
    "raw": {
        "address": "clicks.raw",
        "description": "Clicks as the API took them",
        "messages": {"click": {"$ref": "#/components/messages/raw"}},
        "bindings": {"kafka": {"topic": "clicks.raw", "bindingVersion": "0.5.0"}},
    },
    "stream": {
        "address": "/v1/rte",
        "description": "Server-sent events of one tenant, each click once",
        "messages": {"click": {"$ref": "#/components/messages/event"}},
    },
}
_OPERATIONS: Final[Schema] = {
    "consumeEnriched": {"action": "receive", "channel": {"$ref": "#/channels/enriched"}},
    "consumeRaw": {"action": "receive", "channel": {"$ref": "#/channels/raw"}},
    "readStream": {
        "action": "receive",
        "channel": {"$ref": "#/channels/stream"},
        "bindings": {"http": {"method": "GET", "bindingVersion": "0.3.0"}},
    },
}


def asyncapi() -> Schema:
    """The topics and the stream as AsyncAPI 3."""
    uuid_key = {"type": "string", "format": "uuid", "description": "transaction-id"}
    suspect = {"type": "string", "const": "1", "description": "present when a copy of this click may exist"}
    raw_offset = {
        "type": "string",
        "contentEncoding": "base64",
        "description": "offset of the click in clicks.raw: 8 bytes, big endian (base64 only in this description)",
    }

    def kafka_message(name: str, schema: str, headers: Schema) -> Schema:
        return {
            "name": name,
            "contentType": "application/json",
            "headers": {"type": "object", "properties": headers},
            "payload": {"$ref": f"./schemas/{schema}.json"},
            "bindings": {"kafka": {"key": uuid_key, "bindingVersion": "0.5.0"}},
        }

    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Clickledger events",
            "version": f"{ENRICHED_VERSION}.0.0",
            "description": "Clicks in Kafka and as server-sent events. How to consume them: docs/rte.md.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": _CHANNELS,
        "operations": _OPERATIONS,
        "components": {
            "messages": {
                "enriched": kafka_message(
                    "EnrichedClick", "click-enriched", {HEADER_RAW_OFFSET: raw_offset, HEADER_SUSPECT: suspect}
                ),
                "raw": kafka_message("RawClick", "click-raw", {HEADER_SUSPECT: suspect}),
                "event": {
                    "name": "ClickEvent",
                    "contentType": "application/cloudevents+json",
                    "payload": {"$ref": "./schemas/click-event.json"},
                },
            }
        },
    }


def documents() -> dict[Path, str]:
    """Every file and its text."""
    schemas = {"click-enriched": enriched_schema(), "click-raw": raw_schema(), "click-event": event_schema()}
    found = {
        DOCS / "schemas" / f"{name}.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, schema in schemas.items()
    }
    head = "# Written by: python -m tools.schemas\n"
    found[DOCS / "asyncapi.yaml"] = head + yaml.safe_dump(asyncapi(), sort_keys=False, allow_unicode=True, width=120)
    return found


if __name__ == "__main__":
    for path, text in documents().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(DOCS.parent))
