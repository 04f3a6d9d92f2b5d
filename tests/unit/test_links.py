"""Lines of links and promotions: the same record from CSV text and from JSON, or a sentence that names the field."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.registry import short_url_key
from shared.links import (
    LINK_FIELDS,
    OWNED_BY_OTHER,
    TIME_MS_MAX,
    GoodLine,
    RefusedLine,
    link_line,
    read_link,
    read_promotion,
)

NOW_MS = 1_760_000_000_000


def link(registered: dict[str, Any] | None = None, /, **fields: object) -> GoodLine | RefusedLine:
    """A link's line of tenant acme."""
    line = {"short_url": "HTTP://S.example/a/", "promotion_id": "p1"} | fields
    return read_link(line, tenant="acme", now_ms=NOW_MS, to_key=short_url_key, registered=lambda _key: registered)


def test_csv_and_json_are_one() -> None:
    """Text as a CSV file has it gives the record that typed JSON gives."""
    text = link(recipient="", sent_at="1760000000000", expires_at="2025-10-09T08:53:20Z", disabled="YES", match="")
    typed = link(sent_at=NOW_MS, expires_at=NOW_MS, disabled=True)
    assert text == typed
    assert isinstance(text, GoodLine)
    assert text.id == "s.example/a"
    assert text.record == {
        "v": 1,
        "tenant": "acme",
        "link": "s.example/a",
        "promotion_id": "p1",
        "recipient": "",
        "link_name": "",
        "long_url": "",
        "sent_at": NOW_MS,
        "expires_at": NOW_MS,
        "disabled": True,
        "match": "exact",
        "registered_at": NOW_MS,
    }


@given(
    short_url=st.sampled_from(
        (
            "https://s.example:80/a",
            "http://s.example:443/a",
            "s.example:8080/a%20b",
            "S.example",
            "https://[::1]:80/x",
            "http://bücher.example/ü",
        )
    ),
    texts=st.tuples(*[st.text("aä+=' ", max_size=5)] * 3),
    times=st.tuples(*[st.none() | st.integers(0, TIME_MS_MAX)] * 2),
    disabled=st.booleans(),
    match=st.sampled_from(("exact", "prefix")),
)
def test_a_listed_line_registers_the_same_record(
    short_url: str, texts: tuple[str, ...], times: tuple[int | None, ...], *, disabled: bool, match: str
) -> None:
    """What `links list` prints is what `links load` takes: key, times to the millisecond, texts, flags."""
    named = dict(zip(("recipient", "link_name", "long_url"), texts, strict=True))
    registered = link(
        **named, short_url=short_url, sent_at=times[0], expires_at=times[1], disabled=disabled, match=match
    )
    assert isinstance(registered, GoodLine)
    line = link_line(registered.record)
    assert set(line) <= set(LINK_FIELDS)
    assert "" not in line.values()
    again = read_link(
        orjson.loads(orjson.dumps(line)),
        tenant="acme",
        now_ms=NOW_MS,
        to_key=short_url_key,
        registered=lambda _key: None,
    )
    assert again == registered


def test_ownership() -> None:
    """The own link keeps its registration time; another tenant's is refused without saying whose."""
    again = link({"tenant": "acme", "registered_at": 7})
    assert isinstance(again, GoodLine)
    assert again.record["registered_at"] == 7
    refused = link({"tenant": "rival", "registered_at": 7})
    assert refused is OWNED_BY_OTHER
    assert "rival" not in refused.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("short_url", None),
        ("short_url", ""),
        ("short_url", "ftp://x/y"),
        ("short_url", ["x"]),
        ("promotion_id", " "),
        ("promotion_id", True),
        ("promotion_id", "x" * 257),
        ("recipient", "a\x00b"),
        ("link_name", {}),
        ("long_url", "x" * 2_049),
        ("sent_at", "yesterday"),
        ("sent_at", "2026-01-01T00:00:00"),
        ("sent_at", -1),
        ("expires_at", 10**18),
        ("disabled", "maybe"),
        ("match", "regex"),
        ("expire_at", 1),
    ],
)
def test_refused_links(field: str, value: object) -> None:
    """Each wrong value is refused by a sentence that names its field."""
    refused = link(**{field: value})
    assert isinstance(refused, RefusedLine)
    assert field in refused.text
    assert not refused.is_conflict


def test_promotions() -> None:
    """Counts and times as text or numbers; an empty cell is no value."""
    text = read_promotion(
        {"promotion_id": "p1", "name": "n", "sent": "10", "delivered": "", "sent_at": ""}, tenant="acme"
    )
    typed = read_promotion({"promotion_id": "p1", "name": "n", "sent": 10, "delivered": None}, tenant="acme")
    assert text == typed
    assert isinstance(typed, GoodLine)
    assert (typed.id, typed.record["sent"], typed.record["delivered"]) == ("p1", 10, None)


@pytest.mark.parametrize("name", ["क्\u200dष उत्सव", "می\u200cخواهم", "👩\u200d💻", "12\u00a0%"])
def test_names_of_every_script(name: str) -> None:
    """Joiners and no-break spaces are a part of names, not control characters."""
    line = read_promotion({"promotion_id": "p1", "name": name}, tenant="acme")
    assert isinstance(line, GoodLine)
    assert line.record["name"] == name


@pytest.mark.parametrize(
    ("field", "value"),
    [("sent", -1), ("sent", 1.5), ("delivered", "many"), ("delivered", 2**53), ("promotion_id", ""), ("x", 1)],
)
def test_refused_promotions(field: str, value: object) -> None:
    """The same for promotions."""
    refused = read_promotion({"promotion_id": "p", field: value}, tenant="acme")
    assert isinstance(refused, RefusedLine)
    assert field in refused.text
