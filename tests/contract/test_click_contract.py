"""The click endpoint over real HTTP against the real process on a real broker: every rule of the contract."""

from __future__ import annotations

import json
import re
import uuid

import pytest

from shared.ids import partition_of
from tests.support.api_service import CLICKS, DAY_MS, JSON, PARTITIONS, ApiService, Reply, now_ms
from tests.support.catalog import EXAMPLE_BODY, EXAMPLE_URL

TEXTS = {
    "1010": "The request was not processed.",
    "430": "Authorization failed. This resource is not allowed to access using this TOKEN or KEY",
    "498": "Invalid token or Access token expired",
    "405": "Method not supported",
    "429": "Too many requests. Throttle limit reached for the time window.",
    "499": "Request failed.",
    "500": "Internal server error",
    "1001": "Invalid input JSON",
    "1002": "Mandatory field missing",
    "1003": "Promotion does not exist for the URL given.",
}
STATUSES = {"1010": 200, "430": 401, "498": 401, "1001": 499, "1002": 499, "1003": 499}


def assert_refused(reply: Reply, code: str) -> None:
    """The published code, text and status, and the shape of every refusal."""
    assert reply.code == code
    assert reply.json["description"].startswith(TEXTS[code])
    assert reply.status == STATUSES.get(code, int(code))


def body(short_url: object = EXAMPLE_URL, **fields: object) -> bytes:
    """A click's body; field names with `_` for `-`."""
    found = {"short-url": short_url} | {name.replace("_", "-"): value for name, value in fields.items()}
    return json.dumps(found).encode()


# success


@pytest.mark.parametrize("prefix", ["/campaignapi", "/imicampaignapi"])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_published_example(api: ApiService, prefix: str, slash: str) -> None:
    """The page's example, byte for byte, is accepted on both prefixes and durable when the 200 is there."""
    reply = api.click(EXAMPLE_BODY, f"{prefix}/resources/v3/shortlinkclicks{slash}")
    assert (reply.status, reply.code) == (200, "")
    transaction_id = reply.json["transaction-id"]
    assert str(uuid.UUID(transaction_id)) == transaction_id
    assert uuid.UUID(transaction_id).version == 7
    raw = await api.raw_click(transaction_id)
    assert raw.origin.tenant == "acme"
    assert raw.click["user-agent"].startswith(" Mozilla")
    assert raw.link["promotion_id"] == "p1"
    assert partition_of(transaction_id) < PARTITIONS


async def test_the_same_by_asgi(api: ApiService) -> None:
    """A percent-encoded path goes by ASGI and gets the same answers from the same functions."""
    path = CLICKS.replace("clicks", "cl%69cks")
    assert api.click(EXAMPLE_BODY, path).code == ""
    assert_refused(api.click(b"{", path), "1001")
    assert_refused(api.click(EXAMPLE_BODY, path, authorization="Bearer wrong"), "498")
    assert_refused(api.click(b"x" * 20_000, path), "1001")
    refused = api.request("PUT", path)
    assert (refused.code, refused.headers["allow"]) == ("405", "POST")


def test_no_content_type_and_odd_ones(api: ApiService) -> None:
    """JSON types of any spelling, or none, are fine; others are refused with the reason."""
    for text in ("application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.click+json"):
        assert api.click(EXAMPLE_BODY, content_type=text).code == "", text
    bare = {"authorization": f"Bearer {api.click_key}"}
    assert api.request("POST", CLICKS, EXAMPLE_BODY, bare).code == ""
    for text in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data"):
        reply = api.click(EXAMPLE_BODY, content_type=text)
        assert_refused(reply, "1001")
        assert "content type" in reply.json["description"].lower()


def test_security_headers(api: ApiService) -> None:
    """No answer is cached or sniffed, on either lane."""
    for reply in (api.click(), api.get("/nowhere"), api.get("/livez"), api.get("/openapi.json")):
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "server" not in reply.headers


def test_rate_headers(api: ApiService) -> None:
    """Every authenticated answer says what is left of the limit."""
    for reply in (api.click(), api.click(b"{"), api.click(body("http://s.example/none"))):
        assert reply.headers["x-ratelimit-limit"] == "10000"
        assert 0 <= int(reply.headers["x-ratelimit-remaining"]) < 10_000
        assert int(reply.headers["x-ratelimit-reset"]) >= 1


# method, path


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
def test_other_methods(api: ApiService, method: str) -> None:
    """405 with Allow, before authorization; HEAD without a body."""
    reply = api.request(method, CLICKS)
    assert (reply.status, reply.headers["allow"]) == (405, "POST")
    if method == "HEAD":
        assert reply.body == b""
    else:
        assert_refused(reply, "405")


