"""The stream's core: filters, positions and events."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.enriched_fields import ENRICHED_FIELDS
from shared.events import Status
from shared.ids import PARTITIONS_MAX
from shared.rte import (
    FILTER_CHARS_MAX,
    FILTER_VALUES_MAX,
    OFFSET_MAX,
    STREAMED,
    TEXT_FIELDS,
    BadPosition,
    Filter,
    Position,
    event_of,
    rfc3339,
)

ROOT = Path(__file__).parents[2]
RECORD: dict[str, Any] = orjson.loads((ROOT / "tests/golden/enriched-v1.json").read_bytes())


@given(st.from_regex(r"\A[0-9a-f]{32}\Z"), st.lists(st.integers(0, OFFSET_MAX), min_size=1, max_size=40))
def test_a_position_survives_its_text(stream: str, offsets: list[int]) -> None:
    """What is written is read again, and the text is safe in a URL and an event's id."""
    position = Position(stream, tuple(offsets))
    assert Position.parse(str(position)) == position
    assert re.fullmatch(r"[0-9A-Za-z_.-]+", str(position))


@given(st.text())
def test_any_text_is_a_position_or_refused(text: str) -> None:
    """Nothing else comes out of a stranger's text, and no position has two texts."""
    try:
        position = Position.parse(text)
    except BadPosition:
        return
    assert str(position) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "id of a stream"),
        ("s", "no offset"),
        ("s.", "not an offset"),
        ("s.01", "not an offset"),
        ("s.-1", "not an offset"),
        ("s.+1", "not an offset"),
        ("s.1.", "partition 1 is not"),
        ("s.١", "not an offset"),
        (f"s.{OFFSET_MAX + 1}", "not an offset"),
        ("s." + ".".join(["1"] * (PARTITIONS_MAX + 1)), "more than"),
        ("a b.1", "id of a stream"),
        ("x" * 65 + ".1", "id of a stream"),
    ],
)
def test_what_is_no_position_says_why(text: str, why: str) -> None:
    """Each kind of mistake has its words."""
    with pytest.raises(BadPosition, match=why):
        Position.parse(text)


def test_limits_of_positions() -> None:
    """The highest offset and the most partitions are fine; a partition that was added later begins at 0."""
    position = Position.parse("s." + ".".join([str(OFFSET_MAX)] * PARTITIONS_MAX))
    assert (position.offset(0), position.offset(PARTITIONS_MAX)) == (OFFSET_MAX, 0)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, True),
        ({"statuses": ["accepted", "malformed"], "promotions": ["spring"], "tenant": "acme"}, True),
        ({"statuses": ["malformed"]}, False),
        ({"promotions": ["summer"]}, False),
        ({"promotions": ["summer", "spring"]}, True),
        ({"tenant": "other"}, False),
        ({"links": [RECORD["link"]]}, True),
        ({"links": [RECORD["short_url"]]}, True),
        ({"links": ["shortdomain"]}, False),
        ({"bots": "no"}, True),
        ({"bots": "any"}, True),
        ({"bots": "yes"}, False),
    ],
)
def test_what_a_filter_names_must_all_hold(given: dict[str, Any], wanted: bool) -> None:
    """One value of each named kind is enough, every named kind is needed."""
    assert Filter.of(**given).matches(RECORD) is wanted


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"statuses": ["ok"]}, "status: ok is not one of accepted, duplicate, malformed, rejected"),
        (
            {"statuses": ["duplicate"], "known": STREAMED},
            "is not one of accepted, malformed, rejected; duplicate is found",
        ),
        ({"statuses": ["accepted", "duplicate"], "known": STREAMED}, "status: duplicate is not one of"),
        ({"statuses": ["ok"], "known": STREAMED}, "status: ok is not one of accepted, malformed, rejected$"),
        ({"bots": "maybe"}, "bots: 'maybe' is not one of any, yes, no"),
        ({"promotions": map(str, range(FILTER_VALUES_MAX + 1))}, "promotion_id: 101 values"),
        ({"links": [""]}, "link: a value has 1 to"),
        ({"links": ["x" * (FILTER_CHARS_MAX + 1)]}, "link: a value has 1 to"),
    ],
)
def test_a_bad_filter_names_its_parameter(given: dict[str, Any], why: str) -> None:
    """A typo must not show an empty stream for ever."""
    with pytest.raises(ValueError, match=why):
        Filter.of(**given)


def test_limits_of_filters() -> None:
    """Every status, the most values and the longest value are fine."""
    Filter.of(statuses=STREAMED, known=STREAMED)
    Filter.of(statuses=map(str, Status), promotions=map(str, range(FILTER_VALUES_MAX)), links=["x" * FILTER_CHARS_MAX])


def test_a_click_is_a_cloud_event() -> None:
    """The envelope names the click; what is not known is absent, not empty and not `Others`."""
    event = event_of(RECORD)
    data = event.pop("data")
    assert event == {
        "specversion": "1.0",
        "id": RECORD["transaction_id"],
        "source": "/clickledger/tenants/acme",
        "type": "com.clickledger.click.accepted",
        "time": "2026-11-22T14:59:59.950Z",
        "subject": "spring",
        "datacontenttype": "application/json",
    }
    assert (data["raw_partition"], data["raw_offset"], data["suspect"], data["is_bot"]) == (1, 7, True, False)
    assert data["browser"] == "Chrome"
    assert data["clicked_at_ignored"] is False
    assert event_of(RECORD | {"clicked_at_ignored": True})["data"]["clicked_at_ignored"] is True
    assert not {"device", "device_brand", "region", "asn", "reason", "bot_reason"} & set(data)
    assert all(value not in ("", None) for value in data.values())


def test_a_click_without_a_promotion_has_no_subject() -> None:
    """A rejected click says so, and why."""
    event = event_of(RECORD | {"status": "rejected", "reason": "unknown_link", "promotion_id": "", "tenant": "a/b"})
    assert "subject" not in event
    assert (event["type"], event["source"]) == ("com.clickledger.click.rejected", "/clickledger/tenants/a%2Fb")
    assert event["data"]["reason"] == "unknown_link"


def test_the_fields_of_an_event_are_those_of_the_view() -> None:
    """All columns of `rte` but the row's own time, and what only the stream has; all from the wire contract."""
    full = event_of({field.name: {"string": "x", "boolean": True}.get(field.json_type, 1) for field in ENRICHED_FIELDS})
    (view,) = re.findall(
        r"VIEW rte\b.*?\nAS\s+SELECT\s+(.*?)\s+FROM",
        (ROOT / "sink/ddl/0012_ignored_clicked_at.sql").read_text("utf-8"),
        re.DOTALL,
    )
    columns = {name.strip() for name in view.split(",")}
    extra = {"status", "reason", "suspect", "stream", "raw_partition", "raw_offset"}
    assert set(full["data"]) == columns - {"inserted_at"} | extra
    assert set(TEXT_FIELDS) <= {field.name for field in ENRICHED_FIELDS if field.json_type == "string"}


@given(st.integers(0, 253_402_300_799_999))
def test_times_keep_their_milliseconds(time_ms: int) -> None:
    """RFC 3339 in UTC, to the millisecond, up to the year 9999."""
    from datetime import UTC, datetime, timedelta

    found = datetime.fromisoformat(rfc3339(time_ms))
    assert (found - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1) == time_ms
