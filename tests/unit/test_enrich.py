"""The enriching core: one raw record in, one storable row out, whatever the bytes."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enricher.addresses import Privacy
from enricher.agents import given_agent
from enricher.enrich import STEPS, CatalogBehind, enrich
from enricher.raw_bytes import keep_raw, restore_raw
from enricher.row import RAW_BYTES_MAX, ROW_BYTES_MAX, TIME_MS_MIN, RawRecord, Tools, raw_bytes_max
from enricher.texts import TIME_MS_MAX
from shared.enriched_fields import ENRICHED_FIELDS, ENRICHED_NAMES
from shared.errors import OperatorError, TransientError
from shared.events import HEADER_RAW_OFFSET, Reason, Source, Status, encode_enriched, is_suspect, raw_offset_of
from tests.support.enriching import CLICK, ID, LINK, NOW_MS, CatalogInMemory, raw_record, raw_value, tools

GOLDEN = Path(__file__).parents[1] / "golden"
DAY_MS = 86_400_000
JSON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "integer?": (int, type(None)),
}
INTEGER_BOUNDS = {
    "UInt8": (0, 2**8 - 1),
    "UInt16": (0, 2**16 - 1),
    "UInt32": (0, 2**32 - 1),
    "UInt64": (0, 2**64 - 1),
    "Int64": (-(2**63), 2**63 - 1),
}


def row_of(record: RawRecord, the_tools: Tools | None = None, now_ms: int = NOW_MS, **options: Any) -> dict[str, Any]:
    """The row of a raw record, checked to be storable."""
    enriched = enrich(record, the_tools or tools(), now_ms, **options)
    row: dict[str, Any] = orjson.loads(enriched.value)
    assert_storable(row)
    assert row["status"] == enriched.status
    assert row["reason"] == enriched.reason
    assert raw_offset_of(enriched.headers) == record.offset == row["raw_offset"]
    assert is_suspect(enriched.headers) == (row["suspect"] or bool(row["replay_of"]))
    assert enriched.key.decode() == row["transaction_id"]
    assert enriched.timestamp_ms in (row["received_at"], record.timestamp_ms)
    assert encode_enriched(row) == enriched.value
    return row


def assert_storable(row: dict[str, Any]) -> None:
    """Exactly the fields, in order, each within its ClickHouse type."""
    assert tuple(row) == ENRICHED_NAMES
    for field in ENRICHED_FIELDS:
        value = row[field.name]
        assert type(value) in JSON_TYPES[field.json_type], field.name
        if field.clickhouse_type in INTEGER_BOUNDS:
            least, most = INTEGER_BOUNDS[field.clickhouse_type]
            assert least <= value <= most, field.name
        if "DateTime64" in field.clickhouse_type and value is not None:
            assert 0 <= value <= TIME_MS_MAX, field.name
        if field.json_type == "string" and field.name != "raw":
            assert len(value.encode()) <= 8192, field.name
    assert len(row["raw"]) <= RAW_BYTES_MAX * 4 / 3 + 200
    assert str(UUID(row["transaction_id"])) == row["transaction_id"]
    assert Reason(row["reason"]) is Reason.NONE or row["status"] != Status.ACCEPTED


def test_the_published_example_becomes_a_full_row() -> None:
    """Promotion, agent, address and times of the published click."""
    row = row_of(raw_record())
    wanted = {
        "status": "accepted",
        "reason": "",
        "transaction_id": ID,
        "tenant": "acme",
        "promotion_id": "spring",
        "campaign_id": "c1",
        "deployment_id": "d1",
        "link_name": "offer",
        "recipient": "+15550001",
        "sent_at": 1_795_000_500_000,
        "browser": "Chrome",
        "os": "Windows",
        "device_type": "pc",
        "ip": "203.199.178.211",
        "country": "IN",
        "received_at": NOW_MS - 50,
        "clicked_at": NOW_MS - 50,
        "enriched_at": NOW_MS,
        "expires_at": NOW_MS - 50 + 90 * DAY_MS,
        "raw": "",
    }
    assert {name: row[name] for name in wanted} == wanted


def test_the_golden_record_is_written_byte_for_byte() -> None:
    """Version 1 of the enriched record stays as it is; rule versions, which move, are set apart."""
    value = enrich(RawRecord("5f3c9a1e", 1, 7, ID.encode(), raw_value(suspect=True), NOW_MS), tools(), NOW_MS).value
    row = orjson.loads(value)
    for name in ("agent_rules", "bot_rules", "geo_rules"):
        row[name] = name
    assert orjson.dumps(row) + b"\n" == (GOLDEN / "enriched-v1.json").read_bytes()


def test_every_step_is_named_and_public() -> None:
    """The steps are a tuple of functions whose names say their effect."""
    assert [step.__name__.partition("_")[0] for step in STEPS] == ["put"] * 5 + ["judge"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", Reason.EMPTY),
        (b"{", Reason.NOT_JSON),
        (b"\xff\xfe", Reason.NOT_JSON),
        (b"NaN", Reason.NOT_JSON),
        (b"[]", Reason.NOT_AN_OBJECT),
        (b'{"v":2}', Reason.UNKNOWN_VERSION),
        (b'{"v":1}', Reason.FIELD_MISSING),
        (raw_value(transaction_id="nonsense"), Reason.FIELD_INVALID),
        (raw_value(transaction_id=ID[:-1] + "b"), Reason.KEY_MISMATCH),
        (raw_value(click=b"[]"), Reason.FIELD_INVALID),
        (raw_value(click=b'{"short-url":5}'), Reason.FIELD_INVALID),
        (raw_value(tenant="t" * 257), Reason.FIELD_INVALID),
        (raw_value(catalog_version=-2), Reason.FIELD_INVALID),
        (raw_value(received_at_ms=-1), Reason.TIME_INVALID),
        (raw_value(received_at_ms=NOW_MS // 1000), Reason.TIME_INVALID),
        (raw_value(received_at_ms=NOW_MS + 31 * DAY_MS), Reason.TIME_INVALID),
        (raw_value(received_at_ms=253_402_300_799_999), Reason.TIME_INVALID),
        (b" " * (RAW_BYTES_MAX + 1), Reason.TOO_LARGE),
    ],
)
def test_what_is_no_click_is_malformed_with_its_reason_and_bytes(value: bytes, reason: Reason) -> None:
    """Each cause has a reason; times are the record's own, and the bytes are kept."""
    row = row_of(raw_record(value))
    assert (row["status"], row["reason"]) == ("malformed", reason)
    assert row["transaction_id"] == ID, "the record's key is an id, so it stays"
    assert row["received_at"] == NOW_MS - 50
    assert row["clicked_at"] == row["received_at"]
    if reason is Reason.TOO_LARGE:
        assert row["raw"].startswith(f"cut:{len(value)}:")
    else:
        assert restore_raw(row["raw"]) == value


