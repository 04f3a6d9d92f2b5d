"""The public description of topics and stream: current, sound, and true of records that were written."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
import yaml

from shared.enriched_fields import ENRICHED_FIELDS
from shared.events import RAW_FIELDS, MalformedRaw, decode_raw
from shared.rte import EVENT_TYPE, STREAMED, event_of
from tools import schemas

GOLDEN = Path(__file__).parents[1] / "golden"
VENDORED = Path(__file__).parents[1] / "vendor/asyncapi"
SCHEMAS = {
    "click-enriched": (schemas.enriched_schema(), "enriched-v1.json"),
    "click-raw": (schemas.raw_schema(), "raw_v1.json"),
}


def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """One that looks at formats, too."""
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize("path", schemas.documents(), ids=lambda path: path.name)
def test_documents_are_current(path: Path) -> None:
    """Written anew by: .venv/bin/python -m tools.schemas."""
    assert path.read_text(encoding="utf-8") == schemas.documents()[path]


@pytest.mark.parametrize("name", SCHEMAS)
def test_golden_records_are_valid(name: str) -> None:
    """The bytes that version 1 wrote are what the document says."""
    schema, golden = SCHEMAS[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    validator(schema).validate(orjson.loads((GOLDEN / golden).read_bytes()))


def test_a_golden_click_is_a_valid_event() -> None:
    """With and without everything that may be absent."""
    schema = schemas.event_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    record = orjson.loads((GOLDEN / "enriched-v1.json").read_bytes())
    validator(schema).validate(event_of(record))
    bare = {field.name: "" for field in ENRICHED_FIELDS if field.json_type == "string"}
    kept = {name: record[name] for name in ("transaction_id", "status", "stream", "tenant")}
    validator(schema).validate(event_of(record | bare | kept))
    with pytest.raises(jsonschema.ValidationError):
        validator(schema).validate(event_of(record) | {"type": "com.clickledger.click.lost"})


@pytest.mark.parametrize("name", ["click-enriched", "click-event"])
def test_no_event_is_described_as_a_duplicate(name: str) -> None:
    """The sink finds duplicates after the event: consumers need no branch for a status, type or reason that never comes."""
    text = schemas.documents()[schemas.DOCS / "schemas" / f"{name}.json"]
    properties = json.loads(text)["properties"]
    shown = properties.get("data", {"properties": properties})["properties"]
    assert set(shown["status"]["enum"]) == STREAMED
    if name == "click-event":
        assert set(properties["type"]["enum"]) == {EVENT_TYPE + status for status in STREAMED}
    for reason in ("idempotency_key_repeated", "replayed", "not_storable"):
        assert reason not in text


@pytest.mark.parametrize("field", RAW_FIELDS, ids=lambda field: field.name)
def test_the_raw_document_demands_what_the_decoder_demands(field: Any) -> None:
    """A record without a field, or with another type, is refused by both."""
    record = orjson.loads((GOLDEN / "raw_v1.json").read_bytes())
    for changed in ({k: v for k, v in record.items() if k != field.name}, record | {field.name: None}):
        assert not validator(schemas.raw_schema()).is_valid(changed)
        with pytest.raises(MalformedRaw):
            decode_raw(orjson.dumps(changed))


def test_the_asyncapi_document_is_one() -> None:
    """By the official schema of AsyncAPI 3.0, which is what its note says, and which finds a fault."""
    schema_bytes = gzip.decompress((VENDORED / "3.0.0.json.gz").read_bytes())
    note = (VENDORED / "VENDORED.txt").read_text(encoding="utf-8")
    assert f"{len(schema_bytes)} unpacked" in note
    assert hashlib.sha256(schema_bytes).hexdigest() in note
    official = jsonschema.Draft7Validator(orjson.loads(schema_bytes))
    document = yaml.safe_load((schemas.DOCS / "asyncapi.yaml").read_text("utf-8"))
    official.validate(document)
    document["operations"]["consumeEnriched"]["action"] = "devour"
    assert not official.is_valid(document)


def test_references_of_the_asyncapi_document_resolve() -> None:
    """AsyncAPI 3: every reference leads somewhere, every operation to a channel with messages."""
    document = yaml.safe_load((schemas.DOCS / "asyncapi.yaml").read_text("utf-8"))
    assert document["asyncapi"] == "3.0.0"

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if "$ref" in node else []
            return own + [each for value in node.values() for each in references(value)]
        return [each for value in node for each in references(value)] if isinstance(node, list) else []

    found = references(document)
    assert len(found) == 9
    for reference in found:
        file, _, pointer = reference.partition("#")
        if file:
            assert (schemas.DOCS / file).is_file()
        node = document
        for part in filter(None, pointer.split("/")):
            node = node[part]
    assert {operation["action"] for operation in document["operations"].values()} == {"receive"}
