"""Body and content headers -> click or refusal: the contract's edge cases as tables, and properties over any bytes."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingest_api.answers import Refusal, describe
from ingest_api.normalise import is_blank
from ingest_api.parse import (
    _LINE_TYPES,
    BATCH_TYPE,
    DEPTH_MAX,
    Click,
    Refused,
    check_content,
    check_fields,
    is_idempotency_key,
    is_plain,
    parse_click,
    parse_items,
    parse_line,
    plain_urls,
)
from shared.clicked_at import clicked_at_ms
from tests.support.catalog import EXAMPLE_BODY, EXAMPLE_URL

URL = b'"short-url":"http://s.ex/a"'


def nested(depth: int) -> bytes:
    """A click whose deepest array or object is on level `depth`."""
    return b'{%b,"x":%b%b}' % (URL, b"[" * (depth - 1), b"]" * (depth - 1))


NOT_JSON = {
    "empty": (b"", Refusal.BODY_EMPTY),
    "white space": (b" \r\n", Refusal.BODY_EMPTY),
    "byte order mark only": (b"\xef\xbb\xbf", Refusal.BODY_EMPTY),
    "null": (b"null", Refusal.NOT_AN_OBJECT),
    "array": (b"[{%b}]" % URL, Refusal.NOT_AN_OBJECT),
    "string": (b'"http://s.ex/a"', Refusal.NOT_AN_OBJECT),
    "number": (b"1", Refusal.NOT_AN_OBJECT),
    "boolean": (b"true", Refusal.NOT_AN_OBJECT),
    "truncated": (b"{%b" % URL, Refusal.NOT_JSON),
    "trailing comma": (b"{%b,}" % URL, Refusal.NOT_JSON),
    "trailing garbage": (b"{%b}x" % URL, Refusal.NOT_JSON),
    "two objects": (b"{%b}{%b}" % (URL, URL), Refusal.NOT_JSON),
    "NaN": (b'{%b,"x":NaN}' % URL, Refusal.NOT_JSON),
    "Infinity": (b'{%b,"x":-Infinity}' % URL, Refusal.NOT_JSON),
    "infinite number": (b'{%b,"x":1e999}' % URL, Refusal.NOT_JSON),
    "comment": (b"{/* */%b}" % URL, Refusal.NOT_JSON),
    "single quotes": (b"{'short-url':'http://s.ex/a'}", Refusal.NOT_JSON),
    "form": (b"short-url=http%3A%2F%2Fs.ex%2Fa", Refusal.NOT_JSON),
    "invalid UTF-8": (b'{%b,"x":"\xff"}' % URL, Refusal.NOT_JSON),
    "overlong UTF-8": (b'{%b,"x":"\xc0\xaf"}' % URL, Refusal.NOT_JSON),
    "UTF-16": ('{"short-url":"http://s.ex/a"}'.encode("utf-16"), Refusal.NOT_JSON),
    "UTF-16 without mark": ('{"short-url":"http://s.ex/a"}'.encode("utf-16-le"), Refusal.NOT_JSON),
    "lone surrogate": (b'{%b,"x":"\\ud800"}' % URL, Refusal.NOT_JSON),
    "lone low surrogate": (b'{%b,"x":"\\udc00"}' % URL, Refusal.NOT_JSON),
    "surrogate in UTF-8": (b'{%b,"x":"\xed\xa0\x80"}' % URL, Refusal.NOT_JSON),
    "raw control character": (b'{%b,"x":"a\0b"}' % URL, Refusal.NOT_JSON),
    "two byte order marks": (b"\xef\xbb\xbf\xef\xbb\xbf{%b}" % URL, Refusal.NOT_JSON),
    "arrays without end": (b"[" * 16_000, Refusal.NOT_JSON),
    "objects without end": (b'{"a":' * 3_000, Refusal.NOT_JSON),
    "too deep": (nested(DEPTH_MAX + 1), Refusal.TOO_DEEP),
    "much too deep": (nested(1_000), Refusal.TOO_DEEP),
    "deep and overwritten": (b'{%b,"x":%b%b,"x":1}' % (URL, b"[" * 1_000, b"]" * 1_000), Refusal.TOO_DEEP),
    "deep, overwritten and escaped": (
        b'{%b,"\\u0078":%b%b,"x":1}' % (URL, b'{"a":' * 1_000 + b"1", b"}" * 1_000),
        Refusal.TOO_DEEP,
    ),
}
DOUBLED = {
    "short-url": b'{%b,"short-url":"b"}' % URL,
    "same value": b"{%b,%b}" % (URL, URL),
    "user-agent": b'{%b,"user-agent":"a","user-agent":"b"}' % URL,
    "ip-address": b'{%b,"ip-address":"a","ip-address":null}' % URL,
    "clicked-at": b'{%b,"clicked-at":1,"clicked-at":2}' % URL,
    "escaped hyphen": b'{%b,"short\\u002durl":"b"}' % URL,
    "escaped hyphen, capitals": b'{%b,"short\\u002Durl":"b"}' % URL,
    "both escaped": b'{"short\\u002durl":"a","\\u0073hort-url":"b"}',
    "white space before the colon": b'{%b,"short-url"  :"b"}' % URL,
    "with escapes of other kinds": b'{%b,"x":"\\u00e9\\/","user-agent":"","user-agent":""}' % URL,
    "with long numbers": b'{%b,"short-url":"b","x":%b,"y":1e%b1}' % (URL, b"9" * 300, b"0" * 5_000),
}
NOT_DOUBLED = {
    "as a value": b'{%b,"x":"short-url"}' % URL,
    "nested": b'{%b,"x":{"short-url":"b","user-agent":"c"}}' % URL,
    "nested first": b'{"x":[{"short-url":"b"}],%b}' % URL,
    "nested and doubled there": b'{%b,"x":{"short-url":"b","short-url":"c"}}' % URL,
    "quoted inside a string": b'{%b,"x":"\\"short-url\\"","y":"\\"short-url"}' % URL,
    "escaped once": b'{"short\\u002durl":"http://s.ex/a"}',
    "escaped backslash": b'{%b,"short\\\\u002durl":"b"}' % URL,
    "unknown field twice": b'{%b,"x":1,"x":2}' % URL,
}
WRONG_TYPES = [
    (name, value)
    for name in ("short-url", "user-agent", "ip-address")
    for value in (b"1", b"1.5", b"true", b"[]", b"{}", b'["a"]')
] + [("clicked-at", value) for value in (b"true", b"[]", b"{}")]


@pytest.mark.parametrize(("body", "refusal"), NOT_JSON.values(), ids=NOT_JSON.keys())
def test_not_json(body: bytes, refusal: Refusal) -> None:
    """What is not one JSON object in UTF-8 is refused, and the reason says how."""
    refused = parse_click(body)
    assert isinstance(refused, Refused)
    assert refused.refusal is refusal


def test_published_example() -> None:
    """The published body is taken, line breaks and leading space included, and kept byte for byte."""
    assert parse_click(EXAMPLE_BODY) == Click(EXAMPLE_URL, None, EXAMPLE_BODY)


def test_byte_order_mark() -> None:
    """A UTF-8 byte order mark is taken off, so that the raw record stays JSON."""
    assert parse_click(b"\xef\xbb\xbf" + EXAMPLE_BODY) == Click(EXAMPLE_URL, None, EXAMPLE_BODY)


def test_words_name_the_depth() -> None:
    """The limit in the refusal's words is the one that holds."""
    assert f"more than {DEPTH_MAX} deep" in describe(Refusal.TOO_DEEP)