@pytest.mark.parametrize("key", [None, b"", b"nonsense", b"\xff", ID.upper().encode()])
def test_a_malformed_record_without_an_id_gets_one_from_its_position(key: bytes | None) -> None:
    """The id is the same each time, differs between positions and carries the partition."""
    first, again, other = (row_of(raw_record(b"{", key=key, offset=offset)) for offset in (7, 7, 8))
    assert first["transaction_id"] == again["transaction_id"] != other["transaction_id"]
    assert first["transaction_id"][14:18] == "8001"
    assert UUID(first["transaction_id"]).version == 8


@pytest.mark.parametrize(
    ("written_ms", "timestamp_ms"),
    [(NOW_MS, NOW_MS), (NOW_MS - 9 * DAY_MS, NOW_MS - 9 * DAY_MS), (NOW_MS - 11 * DAY_MS, NOW_MS - 10 * DAY_MS),
     (NOW_MS + 1, NOW_MS - 10 * DAY_MS), (-1, NOW_MS - 10 * DAY_MS)],
)  # fmt: skip
def test_a_click_written_late_is_kept_in_kafka_from_then_on(written_ms: int, timestamp_ms: int) -> None:
    """A click of ten days ago that is replayed now must not be over Kafka's retention; an absurd time counts for nothing."""
    record = raw_record(received_at_ms=NOW_MS - 10 * DAY_MS)._replace(timestamp_ms=written_ms)
    assert enrich(record, tools(), NOW_MS).timestamp_ms == timestamp_ms


