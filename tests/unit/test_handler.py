"""A single click from request bytes to answer: the order of checks, limits, the raw record, and any bytes at all."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.answers import Refusal
from ingest_api.handler import HandlerState, PendingClick, handle, precheck, refuse_oversized, refuse_unpublished
from shared.events import Source, decode_raw
from shared.http.answer import Answer
from shared.ids import created_at_ms, keyed_id, partition_of
from tests.support.api import AUTHORIZED, HEADERS, JSON_TYPE, PATH, PEER, make_state, post
from tests.support.catalog import (
    DAY_MS,
    EXAMPLE_BODY,
    EXAMPLE_URL,
    NOW_MS,
    digest,
    example_catalog,
    key_record,
    link_record,
)
from tests.support.shares import OneClick, clicks_of

KEY = "shortdomain/dsltrack/employee/j460A8"
RATE = {b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset"}


def body_of(**fields: Any) -> bytes:
    """A click on the example's link with more fields."""
    return orjson.dumps({"short-url": EXAMPLE_URL} | {name.replace("_", "-"): value for name, value in fields.items()})


def pending(result: Answer | PendingClick) -> OneClick:
    """The click, when it was accepted."""
    assert isinstance(result, PendingClick), result
    (click,) = clicks_of([result.share])
    return click


def answer_of(result: Answer | PendingClick) -> Answer:
    """What is told, at once or when the click is durable."""
    if isinstance(result, Answer):
        return result
    return result.answer


def refusal(result: Answer | PendingClick) -> str:
    """The reason, when it was not."""
    assert isinstance(result, Answer), result
    return result.reason


def link_state(**changes: Any) -> HandlerState:
    """A state whose example link has other fields."""
    catalog = example_catalog()
    catalog.put("link", KEY, link_record(KEY, **changes))
    return make_state(catalog)


def test_published_example() -> None:
    """The published request becomes a raw record around its body, byte for byte, and a 200 with its id alone."""
    result = post(make_state(), EXAMPLE_BODY)
    click, answer = pending(result), answer_of(result)
    transaction_id = click.key.decode()
    assert answer.status == 200
    assert orjson.loads(answer.body) == {"transaction-id": transaction_id}
    assert dict(answer.headers) == {
        b"x-ratelimit-limit": b"10000",
        b"x-ratelimit-remaining": b"9999",
        b"x-ratelimit-reset": b"1",
    }
    assert EXAMPLE_BODY in click.value
    raw = decode_raw(click.value)
    assert (raw.transaction_id, raw.received_at_ms, raw.origin.tenant, raw.origin.key_id) == (
        transaction_id,
        NOW_MS,
        "acme",
        "k1",
    )
    assert (raw.origin.node, raw.origin.source, raw.origin.suspect, raw.origin.replay_of) == (
        "node-1",
        Source.API,
        False,
        None,
    )
    assert (raw.origin.clicked_at_ignored, raw.catalog_version, raw.origin.caller_user_agent) == (False, 3, None)
    assert (raw.link, raw.click) == (link_record(KEY), orjson.loads(EXAMPLE_BODY))
    assert (click.timestamp_ms, click.suspect) == (NOW_MS, False)


def test_transaction_id() -> None:
    """An id is a UUID of version 7 with its time and its partition; partitions take turns."""
    state = make_state()
    clicks = [pending(post(state, EXAMPLE_BODY)) for _ in range(7)]
    ids = [click.key.decode() for click in clicks]
    assert [click.partition for click in clicks] == [partition_of(id_) for id_ in ids] == [0, 1, 2, 3, 4, 5, 0]
    assert {(UUID(id_).version, created_at_ms(id_)) for id_ in ids} == {(7, NOW_MS)}


@pytest.mark.parametrize("prefix", [b"/campaignapi", b"/imicampaignapi"])
@pytest.mark.parametrize("end", [b"", b"/", b"?x=1", b"/?"])
def test_paths(prefix: bytes, end: bytes) -> None:
    """Both prefixes, a trailing slash and a query reach the endpoint."""
    pending(post(make_state(), EXAMPLE_BODY, target=prefix + b"/resources/v3/shortlinkclicks" + end))


