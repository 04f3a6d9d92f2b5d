"""Body and content headers -> the fields of a click, or why not. Pure; never raises, whatever the bytes.

The body is kept byte for byte for the raw record; only a byte order mark is taken off, because a JSON object with one
in the middle would not be JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from types import NoneType
from typing import Any, Final, NamedTuple

import orjson

from ingest_api.answers import Refusal
from ingest_api.normalise import is_blank

DEPTH_MAX: Final = 32
"""Levels of arrays and objects. The raw record adds one, and orjson reads 1,024: what passes here must pass there."""

SHORT_URL: Final = "short-url"
CLICKED_AT: Final = "clicked-at"
IDEMPOTENCY_KEY: Final = "idempotency-key"

_BOM: Final = b"\xef\xbb\xbf"
_BACKSLASH: Final = 0x5C
_APART: Final = b",\n0,"
"""Between bodies that are decoded together: no string may hold a line feed, and no name is a number."""
_UNICODE_ESCAPE: Final = b"\\u"
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    SHORT_URL: (str,),
    "user-agent": (str,),
    "ip-address": (str,),
    CLICKED_AT: (str, int, float),
}
_LINE_TYPES: Final[Mapping[str, tuple[type, ...]]] = {**_TYPES, IDEMPOTENCY_KEY: (str,)}
_READ_BY_ITSELF: Final = frozenset((CLICKED_AT, IDEMPOTENCY_KEY))
"""Fields that `plain_urls` leaves to `parse_click` and `parse_line`."""
_SCALARS: Final = (bool, int, float)
"""What a field that nobody reads may hold, beside texts and null, without being looked at closely."""
_TYPE_NAMES: Final = {CLICKED_AT: "a string or a number"}
_QUOTED: Final[Mapping[str, bytes]] = {name: b'"%b"' % name.encode() for name in _LINE_TYPES}

_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")

_QUOTED_CHARS_MAX: Final = 64
"""Characters of a client's text that a description repeats."""
_VISIBLE_ASCII: Final = re.compile(r"[!-~]{1,128}")
JSON_TYPE: Final = re.compile(rb"application/(?:json|[!#$&^_.+a-z0-9-]+\+json)", re.IGNORECASE)
BATCH_TYPE: Final = re.compile(
    rb"application/(?:json|(?:x-)?(?:ndjson|jsonl|json-?lines)|[!#$&^_.+a-z0-9-]+\+json)", re.IGNORECASE
)


class Refused(NamedTuple):
    """Why a request or a line was not accepted; `detail` replaces the refusal's own words when not empty."""

    refusal: Refusal
    detail: str = ""


def too_large(what: str, bytes_max: int) -> str:
    """The words for a body or a click that is too large, with its limit."""
    return f"The {what} has more than {bytes_max:,} bytes."


class Click(NamedTuple):
    """The fields of a click that the API looks at."""

    short_url: str
    """As sent, not blank."""
    clicked_at: str | int | float | None
    """As sent; None when not given."""
    raw: bytes
    """A JSON object: the body as sent, without byte order mark."""
    idempotency_key: str | None = None
    """Only from a line of a batch; a single click brings it as a header."""


def check_content(
    content_types: Sequence[bytes], content_encodings: Sequence[bytes], fine: re.Pattern[bytes] = JSON_TYPE
) -> Refused | None:
    """Judge the values of all Content-Type and Content-Encoding headers; None when the body may be read as JSON."""
    for value in content_types:
        if value == b"application/json":
            continue
        media_type = value.partition(b";")[0].strip()
        if media_type and not fine.fullmatch(media_type):
            return Refused(
                Refusal.CONTENT_TYPE, f"The content type must be application/json, not {_quote(media_type)}."
            )
    for value in content_encodings:
        if value.strip().lower() not in {b"", b"identity"}:
            return Refused(Refusal.CONTENT_ENCODING)
    return None


def is_idempotency_key(text: str) -> bool:
    """Whether `text` is 1 to 128 visible ASCII characters."""
    return _VISIBLE_ASCII.fullmatch(text) is not None


def without_bom(body: bytes) -> bytes:
    """The body without a UTF-8 byte order mark."""
    return body[3:] if body.startswith(_BOM) else body