@pytest.mark.parametrize("depth", [DEPTH_MAX - 1, DEPTH_MAX])
def test_depth(depth: int) -> None:
    """Nesting up to the limit is fine in fields that nobody reads."""
    assert isinstance(parse_click(nested(depth)), Click)


def test_brackets_in_strings() -> None:
    """Brackets inside strings, after escaped quotes too, are text."""
    text = b'"' + b'\\"[{' * 50 + b'\\\\"'
    assert isinstance(parse_click(b'{%b,"x":%b,%b:1}' % (URL, text, text)), Click)


def test_many_shallow_brackets() -> None:
    """The limit is on depth, not on the number of arrays and objects."""
    assert isinstance(parse_click(b'{%b,"x":[%b]}' % (URL, b",".join([b"[{}]"] * 1000))), Click)


@pytest.mark.parametrize("body", DOUBLED.values(), ids=DOUBLED.keys())
def test_doubled(body: bytes) -> None:
    """A known field that stands twice is refused, however it is spelt."""
    refused = parse_click(body)
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.FIELD_DOUBLED


@pytest.mark.parametrize("body", NOT_DOUBLED.values(), ids=NOT_DOUBLED.keys())
def test_not_doubled(body: bytes) -> None:
    """A known name elsewhere than twice at the top is fine, and the top one is read."""
    click = parse_click(body)
    assert isinstance(click, Click)
    assert click.short_url == "http://s.ex/a"


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES)
def test_wrong_type(name: str, value: bytes) -> None:
    """A known field of another type than documented is refused by name."""
    start = b"" if name == "short-url" else URL + b","
    refused = parse_click(b'{%b"%b":%b}' % (start, name.encode(), value))
    assert isinstance(refused, Refused)
    assert (refused.refusal, name in refused.detail) == (Refusal.FIELD_TYPE, True)