@pytest.mark.parametrize("target", [b"/", b"", b"*", PATH + b"//", PATH + b"/x", PATH.upper(), b"/campaignapi"])
def test_other_paths(target: bytes) -> None:
    """Any other path is 404 with code 404."""
    answer = post(make_state(), EXAMPLE_BODY, target=target)
    assert isinstance(answer, Answer)
    assert (answer.status, orjson.loads(answer.body)["code"]) == (404, "404")


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"post", b""])
def test_other_methods(method: bytes) -> None:
    """Any other method is 405 with Allow, before anything else is looked at."""
    answer = post(make_state(), b"", method=method, headers=())
    assert isinstance(answer, Answer)
    assert (answer.status, answer.headers) == (405, ((b"allow", b"POST"),))


def test_order_of_checks() -> None:
    """Each check comes before the next one: repairing a request's faults one by one shows them in this order."""
    catalog = example_catalog()
    catalog.put("key", "k1", key_record(grants=["reports"]))
    state = make_state(catalog, api_body_bytes_max=1024)
    request: dict[str, Any] = {
        "method": b"GET",
        "headers": [(b"content-type", b"text/plain"), (b"content-encoding", b"gzip"), (b"idempotency-key", b"")],
    }
    body = b"{" + b" " * 1024

    def reason() -> str:
        return refusal(post(state, body, **request))

    assert reason() == Refusal.METHOD
    request["method"] = b"POST"
    assert reason() == Refusal.AUTHORIZATION_MISSING
    request["headers"].append(AUTHORIZED)
    assert reason() == Refusal.GRANT_MISSING
    catalog.put("key", "k1", key_record(rate_limit=0))
    assert reason() == Refusal.THROTTLED
    catalog.put("key", "k1", key_record())
    assert reason() == Refusal.BODY_TOO_LARGE
    body = b"{"
    assert reason() == Refusal.CONTENT_TYPE
    request["headers"][0] = JSON_TYPE
    assert reason() == Refusal.CONTENT_ENCODING
    del request["headers"][1]
    assert reason() == Refusal.IDEMPOTENCY_KEY
    del request["headers"][1]
    assert reason() == Refusal.NOT_JSON
    body = b"{}"
    assert reason() == Refusal.SHORT_URL_MISSING
    body = b'{"short-url":"http://shortdomain/other"}'
    assert reason() == Refusal.LINK_UNKNOWN
    catalog.put("link", "shortdomain/other", link_record("shortdomain/other", sent_at=0))
    assert reason() == Refusal.RETENTION_PASSED
    catalog.put("link", "shortdomain/other", link_record("shortdomain/other"))
    pending(post(state, body, **request))


@pytest.mark.parametrize("authenticated", [True, False])
def test_rate_headers(authenticated: bool) -> None:
    """Every authenticated answer says what is left of the limit; no other one does."""
    catalog = example_catalog()
    catalog.put("key", "k2", key_record("other", key_id="k2", grants=["admin"]))
    state = make_state(catalog)
    other = (b"authorization", b"Bearer other")
    results = (
        [post(state, b""), post(state, b"{}"), post(state, b"x" * 20_000), post(state, b"", headers=[other])]
        if authenticated
        else [post(state, b"", headers=()), post(state, b"", method=b"GET"), post(state, b"", target=b"/")]
    )
    for result in results:
        assert isinstance(result, Answer)
        assert RATE.issubset(dict(result.headers)) is authenticated, result


@pytest.mark.parametrize("size", [16_383, 16_384, 16_385])
def test_body_size(size: int) -> None:
    """16 KiB are the most; more is 1001 and the connection closes."""
    body = EXAMPLE_BODY + b" " * (size - len(EXAMPLE_BODY))
    result = post(make_state(), body)
    if size > 16_384:
        assert isinstance(result, Answer)
        assert (result.reason, result.close, orjson.loads(result.body)["code"]) == (
            Refusal.BODY_TOO_LARGE,
            True,
            "1001",
        )
        assert b"more than 16,384 bytes" in result.body
    else:
        pending(result)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_throttle(limit: int) -> None:
    """The third click of a window passes only a limit of three; then 429 with Retry-After."""
    catalog = example_catalog()
    catalog.put("key", "k1", key_record(rate_limit=limit))
    state = make_state(catalog)
    results = [post(state, EXAMPLE_BODY) for _ in range(3)]
    assert [isinstance(result, PendingClick) for result in results] == [number < limit for number in range(3)]
    answer = post(state, EXAMPLE_BODY)
    assert isinstance(answer, Answer)
    assert (answer.status, dict(answer.headers)[b"retry-after"]) == (429, b"1")
    assert dict(answer.headers)[b"x-ratelimit-remaining"] == b"0"
    pending(post(state, EXAMPLE_BODY, now_ms=NOW_MS + 1000))


