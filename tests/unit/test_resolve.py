"""A link's head says what its record says, and links of a batch together what each says by itself."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.normalise import normalise
from ingest_api.resolve import judge_link
from shared.links import GoodLine, read_link
from shared.stored_links import (
    DISABLED,
    NEVER,
    StoredLink,
    read_terms,
    record_of,
    records_in_time,
    store_link,
    terms_of,
)
from tests.support.catalog import DAY_MS, NOW_MS, link_record

RETENTION_MS = 90 * DAY_MS
EXTREMES = st.sampled_from((-1, -(2**63), 2**63 - 1, 2**63, 1.5, NOW_MS + 0.5, True))
TIMES = st.sampled_from((0, 1, 999_999_999_999, 10**13)) | st.integers(-2, 2).flatmap(
    lambda step: st.sampled_from((NOW_MS + step, NOW_MS - RETENTION_MS + step, NOW_MS - DAY_MS + step))
)
TEXTS = st.sampled_from(
    ("", "a", "\xfc", "a\\", '"', '\\",', '","link":"', '","sent_at":1760000000000,', "\n", '{"v":1}', "r\n{")
) | st.text(max_size=5)
TENANTS = st.sampled_from(
    ("acme", "acme", "acme", "acm", "acmes", "other", 'ac"me', "\xfc" * 119, "t" * 238, "t" * 239, "")
)


def stored(raw: bytes) -> StoredLink:
    """As the follower stores it."""
    return store_link(raw, orjson.loads(raw))


def counts(raw: bytes, tenant: str) -> bool:
    """What a single click asks of its link, read from the record."""
    terms = terms_of(orjson.loads(raw))
    return terms.tenant == tenant and judge_link(terms, NOW_MS, RETENTION_MS) is None


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
        st.dictionaries(
            st.sampled_from(sorted(record)), TEXTS | TIMES | EXTREMES | st.booleans() | st.none(), max_size=2
        )
    )
    record |= {"tenant": draw(TENANTS), "registered_at": draw(TIMES), "disabled": draw(st.booleans())}
    for name in draw(st.sets(st.sampled_from(sorted(record)), max_size=1)):
        del record[name]
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


@given(registered() | of_any_form())
def test_a_stored_link_is_its_record_and_its_terms(raw: bytes) -> None:
    """The record comes back byte for byte, the terms are those that its members give, of whatever form it is."""
    link = stored(raw)
    assert record_of(link) == raw
    try:
        terms = terms_of(orjson.loads(raw))
    except KeyError:
        with pytest.raises(KeyError):
            read_terms(link)
    else:
        assert read_terms(link) == terms


@given(st.lists(registered() | of_any_form(), min_size=1, max_size=4), TENANTS)
def test_links_together(raws: list[bytes], tenant: str) -> None:
    """When all are said to count, each does, and their records are theirs."""
    records = records_in_time([stored(raw) for raw in raws], tenant, NOW_MS, RETENTION_MS)
    assert records is None or (records == raws and all(counts(raw, tenant) for raw in raws))


@given(st.lists(registered(), min_size=1, max_size=4), TENANTS.filter(lambda tenant: 0 < len(tenant.encode()) < 239))
def test_registered_links_together(raws: list[bytes], tenant: str) -> None:
    """Links as they are registered need no decoding to be known, of a tenant with a name of up to 238 bytes."""
    records = records_in_time([stored(raw) for raw in raws], tenant, NOW_MS, RETENTION_MS)
    assert (records is not None) is all(counts(raw, tenant) for raw in raws)


def test_terms() -> None:
    """`sent_at` comes before the registration; an end that is none is never, and a disabled link was always over."""
    assert terms_of(link_record("s.ex/a", sent_at=5, expires_at=7)) == ("acme", 5, 7)
    assert terms_of(link_record("s.ex/a", sent_at=None, registered_at=6)) == ("acme", 6, NEVER)
    assert terms_of(link_record("s.ex/a", sent_at=0, expires_at=7, disabled=True)) == ("acme", 0, DISABLED)


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
        raws = [orjson.dumps(link_record("s.ex/a")), orjson.dumps(link_record("s.ex/a", **changes))]
        records = records_in_time([stored(raw) for raw in raws], "acme", NOW_MS, RETENTION_MS)
        assert (records is not None) is is_fine, changes
