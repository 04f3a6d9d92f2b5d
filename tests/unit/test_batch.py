"""Batches: one result per click in order, each click judged by itself, the whole refused only where the contract says."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api import batch as batches
from ingest_api.acceptance import Acceptance
from ingest_api.answers import RESULTS_APART, Refusal, accepted_body
from ingest_api.authorize import Caller
from ingest_api.batch import CLEAN, TOGETHER, TOGETHER_MAX, PendingBatch, _check, _split, handle_batch
from ingest_api.handler import HandlerState
from ingest_api.parse import Refused, plain_urls
from ingest_api.share import Share
from shared.events import Source, decode_raw
from shared.http.answer import Answer
from shared.ids import keyed_id, partition_of
from tests.support.api import AUTHORIZED, HEADERS, PEER, make_state
from tests.support.catalog import EXAMPLE_BODY, EXAMPLE_URL, NOW_MS, example_catalog, key_record, link_record
from tests.support.shares import OneClick, clicks_of

GOOD = orjson.dumps({"short-url": EXAMPLE_URL})
BAD = b'{"short-url":"http://shortdomain/nothing"}'
ARRAY_OR_LINES = pytest.mark.parametrize("array", [False, True], ids=["ndjson", "array"])


def join(lines: list[bytes], *, array: bool) -> bytes:
    """A batch's body."""
    return b"[%b]" % b",".join(lines) if array else b"\n".join(lines)


def send(state: HandlerState, body: bytes, **changes: Any) -> Answer | PendingBatch:
    """One batch; `changes` are `handle_batch`'s arguments."""
    request: dict[str, Any] = {"headers": HEADERS, "peer": PEER, "now_ms": NOW_MS} | changes
    return handle_batch(state, body=body, **request)


def batch_of(result: Answer | PendingBatch) -> PendingBatch:
    """The batch, when it was not refused whole."""
    assert isinstance(result, PendingBatch), result
    return result


def refusal(result: Answer | PendingBatch) -> str:
    """The reason, when it was."""
    assert isinstance(result, Answer), result
    return result.reason


def placed(batch: PendingBatch) -> dict[int, OneClick]:
    """What is to be published, by its place in the batch, which each has for itself."""
    found = {}
    for share in batch.shares:
        assert list(share.places) == sorted(set(share.places).difference(found))
        found.update(zip(share.places, clicks_of([share]), strict=True))
    return dict(sorted(found.items()))


def results(batch: PendingBatch, failed: dict[int, Refusal] | None = None) -> list[str]:
    """The code, or `ok`, of each click."""
    answer = batch.finish(failed or {})
    assert answer.status == 200
    lines = orjson.loads(answer.body)
    assert all(line.keys() in ({"transaction-id"}, {"code", "description"}) for line in lines)
    return [line.get("code", "ok") for line in lines]


@ARRAY_OR_LINES
def test_good_and_bad(array: bool) -> None:
    """Bad clicks refuse themselves only, and every click has its result at its place."""
    lines = [GOOD, BAD, b"{}", b"1", b'{"short-url":1}', b'{"short-url":"a","short-url":"b"}', GOOD]
    batch = batch_of(send(make_state(), join(lines, array=array)))
    assert results(batch) == ["ok", "1003", "1002", "1001", "1001", "1001", "ok"]
    assert (batch.clicks, list(placed(batch))) == (2, [0, 6])
    assert batch.refusals == {
        Refusal.LINK_UNKNOWN: 1,
        Refusal.SHORT_URL_MISSING: 1,
        Refusal.NOT_AN_OBJECT: 1,
        Refusal.FIELD_TYPE: 1,
        Refusal.FIELD_DOUBLED: 1,
    }


def test_broken_line() -> None:
    """A line that is not JSON refuses itself only; blank lines and line ends of any kind are no clicks."""
    body = b"\xef\xbb\xbf" + GOOD + b"\r\n\n{oops\n\xff\n  \n" + GOOD + b"\r\n\r\n"
    assert results(batch_of(send(make_state(), body))) == ["ok", "1001", "1001", "ok"]