def test_failed_authentications() -> None:
    """After 100 failures an address gets 429, another one not, and a valid key from the first never."""
    state = make_state()
    bad = [(b"authorization", b"Bearer wrong")]
    assert {refusal(post(state, b"", headers=bad)) for _ in range(100)} == {Refusal.KEY_UNKNOWN}
    answer = post(state, b"", headers=bad)
    assert isinstance(answer, Answer)
    assert (answer.status, dict(answer.headers)) == (429, {b"retry-after": b"10"})
    assert refusal(post(state, b"", headers=bad, peer="198.51.100.8")) == Refusal.KEY_UNKNOWN
    pending(post(state, EXAMPLE_BODY))
    assert refusal(post(state, b"", headers=bad, now_ms=NOW_MS + 10_000)) == Refusal.KEY_UNKNOWN


def test_failures_behind_a_proxy() -> None:
    """Behind a trusted proxy failures are counted for the client that it names."""
    state = make_state(api_trusted_proxies=PEER, api_failed_authentications_max=1)
    one, other = ([(b"x-forwarded-for", address)] for address in (b"203.0.113.1", b"203.0.113.2"))
    reasons = [refusal(post(state, b"", headers=headers)) for headers in (one, one, other)]
    assert reasons == [Refusal.AUTHORIZATION_MISSING, Refusal.AUTHENTICATIONS_FAILED, Refusal.AUTHORIZATION_MISSING]


def test_catalog_not_ready() -> None:
    """Without a catalog a click is 500 with Retry-After, never 498 or 1003, and nobody's failure."""
    catalog = example_catalog()
    catalog.is_ready = False
    state = make_state(catalog, api_failed_authentications_max=1)
    for _ in range(3):
        answer = post(state, EXAMPLE_BODY)
        assert isinstance(answer, Answer)
        assert (answer.status, answer.headers) == (500, ((b"retry-after", b"1"),))


def test_catalog_behind() -> None:
    """While the catalog's copy is behind, known links work and an unknown one is 500, another tenant's too."""
    catalog = example_catalog()
    catalog.put("link", "shortdomain/theirs", link_record("shortdomain/theirs", tenant="other"))
    catalog.is_current = False
    state = make_state(catalog)
    pending(post(state, EXAMPLE_BODY))
    for url in (b"http://shortdomain/nothing", b"http://shortdomain/theirs"):
        assert refusal(post(state, b'{"short-url":"%b"}' % url)) == Refusal.CATALOG_STALE
    assert refusal(post(state, b'{"short-url":"ftp://x/"}')) == Refusal.URL_SCHEME


def test_other_tenants_link() -> None:
    """Another tenant's link is the answer for none."""
    answers = [
        post(link_state(tenant="other"), EXAMPLE_BODY),
        post(make_state(), b'{"short-url":"http://shortdomain/nothing"}'),
    ]
    assert [refusal(answer) for answer in answers] == [Refusal.LINK_OF_OTHER_TENANT, Refusal.LINK_UNKNOWN]
    assert answers[0][:3] == answers[1][:3]


def test_prefix_link() -> None:
    """A link registered as prefix matches whole path segments below it, and travels in the record."""
    catalog = example_catalog()
    catalog.put("link", "s.ex/a", link_record("s.ex/a", match="prefix"))
    state = make_state(catalog)
    click = pending(post(state, b'{"short-url":"https://S.EX/a/b/c?d"}'))
    assert decode_raw(click.value).link["link"] == "s.ex/a"
    assert refusal(post(state, b'{"short-url":"https://s.ex/ab"}')) == Refusal.LINK_UNKNOWN