@pytest.mark.parametrize("broken", [b'"v":2', b'"v":1,"link":1'])
def test_a_replay_that_cannot_be_read_still_names_its_row(broken: bytes) -> None:
    """Else its row would be sent again by each `clickledger reprocess`; what is no position names nothing."""
    value = b'{%b,"replay_of":["s",1,2]}' % broken
    enriched = enrich(raw_record(value), tools(), NOW_MS)
    assert orjson.loads(enriched.value)["replay_of"] == "s/1/2"
    assert is_suspect(enriched.headers)
    assert row_of(raw_record(value.replace(b'["s",1,2]', b'["s",1]')))["replay_of"] == ""


@pytest.mark.parametrize(
    ("timestamp_ms", "received_at_ms"), [(-1, NOW_MS), (0, NOW_MS), (2**62, NOW_MS), (NOW_MS - 9, NOW_MS - 9)]
)
def test_a_malformed_record_has_the_records_time_or_ours(timestamp_ms: int, received_at_ms: int) -> None:
    """An absurd record timestamp is replaced by the present."""
    assert row_of(raw_record(b"{")._replace(timestamp_ms=timestamp_ms))["received_at"] == received_at_ms


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tenant": "nobody"}, Reason.TENANT_UNKNOWN),
        ({"link": {}}, Reason.UNKNOWN_LINK),
        ({"link": {**LINK, "tenant": "careful"}}, Reason.UNKNOWN_LINK),
        ({"link": {**LINK, "promotion_id": ""}}, Reason.PROMOTION_MISSING),
    ],
)
def test_clicks_that_did_not_come_through_the_api_are_rejected(fields: dict[str, Any], reason: Reason) -> None:
    """A well-formed record that our API would never have written is a row that does not count, with all it says."""
    row = row_of(raw_record(**fields))
    assert (row["status"], row["reason"]) == ("rejected", reason)
    assert row["browser"] == "Chrome"
    assert restore_raw(row["raw"]) == raw_value(**fields)


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ({"disabled": True}, Reason.LINK_DISABLED),
        ({"expires_at": NOW_MS - 50}, Reason.LINK_EXPIRED),
        ({"sent_at": NOW_MS - 51 - 90 * DAY_MS}, Reason.RETENTION_PASSED),
        ({"promotion_id": "new", "registered_at": NOW_MS - 51 - 90 * DAY_MS}, Reason.RETENTION_PASSED),
    ],
)
def test_only_reprocessed_clicks_are_judged_again(link: dict[str, Any], reason: Reason) -> None:
    """What the API accepted stays accepted; a reprocessed click passes the API's checks here."""
    changed = {**LINK, **link}
    assert row_of(raw_record(link=changed))["status"] == "accepted"
    row = row_of(raw_record(link=changed, source=Source.REPROCESS, replay_of=b'["s",1,2]'))
    assert (row["status"], row["reason"], row["replay_of"]) == ("rejected", reason, "s/1/2")


def test_a_promotion_without_a_record_is_accepted_without_a_campaign() -> None:
    """The API answers 200 for a known link, so the row counts."""
    row = row_of(raw_record(link={**LINK, "promotion_id": "unregistered"}))
    assert (row["status"], row["campaign_id"], row["sent_at"]) == ("accepted", "", None)


@pytest.mark.parametrize(
    ("given_at", "clicked_at_ms", "is_ignored"),
    [
        (NOW_MS - DAY_MS, NOW_MS - DAY_MS, False),
        (str(NOW_MS - DAY_MS), NOW_MS - DAY_MS, False),
        ("2026-11-20T00:00:00+05:30", 1_795_113_000_000, False),
        (NOW_MS - 50 + 300_000, NOW_MS - 50 + 300_000, False),
        (NOW_MS - 50 + DAY_MS, NOW_MS - 50 + DAY_MS, False),
        (NOW_MS - 49 + DAY_MS, NOW_MS - 50, True),
        (NOW_MS - 50 - 90 * DAY_MS, NOW_MS - 50 - 90 * DAY_MS, False),
        (NOW_MS - 50 - 3_650 * DAY_MS, NOW_MS - 50 - 3_650 * DAY_MS, False),
        (NOW_MS - 51 - 3_650 * DAY_MS, NOW_MS - 50, True),
        ("yesterday", NOW_MS - 50, True),
        (10**30, NOW_MS - 50, True),
        (None, NOW_MS - 50, False),
        ("", NOW_MS - 50, False),
    ],
)
def test_clicked_at_is_used_within_its_bounds(given_at: object, clicked_at_ms: int, is_ignored: bool) -> None:
    """What the API did not ignore is used, within the widest bounds its settings allow; else it is marked."""
    click = b'{"short-url":"http://x/y","clicked-at":%b}' % (
        str(given_at).encode() if isinstance(given_at, int) else orjson.dumps(given_at)
    )
    row = row_of(raw_record(click=click))
    assert (row["clicked_at"], row["clicked_at_ignored"]) == (clicked_at_ms, is_ignored)