@pytest.mark.parametrize("name", ["user-agent", "ip-address", "clicked-at"])
@pytest.mark.parametrize("value", [b"null", b'""'])
def test_optional_not_given(name: str, value: bytes) -> None:
    """An optional field that is null or the empty string is as if it were not given."""
    click = parse_click(b'{%b,"%b":%b}' % (URL, name.encode(), value))
    assert isinstance(click, Click)
    assert click.clicked_at is None


@pytest.mark.parametrize("value", [b"null", b'""', b'" "', b'"\\t\\u00a0\\u200b\\ufeff"', None])
def test_short_url_missing(value: bytes | None) -> None:
    """short-url absent, null, empty or blank is the missing mandatory field."""
    body = b"{}" if value is None else b'{"short-url":%b}' % value
    assert parse_click(body) == Refused(Refusal.SHORT_URL_MISSING)


@pytest.mark.parametrize("name", ["short_url", "Short-Url", "shortUrl", "SHORT-URL", "shorturl", "short url"])
def test_misspelt(name: str) -> None:
    """A field that looks like short-url is not taken for it but named in a hint."""
    refused = parse_click(orjson.dumps({name: "http://s.ex/a"}))
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.SHORT_URL_MISSING
    assert f'"{name}"' in refused.detail


def test_wrong_type_before_missing() -> None:
    """JSON is checked before the mandatory field."""
    refused = parse_click(b'{"user-agent":1}')
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.FIELD_TYPE


@pytest.mark.parametrize("text", ["\\u0000", "\\u001b[31m", "\\r\\n", "\\u2028", "\\u202e"])
def test_control_characters(text: str) -> None:
    """Escaped controls in any string are no reason to refuse."""
    body = f'{{{URL.decode()},"user-agent":"a{text}b","{text}":1}}'.encode()
    assert isinstance(parse_click(body), Click)


@pytest.mark.parametrize(
    "address", ["203.0.113.5", "2001:db8::1", "[::1]:80", "fe80::1%eth0", "999.1.1.1", "10.0.0.1, x", "?", "\0"]
)
def test_address_is_never_a_reason(address: str) -> None:
    """Any string is taken as an address; what it is worth is judged later."""
    assert isinstance(parse_click(orjson.dumps({"short-url": "http://s.ex/a", "ip-address": address})), Click)


CONTENT_TYPES = {
    b"application/json": True,
    b"Application/JSON": True,
    b"application/json; charset=utf-8": True,
    b"application/json;charset=latin1;x=y": True,
    b" application/json ": True,
    b"application/vnd.api+json": True,
    b"application/problem+json; q=1": True,
    b"": True,
    b"application/x-www-form-urlencoded": False,
    b"text/json": False,
    b"text/plain": False,
    b"application/jsonp": False,
    b"application/+json": False,
    b"application/xml": False,
    b"application/json, text/plain": False,
    b"\x00\xff": False,
}


@pytest.mark.parametrize(("value", "fine"), CONTENT_TYPES.items())
def test_content_type(value: bytes, fine: bool) -> None:
    """JSON types with any parameters are fine; the refusal of others names them."""
    refused = check_content([value], [])
    assert (refused is None) is fine
    assert refused is None or refused.refusal is Refusal.CONTENT_TYPE


def test_content_headers_absent_or_doubled() -> None:
    """No content headers are fine; of two, each is judged."""
    assert check_content([], []) is None
    assert check_content([b"application/json", b"text/plain"], []) is not None


@pytest.mark.parametrize("value", [b"application/x-ndjson", b"application/jsonl", b"application/json"])
def test_batch_content_type(value: bytes) -> None:
    """A batch may also say that it is NDJSON."""
    assert check_content([value], [], BATCH_TYPE) is None


@pytest.mark.parametrize(
    ("value", "fine"),
    [(b"identity", True), (b"Identity", True), (b"", True), (b"gzip", False), (b"identity, br", False)],
)
def test_content_encoding(value: bytes, fine: bool) -> None:
    """Only the identity encoding is taken."""
    assert check_content([], [value]) == (None if fine else Refused(Refusal.CONTENT_ENCODING))


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("a", True),
        ("~" * 127, True),
        ("!" * 128, True),
        ("a" * 129, False),
        ("", False),
        ("a b", False),
        ("é", False),
        ("a\n", False),
    ],
)
def test_idempotency_key(text: str, fine: bool) -> None:
    """1 to 128 visible ASCII characters."""
    assert is_idempotency_key(text) is fine