SENT = NOW_MS - 90 * DAY_MS
RETENTION = [
    ({"sent_at": SENT + 1}, None),
    ({"sent_at": SENT}, None),
    ({"sent_at": SENT - 1}, Refusal.RETENTION_PASSED),
    ({"sent_at": None, "registered_at": SENT}, None),
    ({"sent_at": None, "registered_at": SENT - 1}, Refusal.RETENTION_PASSED),
    ({"sent_at": SENT, "registered_at": 0}, None),
    ({"expires_at": NOW_MS + 1}, None),
    ({"expires_at": NOW_MS}, Refusal.LINK_EXPIRED),
    ({"expires_at": NOW_MS - 1}, Refusal.LINK_EXPIRED),
    ({"disabled": True}, Refusal.LINK_DISABLED),
]


@pytest.mark.parametrize(("changes", "expected"), RETENTION)
def test_not_recorded(changes: dict[str, Any], expected: Refusal | None) -> None:
    """A click past the retention period, or on an expired or disabled link, is 200 with code 1010 and no id."""
    result = post(link_state(**changes), EXAMPLE_BODY)
    if expected is None:
        pending(result)
        return
    assert isinstance(result, Answer)
    assert (result.status, result.reason, orjson.loads(result.body)["code"]) == (200, expected, "1010")
    assert b"transaction-id" not in result.body


def test_retention_of_the_tenant() -> None:
    """Each tenant has its own retention period."""
    catalog = example_catalog()
    catalog.put("tenant", "acme", {"v": 1, "tenant": "acme", "retention_days": 1})
    assert isinstance(post(make_state(catalog), EXAMPLE_BODY), PendingClick)
    assert refusal(post(make_state(catalog), EXAMPLE_BODY, now_ms=NOW_MS + 1)) == Refusal.RETENTION_PASSED


AHEAD = 300_000
CLICKED_AT = [
    (NOW_MS - 90 * DAY_MS - 1, True),
    (NOW_MS - 90 * DAY_MS, False),
    (NOW_MS, False),
    (NOW_MS + AHEAD, False),
    (NOW_MS + AHEAD + 1, True),
    ("2025-10-08T08:53:20Z", False),
    ("2025-10-08T08:53:20", True),
    ("yesterday", True),
    (0, True),
    (-1, True),
    (10**18, True),
    (1.5, True),
    (1e300, True),
    (None, False),
    ("", False),
]


@pytest.mark.parametrize(("clicked_at", "ignored"), CLICKED_AT)
def test_clicked_at(clicked_at: object, ignored: bool) -> None:
    """A clicked-at outside the retention period, too far ahead or without zone is ignored and marked."""
    click = pending(post(make_state(), body_of(clicked_at=clicked_at)))
    assert decode_raw(click.value).origin.clicked_at_ignored is ignored


def test_late_report_of_an_expired_link() -> None:
    """A click that happened before the link expired counts when it is reported later; an ignored time does not help."""
    state = link_state(expires_at=NOW_MS - 10, sent_at=NOW_MS - 91 * DAY_MS)
    pending(post(state, body_of(clicked_at=NOW_MS - 2 * DAY_MS)))
    assert refusal(post(state, body_of(clicked_at="yesterday"))) == Refusal.LINK_EXPIRED


def test_idempotency_key() -> None:
    """The same key gives the same id and partition, whatever the body and the time, and marks the click as suspect."""
    state = make_state()
    header = (b"idempotency-key", b"order-1")
    clicks = [
        pending(post(state, body, header, now_ms=NOW_MS + late))
        for body, late in ((EXAMPLE_BODY, 0), (body_of(), DAY_MS))
    ]
    expected = keyed_id("acme", "order-1", 6)
    assert {(click.key.decode(), click.partition, click.suspect) for click in clicks} == {
        (expected, partition_of(expected), True)
    }
    assert decode_raw(clicks[0].value).origin.suspect
    assert UUID(expected).version == 8