@ARRAY_OR_LINES
def test_records(array: bool) -> None:
    """Ids are given in order, records say `batch`, and clicks without key go to one partition together."""
    batch = batch_of(send(make_state(), join([GOOD] * 5, array=array)))
    answer = batch.finish({})
    clicks = placed(batch)
    assert [line["transaction-id"] for line in orjson.loads(answer.body)] == [
        click.key.decode() for click in clicks.values()
    ]
    raws = [decode_raw(click.value) for click in clicks.values()]
    assert {(raw.origin.source, raw.origin.suspect, raw.click["short-url"]) for raw in raws} == {
        (Source.BATCH, False, EXAMPLE_URL)
    }
    assert [raw.transaction_id.encode() for raw in raws] == [click.key for click in clicks.values()]
    assert (list(clicks), len(batch.shares), batch.clicks) == ([0, 1, 2, 3, 4], 1, 5)


def test_published_example_in_an_array() -> None:
    """The published example, line breaks and all, is an item of an array."""
    batch = batch_of(send(make_state(), b"[%b]" % EXAMPLE_BODY))
    assert decode_raw(placed(batch)[0].value).click == orjson.loads(EXAMPLE_BODY)


@ARRAY_OR_LINES
def test_own_keys(array: bool) -> None:
    """Each click may bring its own idempotency key; a wrong one refuses its click, an empty one is none."""
    lines = [orjson.dumps({"short-url": EXAMPLE_URL, "idempotency-key": key}) for key in ("a", "b", "é", "", None, 1)]
    batch = batch_of(send(make_state(), join(lines, array=array)))
    assert results(batch) == ["ok", "ok", "499", "ok", "ok", "1001"]
    keyed = [keyed_id("acme", key, 6) for key in "ab"]
    clicks = placed(batch)
    assert [clicks[place].key.decode() for place in (0, 1)] == keyed
    assert [clicks[place].partition for place in (0, 1)] == [partition_of(id_) for id_ in keyed]
    assert {place: click.suspect for place, click in clicks.items()} == {0: True, 1: True, 3: False, 4: False}
    assert len(batch.shares) == len({(click.partition, click.suspect) for click in clicks.values()}) > 1


def test_header_key() -> None:
    """One Idempotency-Key header cannot stand for many clicks."""
    headers = (*HEADERS, (b"idempotency-key", b"k"))
    assert refusal(send(make_state(), GOOD, headers=headers)) == Refusal.IDEMPOTENCY_KEY


@ARRAY_OR_LINES
@pytest.mark.parametrize("count", [999, 1000, 1001])
def test_count(count: int, array: bool) -> None:
    """1,000 clicks are the most; one more refuses the whole batch and counts nothing."""
    state = make_state()
    result = send(state, join([b"{}"] * count, array=array))
    if count > 1000:
        assert refusal(result) == Refusal.BATCH_TOO_LONG
        assert "1,001" in orjson.loads(result.body)["description"]  # type: ignore[union-attr]
        assert state.throttle.take("k1", 10_000, 0, NOW_MS).remaining == 10_000
    else:
        assert results(batch_of(result)) == ["1002"] * count


@pytest.mark.parametrize("size", [4095, 4096, 4097])
def test_batch_size(size: int) -> None:
    """A batch's body has its own limit; more is 1001 and closes."""
    result = send(make_state(api_batch_bytes_max=4096), GOOD + b"\n" * (size - len(GOOD)))
    if size > 4096:
        assert refusal(result) == Refusal.BODY_TOO_LARGE
        assert isinstance(result, Answer)
        assert result.close
        assert b"more than 4,096 bytes" in result.body
    else:
        assert results(batch_of(result)) == ["ok"]