CLICKED_AT = {
    "2025-10-09T08:53:20Z": 1_760_000_000_000,
    "2025-10-09T08:53:20.123Z": 1_760_000_000_123,
    "2025-10-09T08:53:20.1239Z": 1_760_000_000_123,
    "2025-10-09t08:53:20z": 1_760_000_000_000,
    "2025-10-09 14:23:20+05:30": 1_760_000_000_000,
    "20251009T085320+0000": 1_760_000_000_000,
    " 2025-10-09T08:53:20Z ": 1_760_000_000_000,
    "1760000000000": 1_760_000_000_000,
    1_760_000_000_000: 1_760_000_000_000,
    1_760_000_000_001.0: 1_760_000_000_001,
    -1: -1,
    1e300: int(1e300),
    1_760_000_000_000.5: None,
    "2025-10-09T08:53:20": None,
    "2025-10-09": None,
    "yesterday": None,
    "2025-13-09T08:53:20Z": None,
    "0001-01-01T00:00:00+23:59": -62_135_683_140_000,
    "9999-12-31T23:59:59-23:59": 253_402_387_139_000,
    "": None,
    "٢٠٢٥": None,
    "1" * 41: None,
    True: None,
    None: None,
}


@pytest.mark.parametrize(("value", "moment_ms"), CLICKED_AT.items())
def test_clicked_at(value: object, moment_ms: int | None) -> None:
    """ISO 8601 with zone or epoch milliseconds; anything else is no time."""
    assert clicked_at_ms(value) == moment_ms


def test_line_brings_its_own_key() -> None:
    """The field idempotency-key counts in a batch only, and is known there."""
    line = b'{%b,"idempotency-key":"k"}' % URL
    in_batch, single = parse_line(line), parse_click(line)
    assert isinstance(in_batch, Click)
    assert isinstance(single, Click)
    assert (in_batch.idempotency_key, single.idempotency_key) == ("k", None)
    wrong = parse_line(b'{%b,"idempotency-key":1}' % URL)
    assert isinstance(wrong, Refused)
    assert isinstance(parse_click(b'{%b,"idempotency-key":1}' % URL), Click)


def test_items() -> None:
    """Each item of an array is judged by itself, doubled fields included."""
    items = parse_items(
        b'[{%b},{"short-url":"a","short-url":"b"},1,{"short\\u002durl":"a","short-url":"b"},{"x":"short-url"}]' % URL,
        1000,
    )
    assert isinstance(items, list)
    assert [item.refusal if isinstance(item, Refused) else item.short_url for item in items] == [
        "http://s.ex/a",
        Refusal.FIELD_DOUBLED,
        Refusal.NOT_AN_OBJECT,
        Refusal.FIELD_DOUBLED,
        Refusal.SHORT_URL_MISSING,
    ]


@pytest.mark.parametrize(
    "body",
    [
        b'[{"x":%b%b,"x":"\\u0078"}]' % (b"[" * 900, b"]" * 900),
        b"[",
        b"[1,]",
        b'["\\ud800"]',
        b"[" * 2000,
        b"[" * 900 + b"]" * 900,
    ],
)
def test_items_unreadable(body: bytes) -> None:
    """An array that cannot be split into items is refused whole."""
    assert isinstance(parse_items(body, 1000), Refused)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["short-url", "user-agent", "clicked-at", "x", "short_url"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(st.one_of(st.binary(max_size=80), JSON.map(orjson.dumps), JSON.map(lambda value: b"[%b]" % orjson.dumps(value))))
@example(b'{"short-url":"\\ud800"}')
@example(b"[" * 1100)
def test_any_bytes(body: bytes) -> None:
    """Any bytes are a click or a refusal, as a single click, a line and an array."""
    for result in (parse_click(body), parse_line(body)):
        assert isinstance(result, Click | Refused)
        if isinstance(result, Click):
            assert orjson.loads(b'{"click":%b}' % result.raw)["click"]["short-url"] == result.short_url
    assert isinstance(parse_items(body, 1000), list | Refused)


@given(st.one_of(st.text(max_size=42), st.integers(), st.floats(), st.booleans(), st.datetimes().map(str)))
def test_any_clicked_at(value: object) -> None:
    """Any value is a time or none."""
    moment = clicked_at_ms(value)
    assert moment is None or isinstance(moment, int)


NAME = st.sampled_from(
    ["short-url", "user-agent", "clicked-at", "idempotency-key", "x", "", "short\\u002durl", '\\"', "{["]
)
SCALAR = st.sampled_from(
    ["1", "1.5", "true", "null", '""', '"a"', '"\\\\"', '"\\""', '"\\u0022"', '"{[:,"', '"short-url"']
)


def _object(pairs: list[tuple[str, str]]) -> str:
    """An object's text; a name may stand in it more than once."""
    return "{" + ", ".join(f'"{name}" :{value}' for name, value in pairs) + "}"


VALUE = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=2).map(lambda items: f"[{','.join(items)}]")
        | st.lists(st.tuples(NAME, inner), max_size=2).map(_object)
    ),
    max_leaves=4,
)