@pytest.mark.parametrize("path", ["/", "/campaignapi", CLICKS + "//", CLICKS.upper(), "/v1", "/docs", "/%00"])
def test_other_paths(api: ApiService, path: str) -> None:
    """404 in the same shape, with a key or without."""
    for reply in (api.click(EXAMPLE_BODY, path), api.get(path)):
        assert (reply.status, reply.code) == (404, "404")


# authorization


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer    ", " Bearer\t"])
@pytest.mark.parametrize("tail", ["", "   "])
def test_authorization_spellings(api: ApiService, scheme: str, tail: str) -> None:
    """Any case, several spaces, white space at either end."""
    assert api.click(authorization=scheme + api.click_key + tail).code == ""


@pytest.mark.parametrize(
    "text", ["", "Bearer", "Bearer ", "Basic dTpw", "{key}", "Bearer $(key)", "Bearer {key} x", "Bearer {key},{key}"]
)
def test_malformed_authorization(api: ApiService, text: str) -> None:
    """No scheme, another scheme, no token, two tokens, an unfilled variable: 498."""
    assert_refused(api.click(authorization=text.replace("{key}", api.click_key)), "498")


def test_missing_doubled_unknown(api: ApiService) -> None:
    """No header, two headers, an unknown key: 498; the body does not matter."""
    assert_refused(api.request("POST", CLICKS, EXAMPLE_BODY, JSON), "498")
    assert_refused(api.request("POST", CLICKS, b"{", JSON), "498")
    two = {**JSON, "authorization": f"Bearer {api.click_key}", "Authorization": f"Bearer {api.click_key}"}
    assert_refused(api.request("POST", CLICKS, EXAMPLE_BODY, two), "498")
    assert_refused(api.click(authorization="Bearer unknown"), "498")


def test_wrong_grant(api: ApiService) -> None:
    """A valid key without the grant is 401/430, and authenticated."""
    reply = api.click(authorization=f"Bearer {api.admin_key}")
    assert_refused(reply, "430")
    assert "x-ratelimit-limit" in reply.headers


async def test_keys_expire_roll_and_are_revoked(api: ApiService) -> None:
    """An expired secret is 498, both secrets of a key work, a revocation arrives within moments."""
    await api.put([api.key_entry("late", "late-secret", expires_at=now_ms() - 1)])
    both = api.key_entry("both", "first-secret")
    assert both.value is not None
    second = api.key_entry("both", "second-secret").value
    assert second is not None
    both.value["secrets"].extend(second["secrets"])
    await api.put([both])
    await api.until(lambda: api.click(authorization="Bearer second-secret").status == 200)
    assert api.click(authorization="Bearer first-secret").code == ""
    assert_refused(api.click(authorization="Bearer late-secret"), "498")
    await api.put([both._replace(value=dict(both.value) | {"revoked": True})])
    await api.until(lambda: api.click(authorization="Bearer first-secret").status == 401)
    assert_refused(api.click(authorization="Bearer second-secret"), "498")


# JSON

NOT_JSON = {
    "empty": b"",
    "blank": b"  \n ",
    "null": b"null",
    "array": b"[]",
    "string": b'"x"',
    "number": b"1",
    "truncated": EXAMPLE_BODY[:40],
    "trailing comma": b'{"short-url":"http://shortdomain/x",}',
    "trailing garbage": EXAMPLE_BODY + b"x",
    "two objects": b"{}{}",
    "NaN": b'{"short-url":"http://shortdomain/x","x":NaN}',
    "comment": b'{"short-url":"http://shortdomain/x"/**/}',
    "single quotes": b"{'short-url':'x'}",
    "invalid UTF-8": b'{"short-url":"http://shortdomain/\xff"}',
    "UTF-16": EXAMPLE_BODY.decode().encode("utf-16"),
    "lone surrogate": b'{"short-url":"http://shortdomain/\\ud800"}',
    "short-url twice": b'{"short-url":"http://shortdomain/a","short-url":"http://shortdomain/b"}',
    "short-url twice, escaped": b'{"short-url":"http://shortdomain/a","short\\u002durl":"http://shortdomain/b"}',
    "ip twice": b'{"short-url":"http://shortdomain/a","ip-address":"1.1.1.1","ip-address":"2.2.2.2"}',
    "short-url number": b'{"short-url":1}',
    "short-url object": b'{"short-url":{}}',
    "user-agent number": b'{"short-url":"http://shortdomain/a","user-agent":1}',
    "ip array": b'{"short-url":"http://shortdomain/a","ip-address":[]}',
    "deep": b'{"short-url":"http://shortdomain/a","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
}


