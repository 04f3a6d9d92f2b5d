"""Links of a batch taken together say what each says when it is decoded and judged by itself."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.normalise import normalise
from ingest_api.resolve import all_count, judge_link
from shared.links import GoodLine, read_link
from tests.support.catalog import DAY_MS, NOW_MS, link_record

RETENTION_MS = 90 * DAY_MS
TIMES = st.sampled_from((0, 1, 999_999_999_999, 10**13)) | st.integers(-2, 2).flatmap(
    lambda step: st.sampled_from((NOW_MS + step, NOW_MS - RETENTION_MS + step, NOW_MS - DAY_MS + step))
)
TEXTS = st.sampled_from(
    ("", "a", "\xfc", "a\\", '"', '\\",', '","link":"', '","sent_at":1760000000000,', "\n", '{"v":1}', "r\n{")
) | st.text(max_size=5)
TENANTS = st.sampled_from(("acme", "acme", "acme", "other", 'ac"me'))


def counts(link: bytes, tenant: str) -> bool:
    """What a single click asks of its link."""
    record = orjson.loads(link)
    return record["tenant"] == tenant and judge_link(record, NOW_MS, RETENTION_MS) is None


@st.composite
def registered(draw: st.DrawFn) -> bytes:
    """A link as it gets into the catalog."""
    names = ("promotion_id", "recipient", "link_name", "long_url", "sent_at", "expires_at", "disabled", "match")
    kinds = (TEXTS, TEXTS, TEXTS, TEXTS, TIMES, TIMES, st.booleans(), st.sampled_from(("exact", "prefix")))
    fields = {name: draw(kind | st.none()) for name, kind in zip(names, kinds, strict=True)}
    line = read_link(
        {"short_url": "http://s.ex/a"} | {name: value for name, value in fields.items() if value is not None},
        tenant=draw(TENANTS),
        now_ms=draw(TIMES),
        to_key=lambda url: normalise(url).key,
        registered=lambda _key: None,
    )
    return orjson.dumps(line.record) if isinstance(line, GoodLine) else orjson.dumps(link_record("s.ex/a"))


@st.composite
def of_any_form(draw: st.DrawFn) -> bytes:
    """A JSON object that might be one: members changed, doubled, in another order, written over lines."""
    record: dict[str, Any] = link_record("s.ex/a")
    record |= draw(
        st.dictionaries(st.sampled_from(sorted(record)), TEXTS | TIMES | st.booleans() | st.none(), max_size=2)
    )
    record |= {"tenant": draw(TENANTS), "registered_at": draw(TIMES), "disabled": draw(st.booleans())}
    names = draw(st.permutations(sorted(record)) | st.just(list(record)))
    members = [orjson.dumps(name) + b":" + orjson.dumps(record[name]) for name in names]
    members += draw(
        st.lists(st.sampled_from((*members, b'"tenant":"other"', b'"x":1', b'"x":{"disabled":true}')), max_size=1)
    )
    apart, start, end = draw(st.sampled_from(((b",", b"{", b"}"), (b",\n", b"{", b"}"), (b",", b'{"x":[\n', b"\n]}"))))
    text = apart.join(members)
    if not start.endswith(b"\n"):
        return start + text + end
    return b'{"tenant":"other","registered_at":1,"x":[\n{%b}\n]}' % text


@given(st.lists(registered() | of_any_form(), min_size=1, max_size=4), TENANTS)
def test_links_together(links: list[bytes], tenant: str) -> None:
    """When all are said to count, each does."""
    assert not all_count(links, tenant, NOW_MS, RETENTION_MS) or all(counts(link, tenant) for link in links)


@given(st.lists(registered(), min_size=1, max_size=4))
def test_ordinary_links_together(links: list[bytes]) -> None:
    """Links as they are registered, of texts without quotes and times of our century, need no decoding."""
    records = [orjson.loads(link) for link in links]
    is_ordinary = not any(b"\\" in link for link in links) and all(
        record[name] is None or 10**12 <= record[name] < 10**13
        for record in records
        for name in ("sent_at", "expires_at", "registered_at")
    )
    if is_ordinary:
        assert all_count(links, "acme", NOW_MS, RETENTION_MS) is all(counts(link, "acme") for link in links)


def test_the_last_millisecond() -> None:
    """Retention's last millisecond counts, an expired link's first does not; `sent_at` comes before the registration."""
    for changes, is_fine in (
        ({"sent_at": NOW_MS - RETENTION_MS}, True),
        ({"sent_at": NOW_MS - RETENTION_MS - 1}, False),
        ({"sent_at": None, "registered_at": NOW_MS - RETENTION_MS}, True),
        ({"sent_at": None, "registered_at": NOW_MS - RETENTION_MS - 1}, False),
        ({"expires_at": NOW_MS + 1}, True),
        ({"expires_at": NOW_MS}, False),
        ({"disabled": True}, False),
        ({"tenant": "other"}, False),
    ):
        links = [orjson.dumps(link_record("s.ex/a")), orjson.dumps(link_record("s.ex/a", **changes))]
        assert all_count(links, "acme", NOW_MS, RETENTION_MS) is is_fine, changes