def test_a_clicked_at_that_the_api_ignored_stays_ignored() -> None:
    """The API's verdict at acceptance stands."""
    click = b'{"short-url":"http://x/y","clicked-at":%d}' % (NOW_MS - DAY_MS)
    row = row_of(raw_record(click=click, clicked_at_ignored=True))
    assert (row["clicked_at"], row["clicked_at_ignored"]) == (NOW_MS - 50, True)


def test_rows_live_a_week_after_enriching() -> None:
    """With a retention of one day and a long backlog, sealing still runs ahead of expiry."""
    row = row_of(raw_record(tenant="secret", link={**LINK, "tenant": "secret"}), now_ms=NOW_MS + 20 * DAY_MS)
    assert row["expires_at"] == NOW_MS + 27 * DAY_MS


@pytest.mark.parametrize(("tenant", "ip"), [("acme", "203.199.178.211"), ("careful", "203.199.178.0"), ("secret", "")])
def test_privacy_holds_for_the_address_and_the_kept_bytes(tenant: str, ip: str) -> None:
    """A tenant that does not store addresses has none in `raw` either."""
    row = row_of(raw_record(tenant=tenant, link={}))
    assert (row["ip"], row["country"]) == (ip, "IN")
    kept = orjson.loads(restore_raw(row["raw"]))["click"]
    assert kept.get("ip-address", "") == ip


def test_the_callers_own_agent_is_used_only_where_the_record_has_it() -> None:
    """The record carries it where the key asked for it; the body's own agent comes first."""
    bare = b'{"short-url":"http://x/y","user-agent":"-"}'
    assert row_of(raw_record(click=bare))["user_agent"] == ""
    assert row_of(raw_record(click=bare, caller_user_agent=b'"okhttp/4.9"'))["browser"] == "okhttp"
    assert row_of(raw_record(caller_user_agent=b'"okhttp/4.9"'))["browser"] == "Chrome"


def test_only_accepted_rows_are_suspect() -> None:
    """A malformed or rejected copy must never make the sink call the original a duplicate."""
    accepted = row_of(raw_record(suspect=True))
    assert (accepted["suspect"], len(accepted["click_digest"])) == (True, 32)
    assert row_of(raw_record(suspect=True, link={}))["suspect"] is False
    assert row_of(raw_record(raw_value(suspect=True, received_at_ms=-1)))["suspect"] is False