@given(st.lists(st.tuples(NAME, SCALAR | VALUE), max_size=5).map(_object))
@example('{"x":' + "[" * 40 + "]" * 40 + "}")
@example('{"x":' + "[" * 40 + "]" * 40 + ',"x":"a"}')
@example('{"short-url":1,"short-url":"a"}')
@example('{"x":1,"short-url":null,"short-url":null}')
def test_plain_has_nothing_to_find(text: str) -> None:
    """What the quick look takes for plain, the thorough check finds nothing in; flat clicks without escapes are plain."""
    raw = text.encode()
    fields = orjson.loads(raw)
    found = check_fields(fields, raw, _LINE_TYPES)
    if is_plain(fields, raw, _LINE_TYPES):
        assert found is None
    elif found is None:
        is_flat = raw.count(b"{") + raw.count(b"[") == 1
        assert not is_flat or b'\\"' in raw or len(fields) < raw.count(b":")


PLAIN = (
    '{"short-url":"http://s.ex/a"}',
    '{"short-url": "b", "user-agent": null}',
    '{"x":"1","y":"2","short-url":"\\u0022"}',
    '{\n  "short-url": "c"\n}\n',
)
PIECES = st.lists(
    st.sampled_from(
        (
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            '"',
            "\\",
            "\r",
            " ",
            "1",
            "null",
            '"a"',
            '"short-url"',
            '"clicked-at"',
            '"a":"b"',
            '"short-url":"u"',
            '{"x":1}',
            '"x":{}',
            '"x":[{}',
            "{}]",
            "},{",
            "],[",
            ",0,",
            ",\n0,",
            "\n",
            "ü",
        )
    ),
    max_size=6,
).map("".join)
LINES = st.lists(
    st.one_of(
        st.sampled_from(PLAIN),
        st.sampled_from(PLAIN),
        PIECES,
        PIECES.map(lambda inner: f"{{{inner}}}"),
        PIECES.map(lambda inner: f'{{"short-url":"u",{inner}}}'),
        st.lists(st.tuples(NAME, SCALAR | VALUE), max_size=5).map(_object),
    ),
    min_size=1,
    max_size=5,
)


@given(LINES)
@example(["1],[2"])
@example(['{"short-url":"a"},{"short-url":"b"}', '{"x":[{}', '{"short-url":"c"}]}'])
@example(['{"short-url":"a"},{"short-url":"b"}', '{"x":[{}', '{}],"x":"c","short-url":"d"}'])
@example(['{"short-url":"a', '"}'])
@example(['{"short-url":"a"},0,{"short-url":"b"}', '{"x":"1', '2"}'])
@example(['{"short-url":"a"},0,{"short-url":"b"}', '{"x":"1"', '"short-url":"d"}'])
@example(['{"short-url":"a"},[1', '2],{"short-url":"b"}', '{"short-url":"c"}'])
@example(['{"short-url":"a"},0', '{"short-url":"b"}'])
@example(['{"short-url":"a"},0,', '{"short-url":"b"}'])
@example(['{\n"short-url":"a"\n}\n', '{"short-url":"b\n"}'])
@example(['{"short-url":"a","short-url":"b"}', PLAIN[0]])
@example(['{"short-url":"a","x":[1],"x":"b"}'])
@example(['{"short-url":"a"}', "{}"])
@example(['{"short-url":"a\\\\"}', '{"short-url":"\\"}"}'])
def test_plain_bodies_are_what_each_is_by_itself(lines: list[str]) -> None:
    """Where bodies are taken together, each by itself is a click with that URL and nothing else to look at, or a blank one."""
    raw = [line.encode() for line in lines]
    urls = plain_urls(raw)
    if urls is None:
        assert not set(lines) <= set(PLAIN)
        return
    assert len(urls) == len(lines)
    for url, line in zip(urls, raw, strict=True):
        for found in (parse_line(line), parse_click(line)):
            assert found == Click(url, None, line) or (is_blank(url) and isinstance(found, Refused)), line