def parse_click(body: bytes) -> Click | Refused:
    """Read the body of a single click."""
    body = without_bom(body)
    try:
        return check_click(orjson.loads(body), body, _TYPES)
    except orjson.JSONDecodeError as exc:
        return _not_json(body, exc)


def parse_line(line: bytes) -> Click | Refused:
    """Read one line of a batch in NDJSON."""
    try:
        return check_click(orjson.loads(line), line, _LINE_TYPES)
    except orjson.JSONDecodeError as exc:
        return _not_json(line, exc)


def plain_urls(bodies: Sequence[bytes]) -> list[str] | None:
    """The `short-url` of each body when `parse_click` finds a click with nothing but texts in every one of them.

    None when any body is to be read by itself: it is broken, nested or brings a number, a key or a time of its own. They are
    decoded as one array with a nought between two of them. That is the same as one by one: no string goes over the line
    feed at each nought, no object has a number where a name must be, and nothing is nested (no member is hidden, see
    `is_plain`). So all noughts are items of the array, those between its objects, and each body is the object between two.
    """
    text = b"[%b]" % _APART.join(bodies)
    if _BACKSLASH in text and b'\\"' in text:
        return None
    try:
        items: list[Any] = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    objects = items[::2]
    is_in_turn = len(items) == 2 * len(bodies) - 1 and items[1::2].count(0) == len(bodies) - 1
    if not is_in_turn or set(map(type, objects)) != {dict}:
        return None
    kinds = list(map(type, chain.from_iterable(map(dict.values, objects))))
    strings = kinds.count(str)
    if strings + kinds.count(NoneType) != len(kinds) or text.count(b'"') != 2 * (len(kinds) + strings):
        return None
    if not _READ_BY_ITSELF.isdisjoint(set().union(*objects)):
        return None
    urls = [item.get(SHORT_URL) for item in objects]
    return urls if all(urls) else None


def too_long(clicks: int, clicks_max: int) -> Refused:
    """The refusal of a batch with too many clicks."""
    return Refused(Refusal.BATCH_TOO_LONG, f"A batch has at most {clicks_max:,} clicks, not {clicks:,}.")


def parse_items(body: bytes, clicks_max: int) -> list[Click | Refused] | Refused:
    """Read a batch that is a JSON array; its items are encoded again. Refused when the whole of it cannot be read."""
    items = load_json(body)
    if isinstance(items, Refused):
        return items
    if not isinstance(items, list):
        return Refused(Refusal.NOT_AN_OBJECT, "The body must be a JSON array or one JSON object per line.")
    if len(items) > clicks_max:
        return too_long(len(items), clicks_max)
    if _brackets(body) > 1 + len(items) and is_deeper(body, 1 + DEPTH_MAX):
        return Refused(Refusal.TOO_DEEP)
    doubled = _doubled_fields_of_items(body, items)
    return [
        Refused(Refusal.FIELD_DOUBLED, f'The field "{doubled[index]}" is given twice.')
        if index in doubled
        else check_click(item, orjson.dumps(item), _LINE_TYPES)
        for index, item in enumerate(items)
    ]


def _doubled_fields_of_items(body: bytes, items: Sequence[object]) -> Mapping[int, str]:
    """By index, the field that stands twice in an item of an array. Counts first, as `check_fields` does."""
    if _UNICODE_ESCAPE not in body:
        objects = [item for item in items if isinstance(item, dict)]
        if all(body.count(_QUOTED[name]) == sum(name in item for item in objects) for name in _LINE_TYPES):
            return {}
    found = ((index, _doubled_in(pairs, _LINE_TYPES)) for index, pairs in enumerate(_load_pairs(body)))
    return {index: name for index, name in found if name is not None}


