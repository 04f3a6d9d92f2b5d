"""The wire contracts: golden bytes decode for ever, encode and decode agree, garbage is refused with a reason."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.enriched_fields import ENRICHED_FIELDS, ENRICHED_NAMES
from shared.errors import DataError
from shared.events import (
    MalformedRaw,
    RawClick,
    RawOrigin,
    Reason,
    Source,
    decode_enriched,
    decode_raw,
    encode_enriched,
    encode_raw,
    encode_raw_offset,
    is_suspect,
    mark_replayed,
    raw_offset_of,
    raw_origin,
)

GOLDEN = Path(__file__).parents[1] / "golden"
BODY = b'{\n  "short-url":"http://shortdomain/dsltrack/employee/j460A8",\n  "user-agent":" Mozilla/5.0"\n}'
LINK = b'{"v":1,"tenant":"acme","link":"shortdomain/dsltrack/employee/j460A8","promotion_id":"p1"}'


def golden_raw() -> bytes:
    """A raw record as version 1 writes it."""
    return encode_raw(
        transaction_id=b"01900000-0000-7005-8000-000000000001",
        received_at_ms=1_718_000_000_123,
        origin=raw_origin("acme", "key-1", "node-1", Source.API),
        suspect=True,
        clicked_at_ignored=False,
        catalog_version=42,
        link=LINK,
        click=BODY,
        replay_of=b'["s1",3,99]',
        caller_user_agent=b'"app/1.0"',
    )


def test_version_one_writes_its_golden_bytes() -> None:
    """What is written today is byte for byte what version 1 wrote."""
    assert golden_raw() == (GOLDEN / "raw_v1.json").read_bytes()


def test_version_one_reads_its_golden_bytes() -> None:
    """A raw record of version 1 decodes to what was put in, the body untouched."""
    value = (GOLDEN / "raw_v1.json").read_bytes()
    assert BODY in value
    assert decode_raw(value) == RawClick(
        transaction_id="01900000-0000-7005-8000-000000000001",
        received_at_ms=1_718_000_000_123,
        origin=RawOrigin(
            "acme",
            "key-1",
            "node-1",
            Source.API,
            suspect=True,
            replay_of=("s1", 3, 99),
            clicked_at_ignored=False,
            caller_user_agent="app/1.0",
        ),
        catalog_version=42,
        link=orjson.loads(LINK),
        click=orjson.loads(BODY),
    )


@given(st.text(max_size=20), st.text(max_size=20), st.sampled_from(Source), st.booleans(), st.integers(0, 2**53))
def test_a_raw_record_decodes_to_what_was_encoded(
    tenant: str, node: str, source: Source, flag: bool, version: int
) -> None:
    """decode_raw(encode_raw(x)) is x for any names, quotes and control characters included."""
    value = encode_raw(
        transaction_id=b"t",
        received_at_ms=version,
        origin=raw_origin(tenant, "k", node, source),
        suspect=flag,
        clicked_at_ignored=not flag,
        catalog_version=version,
        link=b"{}",
        click=b"{}",
    )
    click = decode_raw(value)
    assert (click.origin.tenant, click.origin.node, click.origin.source, click.origin.suspect) == (
        tenant,
        node,
        source,
        flag,
    )
    assert (click.received_at_ms, click.catalog_version, click.origin.replay_of) == (version, version, None)


def without(name: str) -> bytes:
    """The golden record without one key."""
    record = orjson.loads(golden_raw())
    del record[name]
    return orjson.dumps(record)


def changed(**changes: Any) -> bytes:
    """The golden record with some keys changed."""
    return orjson.dumps({**orjson.loads(golden_raw()), **changes})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.EMPTY),
        (b"", Reason.EMPTY),
        (b"\xff\xfe", Reason.NOT_JSON),
        (b'{"v":1', Reason.NOT_JSON),
        (b"[]", Reason.NOT_AN_OBJECT),
        (b"null", Reason.NOT_AN_OBJECT),
        (changed(v=2), Reason.UNKNOWN_VERSION),
        (without("v"), Reason.UNKNOWN_VERSION),
        (without("link"), Reason.FIELD_MISSING),
        (without("click"), Reason.FIELD_MISSING),
        (changed(received_at="now"), Reason.FIELD_INVALID),
        (changed(received_at=True), Reason.FIELD_INVALID),
        (changed(suspect=1), Reason.FIELD_INVALID),
        (changed(source="fax"), Reason.FIELD_INVALID),
        (changed(replay_of=["s", "1", 2]), Reason.FIELD_INVALID),
        (changed(caller_user_agent=7), Reason.FIELD_INVALID),
    ],
)
def test_a_record_that_is_not_ours_is_refused_with_its_reason(value: bytes | None, reason: Reason) -> None:
    """Each way of not being a raw record has a reason of its own."""
    with pytest.raises(MalformedRaw) as refused:
        decode_raw(value)
    assert refused.value.reason is reason


@given(st.binary(max_size=200))
def test_no_bytes_make_decoding_fail_otherwise(value: bytes) -> None:
    """Any bytes either decode or are refused as malformed; nothing else is raised."""
    with contextlib.suppress(MalformedRaw):
        assert decode_raw(value).click is not None


def test_an_enriched_record_has_exactly_the_fields_in_order() -> None:
    """encode_enriched writes every field, in the order of the contract, and refuses a record that lacks one."""
    record: dict[str, Any] = {field.name: field.name for field in reversed(ENRICHED_FIELDS)} | {"raw_offset": 7}
    assert tuple(orjson.loads(encode_enriched(record))) == ENRICHED_NAMES
    assert decode_enriched(encode_enriched(record))["raw_offset"] == 7
    del record["city"]
    with pytest.raises(KeyError):
        encode_enriched(record)


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"raw_offset":"1"}', b"\xff"])
def test_an_enriched_record_without_a_position_is_refused(value: bytes) -> None:
    """Without a raw offset there is no row to make."""
    with pytest.raises(DataError):
        decode_enriched(value)


@given(st.integers(0, 2**63 - 1))
def test_headers_carry_the_raw_offset(offset: int) -> None:
    """The header gives back the raw offset; one of another length is none."""
    assert raw_offset_of([("suspect", b"1"), ("raw_offset", encode_raw_offset(offset))]) == offset
    assert raw_offset_of([("raw_offset", b"1")]) is None
    assert raw_offset_of([]) is None


def test_suspect_is_a_header() -> None:
    """Only the value 1 marks a suspect."""
    assert is_suspect([("raw_offset", b"x"), ("suspect", b"1")])
    assert not is_suspect([("suspect", b"0")])


@given(
    tenant=st.text(),
    key_id=st.text(),
    node=st.text(),
    source=st.sampled_from(Source),
    suspect=st.booleans(),
    body=st.dictionaries(st.text(), st.text() | st.booleans()),
)
def test_marking_as_replayed_changes_two_fields_only(
    tenant: str, key_id: str, node: str, source: Source, *, suspect: bool, body: dict[str, Any]
) -> None:
    """A replayed record decodes to the same click, but for `source` and `suspect`; every other byte is as it was."""

    def encode(source: Source, *, suspect: bool) -> bytes:
        return encode_raw(
            transaction_id=b"01900000-0000-7005-8000-000000000001",
            received_at_ms=1_718_000_000_123,
            origin=raw_origin(tenant, key_id, node, source),
            suspect=suspect,
            clicked_at_ignored=False,
            catalog_version=42,
            link=LINK,
            click=orjson.dumps(body),
        )

    assert mark_replayed(encode(source, suspect=suspect)) == encode(Source.SPOOL, suspect=True)


@pytest.mark.parametrize(
    "name",
    [
        'a","source":"api","suspect":false,',
        ',"source":"api","suspect":false,"',
        '\\","source":"x',
        "\\",
        '"',
        '\\\\"',
        '{"v":1,"source":"api","suspect":false}',
        "\n",
        "é\x00",
    ],
)
def test_names_inside_strings_do_not_fool_the_marking(name: str) -> None:
    """A tenant, key, node, link or body that spells out our own fields is copied, never edited."""
    text = orjson.dumps(name)
    value = encode_raw(
        transaction_id=b"01900000-0000-7005-8000-000000000001",
        received_at_ms=1,
        origin=raw_origin(name, name, name, Source.BATCH),
        suspect=False,
        clicked_at_ignored=True,
        catalog_version=1,
        link=b'{"source":"api","suspect":false,"name":%b}' % text,
        click=b'{"source":"api","suspect":false,%b:%b}' % (text, text),
        caller_user_agent=text,
    )
    before, after = orjson.loads(value), orjson.loads(mark_replayed(value))
    assert after == before | {"source": "spool", "suspect": True}


@given(st.binary(max_size=200))
def test_marking_refuses_what_is_no_record(value: bytes) -> None:
    """Bytes that this version did not write are a DataError, never an edited something."""
    with pytest.raises(DataError):
        mark_replayed(value)
    with pytest.raises(DataError):
        mark_replayed(golden_raw().replace(b'"source":"api",', b"", 1))