@ARRAY_OR_LINES
@pytest.mark.parametrize("size", [511, 512, 513])
def test_click_size(size: int, array: bool) -> None:
    """A click in a batch may be as large as a single one; a larger one refuses itself only."""
    large = orjson.dumps({"short-url": EXAMPLE_URL, "x": ""})
    large = large.replace(b'""', b'"' + b"x" * (size - len(large)) + b'"')
    batch = batch_of(send(make_state(api_body_bytes_max=512), join([GOOD, large, GOOD], array=array)))
    assert results(batch) == ["ok", "1001" if size > 512 else "ok", "ok"]


WHOLE = {
    "empty": (b"", Refusal.BODY_EMPTY),
    "white space": (b" \n\n ", Refusal.BODY_EMPTY),
    "broken array": (b"[{}", Refusal.NOT_JSON),
    "array and garbage": (b"[{}]x", Refusal.NOT_JSON),
    "deep array": (b"[" * 500 + b"]" * 500, Refusal.TOO_DEEP),
}


@pytest.mark.parametrize(("body", "reason"), WHOLE.values(), ids=WHOLE.keys())
def test_whole(body: bytes, reason: Refusal) -> None:
    """A body that cannot be split into clicks is refused whole."""
    assert refusal(send(make_state(), body)) == reason


def test_empty_array() -> None:
    """No clicks, no results."""
    assert results(batch_of(send(make_state(), b" [] "))) == []


def test_heads() -> None:
    """A batch's head is judged as a single click's."""
    state = make_state()
    assert refusal(send(state, GOOD, method=b"GET")) == Refusal.METHOD
    assert refusal(send(state, GOOD, headers=())) == Refusal.AUTHORIZATION_MISSING
    form = (b"content-type", b"application/x-www-form-urlencoded")
    assert refusal(send(state, GOOD, headers=(AUTHORIZED, form))) == Refusal.CONTENT_TYPE
    assert refusal(send(state, GOOD, headers=(AUTHORIZED, (b"content-encoding", b"gzip")))) == Refusal.CONTENT_ENCODING
    batch_of(send(state, GOOD, headers=(AUTHORIZED, (b"content-type", b"application/x-ndjson"))))


def test_throttle() -> None:
    """A batch costs one per click; clicks over the limit get 429, and with nothing left the whole batch does."""
    catalog = example_catalog()
    catalog.put("key", "k1", key_record(rate_limit=4))
    state = make_state(catalog)
    batch = batch_of(send(state, join([GOOD, b"{}", GOOD], array=False)))
    assert results(batch) == ["ok", "1002", "ok"]
    over = batch_of(send(state, join([GOOD] * 3, array=False)))
    assert results(over) == ["ok", "429", "429"]
    assert over.refusals == {Refusal.THROTTLED: 2}
    headers = dict(over.finish({}).headers)
    assert (headers[b"x-ratelimit-remaining"], headers[b"retry-after"]) == (b"0", b"1")
    assert refusal(send(state, GOOD)) == Refusal.THROTTLED


def test_some_not_durable() -> None:
    """Clicks that could not be published are 500 at their place; the others keep their ids."""
    batch = batch_of(send(make_state(), join([GOOD, BAD, GOOD, GOOD], array=False)))
    assert results(batch, {2: Refusal.NOT_DURABLE, 3: Refusal.OUTCOME_UNKNOWN}) == ["ok", "1003", "500", "500"]
    assert batch.refusals == {Refusal.LINK_UNKNOWN: 1, Refusal.NOT_DURABLE: 1, Refusal.OUTCOME_UNKNOWN: 1}


def test_none_durable() -> None:
    """When nothing could be published the whole request is 500, to be tried again."""
    batch = batch_of(send(make_state(), join([GOOD, BAD], array=False)))
    answer = batch.finish({0: Refusal.NOT_DURABLE})
    assert (answer.status, answer.reason, b"retry-after" in dict(answer.headers)) == (500, Refusal.NOT_DURABLE, True)


STATE = make_state(api_rate_limit=16_000_000)
LINE = st.one_of(st.binary(max_size=30), st.sampled_from([GOOD, BAD, b"{}", b"null", b'{"short-url":"\\ud800"}']))