def load_json(body: bytes) -> Any:
    """Decode JSON, or Refused."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        return _not_json(body, exc)


def _not_json(body: bytes, exc: orjson.JSONDecodeError) -> Refused:
    if not body.strip():
        return Refused(Refusal.BODY_EMPTY)
    return Refused(Refusal.NOT_JSON, f"The body is not JSON in UTF-8: {exc.msg} at character {exc.pos}.")


def check_click(fields: object, raw: bytes, types: Mapping[str, tuple[type, ...]]) -> Click | Refused:
    """Judge a decoded click: shape, depth, types, doubled fields, then the mandatory field."""
    if type(fields) is not dict:
        return Refused(Refusal.NOT_AN_OBJECT)
    if not is_plain(fields, raw, types):
        refused = check_fields(fields, raw, types)
        if refused is not None:
            return refused
    short_url = fields.get(SHORT_URL)
    if not short_url or is_blank(short_url):
        return Refused(Refusal.SHORT_URL_MISSING, _misspelt_hint(fields))
    clicked_at = fields.get(CLICKED_AT)
    key = fields.get(IDEMPOTENCY_KEY) if types is _LINE_TYPES else None
    click = (short_url, None if clicked_at == "" else clicked_at, raw, key or None)
    return tuple.__new__(Click, click)  # a third of the time that calling the class takes


def is_plain(fields: Mapping[str, object], raw: bytes, types: Mapping[str, tuple[type, ...]]) -> bool:
    """Whether `check_fields` has nothing to find: nothing is nested, every type is right, no name stands twice.

    Where no quote is escaped, each string of the text has two. What was decoded shows as many strings as the text has
    only if no member of the text is missing in it; and then nothing can be nested that is not seen here.
    """
    strings = len(fields)
    for name, value in fields.items():
        kind = type(value)
        if kind is str:
            strings += 1
        elif value is not None and kind not in types.get(name, _SCALARS):
            return False
    return raw.count(b'"') == 2 * strings and (_BACKSLASH not in raw or b'\\"' not in raw)


def check_fields(fields: Mapping[str, object], raw: bytes, types: Mapping[str, tuple[type, ...]]) -> Refused | None:
    """Judge depth, types and doubled fields of any object; None when it is fine.

    orjson takes the last of two equal names in silence. Counting the quoted names settles it for all but a few bodies:
    only a unicode escape can spell them in another way. A name that is counted twice may still be a value or nested,
    so then the pairs themselves are read.
    """
    if _brackets(raw) > DEPTH_MAX and is_deeper(raw, DEPTH_MAX):
        return Refused(Refusal.TOO_DEEP)
    is_doubtful = _UNICODE_ESCAPE in raw
    for name, kinds in types.items():
        value = fields.get(name)
        if value is None and name not in fields:
            continue
        if raw.count(_QUOTED[name]) > 1:
            is_doubtful = True
        if value is not None and type(value) not in kinds:
            return Refused(Refusal.FIELD_TYPE, f'The field "{name}" must be {_TYPE_NAMES.get(name, "a string")}.')
    if is_doubtful and (doubled := _doubled_in(_load_pairs(raw), types)):
        return Refused(Refusal.FIELD_DOUBLED, f'The field "{doubled}" is given twice.')
    return None


def is_deeper(raw: bytes, depth_max: int) -> bool:
    """Whether arrays and objects are nested deeper than `depth_max` levels in the text of valid JSON.

    In the text, not in what was decoded from it: the first of two equal names is gone there, but stands in the record.
    """
    brackets = _STRING.sub(b"", raw).translate(_SQUARE, _NO_BRACKETS)
    for _ in range(depth_max):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")  # the innermost level
    return bool(brackets)


def _brackets(raw: bytes) -> int:
    return raw.count(b"{") + raw.count(b"[")


def _load_pairs(raw: bytes) -> Any:
    """Decode JSON that orjson accepted and that is not too deep; objects become their pairs, numbers stay text."""
    return json.loads(raw.decode(), object_pairs_hook=_Pairs, parse_int=str, parse_float=str)


class _Pairs(list[tuple[str, object]]):
    """An object's (name, value) pairs, as written."""


def _doubled_in(pairs: object, types: Mapping[str, tuple[type, ...]]) -> str | None:
    if not isinstance(pairs, _Pairs):
        return None
    names = [name for name, _ in pairs]
    return next((name for name in types if names.count(name) > 1), None)


def _misspelt_hint(fields: Mapping[str, object]) -> str:
    """A hint when a field looks like `short-url`; empty otherwise."""
    for name in fields:
        if name != SHORT_URL and name.replace("-", "").replace("_", "").replace(" ", "").lower() == "shorturl":
            return f'The field "short-url" is required; found {_quote(name.encode())}, names are exact.'
    return ""


def _quote(text: bytes) -> str:
    """The beginning of a client's text, visible ASCII only, for a description."""
    visible = "".join(chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else "?" for byte in text)
    return f'"{visible[:_QUOTED_CHARS_MAX]}"'