@pytest.mark.parametrize("wire", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_invalid_json(api: ApiService, wire: bytes) -> None:
    """1001 for what is not one JSON object with known fields of the right type, each once."""
    assert_refused(api.click(wire), "1001")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, identity"])
def test_content_encoding(api: ApiService, encoding: str) -> None:
    """A compressed body is 1001; identity is none."""
    assert_refused(api.click(content_encoding=encoding), "1001")
    assert api.click(content_encoding="identity").code == ""


def test_bom_null_and_unknown_fields(api: ApiService) -> None:
    """A BOM is stripped, null and '' of optional fields are absent, unknown fields are ignored."""
    assert api.click(b"\xef\xbb\xbf" + EXAMPLE_BODY).code == ""
    assert api.click(body(user_agent=None, ip_address="")).code == ""
    assert api.click(body(extra={"a": [1]}, another=None)).code == ""
    assert api.click(body(user_agent="a\u0000b\n\u0007", ip_address="\u0000")).code == ""


@pytest.mark.parametrize("size", [16_384, 16_385])
def test_body_limit(api: ApiService, size: int) -> None:
    """16 KiB pass; one byte more is 1001 and the end of the connection."""
    wire = EXAMPLE_BODY[:-2] + b" " * (size - len(EXAMPLE_BODY)) + EXAMPLE_BODY[-2:]
    assert len(wire) == size
    reply = api.click(wire)
    if size == 16_384:
        assert reply.code == ""
    else:
        assert_refused(reply, "1001")
        assert reply.headers["connection"] == "close"


@pytest.mark.parametrize("value", ["absent", None, "", "   ", "\u200b"])
def test_missing_short_url(api: ApiService, value: object) -> None:
    """Absent, null, empty or blank: 1002."""
    assert_refused(api.click(b'{"x":1}' if value == "absent" else body(value)), "1002")


@pytest.mark.parametrize("name", ["short_url", "Short-Url", "shortUrl"])
def test_misspelt_short_url(api: ApiService, name: str) -> None:
    """A near miss is 1002 with a hint."""
    reply = api.click(json.dumps({name: EXAMPLE_URL}).encode())
    assert_refused(reply, "1002")
    assert name in reply.json["description"]


# links


@pytest.mark.parametrize(
    "short_url",
    [
        "shortdomain/dsltrack/employee/j460A8",
        "https://SHORTDOMAIN/dsltrack/employee/j460A8/",
        " <http://shortdomain/dsltrack/employee/j460A8>. ",
        '"http://shortdomain:80/dsltrack//x/../employee/j460%418?utm=1#top"',
        "http://shortdomain./dsltrack/employee/j460A8).",
        "http://s.example/campaign/any/thing",
    ],
)
def test_short_url_spellings(api: ApiService, short_url: str) -> None:
    """Spellings of a registered URL, and paths below a registered prefix, are the link."""
    assert api.click(body(short_url)).code == ""


@pytest.mark.parametrize(
    "short_url",
    [
        "http://shortdomain/dsltrack/employee/J460A8",
        "http://shortdomain:8080/dsltrack/employee/j460A8",
        "ftp://shortdomain/dsltrack/employee/j460A8",
        "http://user@shortdomain/dsltrack/employee/j460A8",
        "http://s.example/campaigns",
        "http://s.example/rival",
        "http://[::1",
        "x" * 2_049,
        "not a url",
    ],
)
def test_unknown_links(api: ApiService, short_url: str) -> None:
    """Another case, port, scheme, user info, a half segment, another tenant's link, nonsense: 1003."""
    assert_refused(api.click(body(short_url)), "1003")


def test_another_tenants_link_looks_like_none(api: ApiService) -> None:
    """The answer for a foreign link is byte for byte the one for no link; its owner may use it."""
    assert api.click(body("http://s.example/rival")).body == api.click(body("http://s.example/nothing")).body
    assert api.click(body("http://s.example/rival"), authorization=f"Bearer {api.rival_key}").code == ""


@pytest.mark.parametrize("link", ["old", "expired", "disabled"])
def test_not_recorded_on_purpose(api: ApiService, link: str) -> None:
    """Past retention, expired or disabled: 200 with 1010 and no id."""
    assert_refused(api.click(body(f"http://s.example/{link}")), "1010")


async def test_clicked_at(api: ApiService) -> None:
    """A late click counts by its own time; an impossible time is ignored and marked."""
    in_time = now_ms() - 3_600_000
    reply = api.click(body(clicked_at=in_time))
    raw = await api.raw_click(reply.json["transaction-id"])
    assert raw.origin.clicked_at_ignored is False
    reply = api.click(body(clicked_at=now_ms() + 400_000))
    assert (await api.raw_click(reply.json["transaction-id"])).origin.clicked_at_ignored is True
    assert api.click(body("http://s.example/expired", clicked_at=now_ms() - 2 * DAY_MS)).code == ""


# Idempotency-Key


async def test_idempotency_key(api: ApiService) -> None:
    """The same key gives the same id in the same partition, marked suspect; another tenant's key gives another."""
    first, again = api.click(idempotency_key="abc"), api.click(idempotency_key="abc")
    transaction_id = first.json["transaction-id"]
    assert again.json["transaction-id"] == transaction_id
    assert uuid.UUID(transaction_id).version == 8
    found = [each for each in await api.raw_records_by_partition() if each[1].key == transaction_id.encode()]
    assert [partition for partition, _ in found] == [partition_of(transaction_id)] * 2
    records = [record for _, record in found]
    assert all(("suspect", b"1") in [tuple(header) for header in record.headers] for record in records)
    rival = api.click(body("http://s.example/rival"), authorization=f"Bearer {api.rival_key}", idempotency_key="abc")
    assert rival.json["transaction-id"] != transaction_id


@pytest.mark.parametrize("key", ["", "a b", "x" * 129, "é".encode().decode("latin-1")])
def test_bad_idempotency_key(api: ApiService, key: str) -> None:
    """Not 1 to 128 visible ASCII characters: 499/499; 128 are fine."""
    assert_refused(api.click(idempotency_key=key), "499")
    assert api.click(idempotency_key="x" * 128).code == ""


# order of checks


def test_order_of_checks(api: ApiService) -> None:
    """Method before authorization before grant before body before field before link."""
    wrong = {"authorization": "Bearer wrong"}
    assert_refused(api.request("PUT", CLICKS, b"{", wrong), "405")
    assert_refused(api.click(b"x" * 20_000, authorization="Bearer wrong"), "498")
    assert_refused(api.click(b"x" * 20_000, authorization=f"Bearer {api.admin_key}"), "430")
    assert_refused(api.click(b"{", content_type="text/plain"), "1001")
    assert_refused(api.click(b"{}"), "1002")


# readiness, documentation, metrics


def test_health(api: ApiService) -> None:
    """Alive and ready, with the catalog version that is served."""
    assert api.get("/livez").json == {"status": "alive"}
    ready = api.get("/readyz")
    assert (ready.status, ready.json["status"]) == (200, "ready")
    assert ready.json["catalog_version"] >= 0
    assert api.request("GET", "/readyz", port=api.health_port()).status == 200


def test_openapi_describes_the_endpoints(api: ApiService) -> None:
    """The document has the published example and texts, unique operation ids, and no 422."""
    document = api.get("/openapi.json").json
    click = document["paths"][CLICKS]["post"]
    example = click["requestBody"]["content"]["application/json"]["example"]
    assert example == json.loads(EXAMPLE_BODY)
    shown = json.dumps(click["responses"])
    assert all(text in shown for code, text in TEXTS.items() if code != "500")
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all("422" not in operation["responses"] for operation in operations)
    assert {"/v1/clicks", "/v1/links", "/v1/links/resolve", "/v1/promotions", "/livez", "/readyz"} <= set(
        document["paths"]
    )


async def test_counters(api: ApiService) -> None:
    """Every answer is counted by code and reason, and each counter stands once."""

    def metrics() -> str:
        return api.request("GET", "/metrics", port=api.health_port()).body.decode()

    api.click()
    api.click(b"{")

    def counted(code: int, reason: str) -> bool:
        return bool(re.search(f'answers_total{{code="{code}",reason="{reason}"}} [1-9]', metrics()))

    await api.until(lambda: counted(1001, "not_json"))
    assert counted(200, "accepted")
    text = metrics()
    assert text.count("# TYPE clickledger_api_answers_total") == 1
    assert re.search(r'api_durable_seconds_bucket{le="\+Inf"} [1-9]', text)
    assert api.click_key not in text


async def test_refusals_beside_the_click_endpoint_are_counted(api: ApiService) -> None:
    """A path that is not there, a wrong method or parameter and a foreign key have a counter by reason too."""
    api.get("/nowhere")
    api.admin("PUT", "/v1/links")
    api.admin("GET", "/v1/links?limit=0")
    api.admin("GET", "/v1/links?short_url=x", key=api.click_key)
    api.admin("GET", "/v1/links?short_url=x", key="wrong")
    wanted = (
        'code="404",reason="path_unknown"',
        'code="405",reason="method"',
        'code="400",reason="http_400"',
        'code="403",reason="grant_missing"',
        'code="401",reason="key_unknown"',
    )

    def counted() -> bool:
        text = api.request("GET", "/metrics", port=api.health_port()).body.decode()
        return all(re.search(f"clickledger_api_answers_total{{{labels}}} [1-9]", text) for labels in wanted)

    await api.until(counted)