@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(LINE).map(b"\n".join),
        st.lists(LINE).map(lambda lines: b"[%b]" % b",".join(lines)),
    )
)
def test_any_body(body: bytes) -> None:
    """Any bytes get one result per click, or one refusal."""
    result = send(STATE, body)
    if isinstance(result, Answer):
        assert orjson.loads(result.body).keys() == {"code", "description"}
    else:
        assert results(result).count("ok") == len(placed(result)) == result.clicks


MIXED = st.lists(
    st.sampled_from(
        (
            GOOD,
            GOOD,
            GOOD,
            b'{"short-url":"shortdomain/dsltrack/employee/j460A8?x=1","user-agent":"\\"","ip-address":null}',
            b'{"short-url":"http://shortdomain/old"}',
            b'{"short-url":"http://shortdomain/others"}',
            b'{"short-url":"http://shortdomain/from/here"}',
            b'{"short-url":"%b","clicked-at":%d}' % (EXAMPLE_URL.encode(), NOW_MS),
            b'{"short-url":"%b","idempotency-key":"k"}' % EXAMPLE_URL.encode(),
            b'{"short-url":" "}',
            BAD,
            b"1",
        )
    ),
    min_size=1,
    max_size=2 * TOGETHER + 1,
)


@given(MIXED, st.integers(0, 2 * TOGETHER_MAX), st.booleans(), st.sampled_from((0, CLEAN - TOGETHER, CLEAN)))
def test_together_as_each_by_itself(lines: list[bytes], good: int, array: bool, clean: int) -> None:
    """Clicks that are checked together are published, refused and answered as if each had been checked by itself."""
    lines = [GOOD] * good + lines
    catalog = example_catalog()
    catalog.put("link", "shortdomain/old", link_record("shortdomain/old", sent_at=1))
    catalog.put("link", "shortdomain/others", link_record("shortdomain/others", tenant="other"))
    catalog.put("link", "shortdomain/from", link_record("shortdomain/from", match="prefix"))
    body = join(lines, array=array)
    state = make_state(catalog)
    state.clean_clicks = clean
    batch = batch_of(send(state, body))
    state = make_state(catalog)
    caller = state.callers.find([AUTHORIZED[1]], NOW_MS)
    assert isinstance(caller, Caller)
    acceptance = Acceptance(state, caller, caller.batch_origin, b"", NOW_MS)
    clicks = _split(body, len(lines))
    assert not isinstance(clicks, Refused)
    alone = [_check(state, click, acceptance) for click in clicks]
    assert placed(batch) == {place: clicks_of([line])[0] for place, line in enumerate(alone) if isinstance(line, Share)}
    if batch.clicks:
        bodies = [accepted_body(line.keys[0]) if isinstance(line, Share) else line.body for line in alone]
        assert batch.finish({}).body == b"[%b]" % RESULTS_APART.join(bodies)


def test_more_together_while_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps grow when many clicks were fine, and one that is refused makes them small again, the same clicks first."""
    sizes: list[int] = []

    def noted(bodies: list[bytes]) -> list[str] | None:
        sizes.append(len(bodies))
        return plain_urls(bodies)

    monkeypatch.setattr(batches, "plain_urls", noted)
    state = make_state()
    good, whole = join([GOOD] * TOGETHER_MAX, array=False), TOGETHER_MAX // TOGETHER
    for _ in range(CLEAN // TOGETHER_MAX):
        batch_of(send(state, good))
    assert sizes == [TOGETHER] * (CLEAN // TOGETHER)
    sizes.clear()
    batch_of(send(state, good))
    assert sizes == [TOGETHER_MAX]
    assert results(batch_of(send(state, join([GOOD] * (TOGETHER_MAX - 1) + [BAD], array=False)))).count("ok") == 99
    batch_of(send(state, good))
    assert sizes[1:] == [TOGETHER_MAX] + [TOGETHER] * 2 * whole