def test_idempotency_key_keeps_its_partition() -> None:
    """A topic that grew sends a key where it always went: by the partitions at creation."""
    catalog = example_catalog()
    stream = catalog.stream("clicks.raw")
    assert stream is not None
    catalog.put("stream", "clicks.raw", stream | {"partitions": 12})
    click = pending(post(make_state(catalog), EXAMPLE_BODY, (b"idempotency-key", b"k")))
    assert click.key.decode() == keyed_id("acme", "k", 6)


def test_idempotency_key_without_stream() -> None:
    """Before the stream is in the catalog a key has no partition: 500, to try again."""
    catalog = example_catalog()
    catalog.put("stream", "clicks.raw", None)
    assert refusal(post(make_state(catalog), EXAMPLE_BODY, (b"idempotency-key", b"k"))) == Refusal.CATALOG_NOT_READY


@pytest.mark.parametrize("values", [[b""], [b"a" * 129], [b"a b"], [b"\xe9"], [b"a", b"a"]])
def test_wrong_idempotency_key(values: list[bytes]) -> None:
    """A key that is not 1 to 128 visible ASCII characters, or given twice, is 499 with code 499."""
    answer = post(make_state(), EXAMPLE_BODY, *((b"idempotency-key", value) for value in values))
    assert isinstance(answer, Answer)
    assert (answer.status, orjson.loads(answer.body)["code"]) == (499, "499")


@pytest.mark.parametrize(("configured", "expected"), [(False, None), (True, 'okhttp/4 "x" é')])
def test_caller_user_agent(configured: bool, expected: str | None) -> None:
    """The caller's own User-Agent header travels only when the key is configured so."""
    catalog = example_catalog()
    catalog.put("key", "k1", key_record(caller_user_agent=configured))
    header = (b"user-agent", 'okhttp/4 "x" é'.encode("latin-1"))
    click = pending(post(make_state(catalog), EXAMPLE_BODY, header))
    assert decode_raw(click.value).origin.caller_user_agent == expected


@pytest.mark.parametrize("agent", [b"", b"  ", b"\xe9" * 5000])
def test_odd_caller_user_agent(agent: bytes) -> None:
    """An empty header is none, a long one is cut at 2,048 bytes."""
    catalog = example_catalog()
    catalog.put("key", "k1", key_record(caller_user_agent=True))
    raw = decode_raw(pending(post(make_state(catalog), EXAMPLE_BODY, (b"user-agent", agent))).value)
    assert raw.origin.caller_user_agent == ("é" * 1024 if agent.strip() else None)


def test_unauthenticated_body_is_not_parsed() -> None:
    """A stranger's body makes no difference."""
    state = make_state()
    assert {refusal(post(state, body, headers=[JSON_TYPE])) for body in (b"", b"[", b"x" * 99_999)} == {
        Refusal.AUTHORIZATION_MISSING
    }


def test_unpublished() -> None:
    """A click that could not be made durable is 500 without an id, with Retry-After and the throttle's headers."""
    state = make_state()
    answer = refuse_unpublished(state, answer_of(post(state, EXAMPLE_BODY)), Refusal.OUTCOME_UNKNOWN)
    assert (answer.status, answer.reason, b"transaction-id" in answer.body) == (500, Refusal.OUTCOME_UNKNOWN, False)
    assert dict(answer.headers).keys() == {b"retry-after", *RATE}


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (b"16384", None),
        (b"16385", Refusal.BODY_TOO_LARGE),
        (b"9" * 5000, Refusal.BODY_TOO_LARGE),
        (b"x", None),
        (b"\xb2", None),
    ],
)
def test_precheck_size(length: bytes, expected: Refusal | None) -> None:
    """A Content-Length over the limit is refused before the body comes, and closes."""
    state = make_state()
    answer = precheck(state, b"POST", (*HEADERS, (b"content-length", length)), PEER, NOW_MS)
    assert (answer.reason if answer else None) == expected
    assert answer is None or answer.close