def test_the_digest_tells_a_repeated_from_a_reused_key() -> None:
    """Spacing and unknown fields make no other click; another address does."""
    digests = [
        row_of(raw_record(suspect=True, click=click))["click_digest"]
        for click in (
            b'{"short-url":"http://x/y","ip-address":"8.8.8.8"}',
            b'{ "ip-address": "8.8.8.8", "extra": 1, "short-url": "http://x/y", "user-agent": null }',
            b'{"short-url":"http://x/y","ip-address":"8.8.4.4"}',
        )
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_catalog_version_not_reached_is_awaited_and_one_beyond_the_end_is_malformed() -> None:
    """Our copy's lag never becomes a row; a version that the topic does not have does."""
    record, the_tools = raw_record(catalog_version=11), tools(CatalogInMemory(version=10))
    with pytest.raises(CatalogBehind):
        enrich(record, the_tools, NOW_MS)
    with pytest.raises(CatalogBehind):
        enrich(record, the_tools, NOW_MS, catalog_end=11)
    row = row_of(record, the_tools, catalog_end=10)
    assert (row["status"], row["reason"]) == ("malformed", Reason.CATALOG_VERSION_AHEAD)


def test_answers_follow_the_catalog() -> None:
    """A promotion that is registered later is seen as soon as the catalog's version moves."""
    catalog = CatalogInMemory()
    the_tools = tools(catalog)
    record = raw_record(link={**LINK, "promotion_id": "later"})
    assert row_of(record, the_tools)["campaign_id"] == ""
    catalog.promotions["acme", "later"] = {"campaign_id": 77, "deployment_id": None}
    assert row_of(record, the_tools)["campaign_id"] == "", "one version gives one answer"
    catalog.version += 1
    assert row_of(record, the_tools)["campaign_id"] == "77"


class Unreadable(CatalogInMemory):
    """A catalog whose file cannot be read."""

    def promotion(self, tenant: str, promotion_id: str) -> dict[str, Any] | None:
        """Fails."""
        raise RuntimeError("damaged page")


def test_a_failing_environment_never_becomes_a_row() -> None:
    """An unreadable catalog and a tenant's impossible setting stop the record instead of spoiling it."""
    with pytest.raises(TransientError):
        enrich(raw_record(), tools(Unreadable()), NOW_MS)
    catalog = CatalogInMemory()
    catalog.tenants["acme"]["privacy"] = "anything"
    with pytest.raises(OperatorError, match="acme"):
        enrich(raw_record(), tools(catalog), NOW_MS)


class Buggy:
    """An agent parser with a bug."""

    agent_rules = bot_rules = ""

    def columns(self, text: str) -> None:
        """Fails."""
        raise ZeroDivisionError


def test_a_bug_in_a_step_costs_one_row_and_keeps_the_bytes() -> None:
    """Any other exception becomes a malformed row that can be reprocessed."""
    row = row_of(raw_record(), tools()._replace(agents=Buggy()))  # type: ignore[arg-type]
    assert (row["status"], row["reason"]) == ("malformed", Reason.INTERNAL_ERROR)
    assert (row["tenant"], row["key_id"], row["source"]) == ("acme", "k1", "api")
    assert restore_raw(row["raw"]) == raw_value()


def test_long_strings_are_cut_and_strange_types_are_dropped() -> None:
    """Whatever a link record holds, the row can be stored."""
    link = {**LINK, "recipient": 4915112345, "link_name": ["x"], "long_url": "ü" * 9000, "sent_at": "soon"}
    row = row_of(raw_record(link=link))
    assert (row["recipient"], row["link_name"], row["sent_at"]) == ("4915112345", "", 1_795_000_500_000)
    assert len(row["long_url"].encode()) == 8192


@pytest.mark.parametrize("value", [b"plain", b"", "ünïcode".encode(), b"\xff\x00", b"base64:x", b"\x00" * 500, b"cut:"])
def test_kept_bytes_come_back(value: bytes) -> None:
    """UTF-8 as text, everything else as base64, and no text is mistaken for base64."""
    kept = keep_raw(value, Privacy.STORE, RAW_BYTES_MAX)
    assert restore_raw(kept) == value
    assert len(orjson.dumps(kept)) <= len(value) * 4 / 3 + 110


@pytest.mark.parametrize("size", [RAW_BYTES_MAX - 1, RAW_BYTES_MAX, RAW_BYTES_MAX + 1])
def test_a_record_beyond_the_limit_is_cut_with_its_digest(size: int) -> None:
    """The limit itself is kept whole."""
    kept = keep_raw(b"\xff" * size, Privacy.STORE, RAW_BYTES_MAX)
    if size <= RAW_BYTES_MAX:
        assert restore_raw(kept) == b"\xff" * size
    else:
        assert base64.b64decode(kept.rpartition(":")[2]) == b"\xff" * (RAW_BYTES_MAX // 2)
        with pytest.raises(ValueError, match="not the whole record"):
            restore_raw(kept)


@pytest.mark.parametrize("batch_bytes_max", [65_536, 262_144, 1_048_576, 8_388_608])
def test_the_largest_rows_fit_a_batch(batch_bytes_max: int) -> None:
    """Every string at its bound and escaped, and the largest bytes that are kept whole or cut."""
    nasty = "\x01" * 10_000
    link = dict.fromkeys(("promotion_id", "link_name", "recipient", "long_url"), nasty) | {"link": nasty}
    click = orjson.dumps({"short-url": nasty, "user-agent": nasty, "ip-address": nasty})
    assert len(enrich(raw_record(link=link, click=click), tools(), NOW_MS).value) <= ROW_BYTES_MAX
    limit = raw_bytes_max(batch_bytes_max)
    request_bytes_max = batch_bytes_max + 65_536
    for size in (limit, limit + 1, 2 * RAW_BYTES_MAX):
        record = raw_record(b"\xff" * size)
        value = enrich(record, tools()._replace(raw_bytes_max=limit), NOW_MS).value
        assert len(value) + 1_000 < request_bytes_max


def test_deep_nesting_that_cannot_be_rewritten_is_withheld() -> None:
    """Privacy comes before the bytes when a record cannot be written without its address."""
    deep = b'{"click":{"ip-address":"8.8.8.8","x":' + b"[" * 300 + b"]" * 300 + b"}}"
    assert keep_raw(deep, Privacy.DROP, RAW_BYTES_MAX).startswith("withheld:")
    assert restore_raw(keep_raw(deep, Privacy.STORE, RAW_BYTES_MAX)) == deep


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=6,
)
RAW_NAMES = list(orjson.loads(raw_value()))
CLICK_NAMES = ["short-url", "user-agent", "ip-address", "clicked-at"]


@settings(max_examples=150)
@given(st.binary(max_size=400), st.none() | st.binary(max_size=40), st.integers(-(2**63), 2**63 - 1))
def test_any_bytes_give_one_storable_row(value: bytes, key: bytes | None, timestamp_ms: int) -> None:
    """No record can stop its partition."""
    row = row_of(RawRecord("s", 4095, 2**63 - 1, key, value, timestamp_ms))
    assert row["status"] == "malformed"
    assert restore_raw(row["raw"]) == value


@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from(RAW_NAMES), json_values, max_size=3),
    st.dictionaries(st.sampled_from(sorted(LINK)), json_values, max_size=3),
    st.dictionaries(st.sampled_from(CLICK_NAMES), json_values, max_size=4),
)
def test_records_with_strange_values_give_one_storable_row(
    changes: dict[str, Any], link: dict[str, Any], click: dict[str, Any]
) -> None:
    """Any mixture of right and wrong fields ends as a row or waits for the catalog."""
    record = orjson.loads(raw_value())
    record["link"].update(link)
    record["click"].update(click)
    record.update(changes)
    value = json.dumps(record).encode()
    try:
        row = row_of(raw_record(value))
    except CatalogBehind:
        return
    assert TIME_MS_MIN <= row["received_at"] <= TIME_MS_MAX
    assert (row["raw"] == "") == (row["status"] == "accepted")


