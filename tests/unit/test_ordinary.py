"""The short way of ordinary clicks: what the API writes takes it, and its rows are those of the steps, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from enricher.enrich import CatalogBehind, enrich, enrich_in_steps
from enricher.metrics import SERVICE
from enricher.ordinary import OrdinaryRows
from enricher.row import RECEIVED_AHEAD_MS_MAX, TIME_MS_MIN, EnrichedRecord, RawRecord, Tools
from enricher.texts import ID_BYTES_MAX, LONG_URL_BYTES_MAX, NAME_BYTES_MAX, TIME_MS_MAX, URL_BYTES_MAX
from shared.events import Source
from shared.links import GoodLine, read_link
from tests.support.enriching import CLICK, ID, LINK, NOW_MS, CatalogInMemory, raw_record, raw_value, tools

REGISTERED = {
    "short_url": "go.example/s/a",
    "promotion_id": "spring",
    "recipient": "+15550001",
    "link_name": "Größe 👟",
    "long_url": "https://example.com/landing?x=1&y=%20",
    "sent_at": "2026-11-01T08:00:00Z",
}


def ordinary_row(raw: RawRecord, the_tools: Tools, now_ms: int) -> EnrichedRecord | None:
    """The row of one record by the short way."""
    rows = OrdinaryRows(raw.stream, raw.partition, the_tools, now_ms)
    return rows.row(raw.offset, raw.key, raw.value, raw.timestamp_ms)


def assert_same(record: RawRecord, *, is_short: bool | None = None) -> None:
    """The short way, asked twice, gives the row of the steps or gives up; `is_short`: which of both."""
    found = ordinary_row(record, tools(), NOW_MS), ordinary_row(record, tools(), NOW_MS)
    if is_short is not None:
        assert (found[0] is not None) is is_short
    expected = outcome(enrich_in_steps, record)
    assert outcome(enrich, record) == expected
    assert [row for row in found if row is not None and row != expected] == []


def outcome(way: Callable[..., EnrichedRecord], record: RawRecord) -> EnrichedRecord | str:
    """The row, or which version of the catalog it waits for."""
    try:
        return way(record, tools(), NOW_MS)
    except CatalogBehind as behind:
        return str(behind)


@pytest.mark.parametrize("source", [Source.API, Source.BATCH, Source.SPOOL])
@pytest.mark.parametrize("suspect", [False, True])
@pytest.mark.parametrize("caller_user_agent", [b"", b'"okhttp/4.9"'])
@pytest.mark.parametrize(
    "changes", [{}, {"sent_at": None}, {"expires_at": "2027-01-01T00:00:00Z"}, {"match": "prefix"}, {"disabled": True}]
)
@pytest.mark.parametrize("click", [CLICK, b'{"short-url":"http:\\/\\/x\\/y"}', b'{"clicked-at":1795359000000}'])
def test_what_the_api_writes_goes_the_short_way(
    source: Source, suspect: bool, caller_user_agent: bytes, changes: dict[str, Any], click: bytes
) -> None:
    """Any way in but reprocessing, any link as it is registered, any body."""
    line = read_link(
        {**REGISTERED, **changes}, tenant="acme", now_ms=NOW_MS, to_key=lambda url: url, registered=lambda _key: None
    )
    assert isinstance(line, GoodLine)
    flags: dict[str, Any] = {"source": source, "suspect": suspect, "caller_user_agent": caller_user_agent}
    assert_same(raw_record(link=line.record, click=click, **flags), is_short=True)
    assert_same(raw_record(link=line.record, click=click, clicked_at_ignored=True, **flags), is_short=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"source": Source.REPROCESS},
        {"replay_of": b'["s",1,2]'},
        {"tenant": "nobody"},
        {"link": {**LINK, "tenant": "careful"}},
        {"link": {**LINK, "link": ""}},
        {"link": {**LINK, "promotion_id": ""}},
        {"link": {**LINK, "link_name": 'a "quote"'}},
        {"link": {**LINK, "more": 1}},
        {"link": {**LINK, "sent_at": 1}},
        {"click": b'{"short-url":5}'},
        {"click": b"[]"},
        {"click": b'{},"v":2'},
        {"catalog_version": 11},
        {"received_at_ms": NOW_MS + RECEIVED_AHEAD_MS_MAX + 1},
        {"transaction_id": ID[:-1] + "b"},
    ],
)
def test_what_is_judged_is_left_to_the_steps(fields: dict[str, Any]) -> None:
    """Whatever may be rejected, malformed, corrected or has to wait."""
    assert_same(raw_record(**fields), is_short=False)


def test_a_record_beyond_the_limit_is_left_to_the_steps() -> None:
    """The limit itself is not beyond."""
    value = raw_value()
    for limit, is_short in ((len(value) - 1, False), (len(value), True)):
        limited = tools()._replace(raw_bytes_max=limit)
        assert (ordinary_row(raw_record(value), limited, NOW_MS) is not None) is is_short
        assert enrich(raw_record(value), limited, NOW_MS) == enrich_in_steps(raw_record(value), limited, NOW_MS)


@pytest.mark.parametrize(
    ("name", "bytes_max"),
    [
        ("link", URL_BYTES_MAX),
        ("promotion_id", ID_BYTES_MAX),
        ("recipient", NAME_BYTES_MAX),
        ("link_name", NAME_BYTES_MAX),
        ("long_url", LONG_URL_BYTES_MAX),
    ],
)
@pytest.mark.parametrize("character", ["x", "é", "€", "👟"])
def test_texts_are_copied_up_to_their_bounds(name: str, bytes_max: int, character: str) -> None:
    """Below, at and above the bound in bytes."""
    width = len(character.encode())
    for more in (-1, 0, 1):
        text = character * (bytes_max // width) + "z" * (bytes_max % width)
        text = text[:more] if more < 0 else text + "z" * more
        assert_same(raw_record(link={**LINK, name: text}), is_short=more <= 0)


@pytest.mark.parametrize(
    "sent_at",
    [-1, 0, TIME_MS_MIN - 1, TIME_MS_MIN, 4 * 10**12 - 1, 4 * 10**12, TIME_MS_MAX, TIME_MS_MAX + 1, 10**13, 1.5],
)
def test_times_are_copied_within_their_bounds(sent_at: float) -> None:
    """Of a link, and of the record itself."""
    assert_same(raw_record(link={**LINK, "sent_at": sent_at}))
    value = raw_value().replace(b"%d" % (NOW_MS - 50), b"%d" % sent_at)
    assert_same(raw_record(value))
    assert ordinary_row(raw_record(value), tools(), 2 * TIME_MS_MAX) in (
        None,
        enrich_in_steps(raw_record(value), tools(), 2 * TIME_MS_MAX),
    )


@pytest.mark.parametrize("name", ["tenant", "link", "promotion_id", "recipient", "link_name", "long_url"])
@pytest.mark.parametrize("escaped", [True, False])
def test_every_character_is_copied_or_left_to_the_steps(name: str, escaped: bool) -> None:
    """As it stands in UTF-8, or escaped; those that must be escaped and are not make no JSON."""
    for code in (*range(0x180), 0x2028, 0xD7FF, 0xD800, 0xDFFF, 0xE000, 0xFEFF, 0xFFFF, 0x1F45F, 0x10FFFF):
        text = json.dumps(chr(code)) if escaped else f'"{chr(code)}"'
        link = orjson.dumps({**LINK, name: "@@"}).replace(b'"@@"', text.encode("utf-8", "surrogatepass"))
        assert_same(raw_record(raw_value().replace(orjson.dumps(LINK), link)))


json_values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=9)
    | st.lists(st.integers(0, 9), max_size=3)
    | st.dictionaries(st.sampled_from(["v", "click", "link"]), st.integers(0, 9), max_size=2)
)
texts = st.text(max_size=40) | st.sampled_from(['"', "\\", '","v":2,"', "-", " padded ", "\x7f", "\u2028", "8.8.8.8"])
bodies = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("short-url", "user-agent", "ip-address", "clicked-at", "x"), texts | json_values)
)


@settings(max_examples=400)
@given(data=st.data(), click=bodies, source=st.sampled_from(Source), suspect=st.booleans(), ignored=st.booleans())
def test_whatever_texts_come_the_row_is_that_of_the_steps(
    data: st.DataObject, click: dict[str, Any], source: Source, suspect: bool, ignored: bool
) -> None:
    """Texts and times of links, bodies in any form of JSON, tenants of any privacy."""
    tenant = data.draw(st.sampled_from(["acme", "careful", "secret", "nobody"]))
    link = {**LINK, "tenant": tenant} | data.draw(
        st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(("link", "promotion_id", "recipient", "link_name", "long_url"), texts)
            | dict.fromkeys(("sent_at", "expires_at"), st.none() | st.integers(0, 5 * 10**12)),
        )
    )
    written = json.dumps(click, indent=data.draw(st.none() | st.integers(0, 2)), ensure_ascii=data.draw(st.booleans()))
    body = written.encode("utf-8", "surrogatepass")
    caller = data.draw(st.just(b"") | texts.map(orjson.dumps))
    flags: dict[str, Any] = {
        "source": source,
        "suspect": suspect,
        "clicked_at_ignored": ignored,
        "caller_user_agent": caller,
    }
    assert_same(raw_record(tenant=tenant, link=link, click=body, **flags))


NAMES = list(orjson.loads(raw_value(caller_user_agent=b'"a"')))


@settings(max_examples=400)
@given(st.lists(st.tuples(st.sampled_from(NAMES), json_values), max_size=3), st.integers(0, 2), st.randoms())
def test_names_changed_repeated_or_missing(changes: list[tuple[str, Any]], dropped: int, order: Random) -> None:
    """In any order: the row of the steps, or left to them."""
    members = [(name, orjson.dumps(value)) for name, value in orjson.loads(raw_value()).items()]
    for name, value in changes:
        members.insert(order.randint(0, len(members)), (name, json.dumps(value).encode()))
    for _ in range(dropped * order.randint(0, 1)):
        members.pop(order.randrange(len(members)))
    assert_same(raw_record(b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), value) for name, value in members)))


@settings(max_examples=600)
@given(st.data())
def test_damaged_records_are_judged_as_a_whole(data: st.DataObject) -> None:
    """A byte of a record changed, cut or doubled."""
    value = raw_value(caller_user_agent=b'"a"')
    at = data.draw(st.integers(0, len(value) - 1))
    damage = data.draw(
        st.sampled_from([b"", b'"', b"\\", b",", b"{", b"}", b"0", b"\xff", b"\n", value[at : at + 30], value[at:]])
    )
    assert_same(raw_record(value[:at] + damage + value[at + data.draw(st.integers(0, 1)) :]))


@pytest.mark.parametrize("depth", [1_000, 1_018, 1_019, 1_020, 1_021, 1_022, 1_023, 1_024, 1_025])
def test_nesting_is_as_deep_as_in_the_whole_record(depth: int) -> None:
    """What the decoder takes of the whole, it takes behind the link, and no more."""
    assert_same(raw_record(click=b'{"x":%b%b}' % (b"[" * depth, b"]" * depth)))


def test_answers_follow_the_catalog() -> None:
    """A promotion and a tenant's terms are those of the catalog's present version."""
    catalog = CatalogInMemory()
    the_tools = tools(catalog)
    first = ordinary_row(raw_record(), the_tools, NOW_MS)
    catalog.promotions["acme", "spring"] = {"campaign_id": "c2", "deployment_id": 'd"2'}
    catalog.tenants["acme"] = {"retention_days": 10, "privacy": "drop"}
    catalog.version += 1
    then = ordinary_row(raw_record(), the_tools, NOW_MS)
    assert first is not None
    assert first != then == enrich_in_steps(raw_record(), the_tools, NOW_MS)


def test_a_bug_in_the_short_way_costs_no_row_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps make the row that they always make."""
    raw = raw_record()
    expected = enrich_in_steps(raw, tools(), NOW_MS)

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    def counted() -> float:
        return REGISTRY.get_sample_value("clickledger_errors_total", {"service": SERVICE, "kind": "bug"}) or 0.0

    before = counted()
    monkeypatch.setattr(OrdinaryRows, "row", broken)
    assert enrich(raw, tools(), NOW_MS) == expected
    assert counted() == before + 1