def test_precheck() -> None:
    """What the head alone refuses is refused early; a click is counted once, by whoever answers."""
    catalog = example_catalog()
    catalog.put("key", "k1", key_record(rate_limit=2))
    state = make_state(catalog)
    large = (*HEADERS, (b"content-length", b"99999"))
    for method, headers, expected in ((b"GET", HEADERS, Refusal.METHOD), (b"POST", (), Refusal.AUTHORIZATION_MISSING)):
        answer = precheck(state, method, headers, PEER, NOW_MS)
        assert answer is not None
        assert answer.reason == expected
    assert precheck(state, b"POST", HEADERS, PEER, NOW_MS) is None
    pending(post(state, EXAMPLE_BODY))
    assert precheck(state, b"POST", large, PEER, NOW_MS).reason == Refusal.BODY_TOO_LARGE  # type: ignore[union-attr]
    assert precheck(state, b"POST", large, PEER, NOW_MS).reason == Refusal.THROTTLED  # type: ignore[union-attr]
    assert precheck(state, b"POST", HEADERS, PEER, NOW_MS).reason == Refusal.THROTTLED  # type: ignore[union-attr]


def test_oversized_while_streaming() -> None:
    """A body that grows past the limit is refused in the order of checks, and closes either way."""
    state = make_state()
    refused = refuse_oversized(state, b"POST", HEADERS, PEER, NOW_MS, body_bytes_max=8_192)
    assert refused[3:] == (True, Refusal.BODY_TOO_LARGE)
    assert b"The body has more than 8,192 bytes." in refused.body
    nobody = refuse_oversized(state, b"POST", (), PEER, NOW_MS, body_bytes_max=8_192)
    assert nobody[3:] == (True, Refusal.AUTHORIZATION_MISSING)


def test_two_secrets_one_throttle() -> None:
    """The limit is the key's, whichever of its secrets is used."""
    catalog = example_catalog()
    secrets = [{"digest": digest(text), "created_at": 0, "expires_at": None} for text in ("one", "two")]
    catalog.put("key", "k1", key_record(secrets=secrets, rate_limit=1))
    state = make_state(catalog)
    pending(post(state, EXAMPLE_BODY, headers=[(b"authorization", b"Bearer one")]))
    assert refusal(post(state, EXAMPLE_BODY, headers=[(b"authorization", b"Bearer two")])) == Refusal.THROTTLED


STATE = make_state(api_rate_limit=16_000_000)
ANY_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                b"content-type",
                b"content-encoding",
                b"content-length",
                b"idempotency-key",
                b"user-agent",
                b"x-forwarded-for",
                b"authorization",
            ]
        ),
        st.one_of(st.binary(max_size=20), st.sampled_from([b"application/json", AUTHORIZED[1]])),
    ),
    max_size=4,
)
ANY_BODY = st.one_of(
    st.binary(max_size=60),
    st.dictionaries(
        st.sampled_from(["short-url", "user-agent", "ip-address", "clicked-at", "x"]),
        st.one_of(
            st.none(),
            st.just(EXAMPLE_URL),
            st.text(max_size=20),
            st.integers(-(2**63), 2**63),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
    ).map(orjson.dumps),
)


@given(
    method=st.one_of(st.just(b"POST"), st.binary(max_size=5)),
    target=st.one_of(st.just(PATH), st.binary(max_size=10)),
    headers=st.one_of(st.just([]), ANY_HEADERS),
    authorized=st.booleans(),
    body=ANY_BODY,
    peer=st.one_of(st.just(PEER), st.text(max_size=10)),
    now_ms=st.integers(0, 1 << 45),
)
def test_any_request(
    method: bytes,
    target: bytes,
    headers: list[tuple[bytes, bytes]],
    authorized: bool,
    body: bytes,
    peer: str,
    now_ms: int,
) -> None:
    """Any request at all gets JSON with a transaction-id alone, or code and description."""
    if authorized:
        headers = [AUTHORIZED, *headers]
    result = handle(STATE, method, target, headers, body, peer, now_ms)
    early = precheck(STATE, method, headers, peer, now_ms)
    answers = [answer_of(result), *([early] if early else [])]
    for answer in answers:
        keys = orjson.loads(answer.body).keys()
        assert keys == ({"code", "description"} if answer.reason else {"transaction-id"})
    if isinstance(result, PendingClick):
        assert decode_raw(pending(result).value).transaction_id == pending(result).key.decode()