texts = st.text(max_size=80)


@settings(max_examples=300)
@given(
    st.fixed_dictionaries({"short-url": texts, "user-agent": texts, "ip-address": texts | st.ip_addresses().map(str)}),
    st.fixed_dictionaries(dict.fromkeys(("promotion_id", "link_name", "recipient", "long_url"), texts)),
    st.booleans(),
    st.sampled_from(["acme", "careful", "secret", "nobody"]),
)
def test_the_joined_parts_are_what_encoding_the_whole_row_gives(
    click: dict[str, str], link: dict[str, str], suspect: bool, tenant: str
) -> None:
    """Whatever texts come, asked for once or twice: `row_of` compares the bytes with those of the decoded row."""
    record = raw_record(
        click=orjson.dumps(click), link={**LINK, "tenant": tenant, **link}, suspect=suspect, tenant=tenant
    )
    first, again = row_of(record), row_of(record)
    assert first == again
    assert first["user_agent"] == given_agent(click["user-agent"])
    assert first["short_url"] == click["short-url"]


def test_the_header_names_the_raw_offset() -> None:
    """The sink reads the offset without parsing the value."""
    enriched = enrich(raw_record(offset=2**40), tools(), NOW_MS)
    assert enriched.headers == [(HEADER_RAW_OFFSET, (2**40).to_bytes(8, "big"))]


def test_the_click_body_of_the_support_module_is_the_published_one() -> None:
    """The example keeps its line breaks and the space before its agent."""
    assert orjson.loads(CLICK)["user-agent"].startswith(" Mozilla")
