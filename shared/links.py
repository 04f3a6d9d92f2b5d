"""Lines that register links and promotions -> catalog records, or a sentence that says what is wrong. Pure.

The same for CSV, where every value is text and an empty cell is no value, and NDJSON. A field that is not known is
refused: a misspelt `expires_at` must not be dropped in silence. Records are replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from shared.clicked_at import clicked_at_ms
from shared.rte import rfc3339

LINK_FIELDS: Final = (
    "short_url",
    "promotion_id",
    "recipient",
    "link_name",
    "long_url",
    "sent_at",
    "expires_at",
    "disabled",
    "match",
)
_LINK_TIMES: Final = ("sent_at", "expires_at")
PROMOTION_FIELDS: Final = ("promotion_id", "name", "campaign_id", "deployment_id", "sent", "delivered", "sent_at")

TEXT_CHARS_MAX: Final = 256
"""Characters of an id or a name: keys of the catalog and columns of reports, not documents."""
URL_CHARS_MAX: Final = 2_048
"""Characters of a URL; the normaliser bounds a short one in bytes."""
COUNT_MAX: Final = 2**53 - 1
"""Largest whole number that every JSON reader keeps."""
TIME_MS_MAX: Final = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z."""
_INVISIBLE_BUT_TEXT: Final = str.maketrans("", "", "\u00a0\u200c\u200d")
"""A no-break space and the joiners, which scripts of India and Iran and emoji are written with."""
_FALSE: Final = frozenset(("false", "0", "no"))
_TRUE: Final = frozenset(("true", "1", "yes"))

ToKey = Callable[[str], str]
"""A short URL's key; raises ValueError with a sentence that says why it has none."""


class GoodLine(NamedTuple):
    """A record to put into the catalog."""

    id: str
    """The link's key, or the promotion's id."""
    record: dict[str, Any]


class RefusedLine(NamedTuple):
    """What is wrong with a line."""

    text: str
    is_conflict: bool = False
    """The line itself is fine, but the short URL is not this tenant's to register."""


OWNED_BY_OTHER: Final = RefusedLine("short_url: this short URL cannot be registered", is_conflict=True)
"""Another tenant owns it; whose it is, is nobody's business."""


class _Wrong(ValueError):
    """A field's value is not acceptable."""


def read_link(
    fields: Mapping[str, object],
    *,
    tenant: str,
    now_ms: int,
    to_key: ToKey,
    registered: Callable[[str], Mapping[str, Any] | None],
) -> GoodLine | RefusedLine:
    """A line of `links load` or `POST /v1/links` as a catalog record.

    `registered(key)` is the record that stands now; its registration time is kept, since retention may run from it.
    """
    try:
        _check_names(fields, LINK_FIELDS)
        key = _key(fields, to_key)
        record = {
            "v": 1,
            "tenant": tenant,
            "link": key,
            "promotion_id": _needed(fields, "promotion_id"),
            "recipient": _text(fields, "recipient"),
            "link_name": _text(fields, "link_name"),
            "long_url": _text(fields, "long_url", URL_CHARS_MAX),
            "sent_at": _time(fields, "sent_at"),
            "expires_at": _time(fields, "expires_at"),
            "disabled": _flag(fields, "disabled"),
            "match": _match(fields),
            "registered_at": now_ms,
        }
    except _Wrong as wrong:
        return RefusedLine(str(wrong))
    before = registered(key)
    if before is not None:
        if before["tenant"] != tenant:
            return OWNED_BY_OTHER
        record["registered_at"] = before["registered_at"]
    return GoodLine(key, record)


def link_line(record: Mapping[str, Any]) -> dict[str, Any]:
    """The line that registers a link's record again: `read_link` backwards. What is not set is absent, times are RFC 3339."""
    key: str = record["link"]
    # Without a scheme a URL is one of http, and loses the port that only https keeps.
    line = {"short_url": f"https://{key}" if key.partition("/")[0].endswith(":80") else key}
    for name in LINK_FIELDS[1:]:
        value = record.get(name)
        if name in _LINK_TIMES and value is not None:
            line[name] = rfc3339(value)
        elif value and (name, value) != ("match", "exact"):
            line[name] = value
    return line


def read_promotion(fields: Mapping[str, object], *, tenant: str) -> GoodLine | RefusedLine:
    """A line of `promotions load` or `POST /v1/promotions` as a catalog record."""
    try:
        _check_names(fields, PROMOTION_FIELDS)
        promotion_id = _needed(fields, "promotion_id")
        record = {
            "v": 1,
            "tenant": tenant,
            "promotion_id": promotion_id,
            "name": _text(fields, "name"),
            "campaign_id": _text(fields, "campaign_id"),
            "deployment_id": _text(fields, "deployment_id"),
            "sent": _count(fields, "sent"),
            "delivered": _count(fields, "delivered"),
            "sent_at": _time(fields, "sent_at"),
        }
    except _Wrong as wrong:
        return RefusedLine(str(wrong))
    return GoodLine(promotion_id, record)


def _check_names(fields: Mapping[str, object], known: tuple[str, ...]) -> None:
    for name in fields:
        if name not in known:
            raise _Wrong(f"{name!r:.60} is not a field; the fields are {', '.join(known)}")


def _key(fields: Mapping[str, object], to_key: ToKey) -> str:
    short_url = _needed(fields, "short_url", URL_CHARS_MAX)
    try:
        return to_key(short_url)
    except ValueError as exc:
        raise _Wrong(f"short_url: {exc}") from exc


def _match(fields: Mapping[str, object]) -> str:
    match = _text(fields, "match") or "exact"
    if match not in ("exact", "prefix"):
        raise _Wrong(f"match: 'exact' or 'prefix', not {match!r:.40}")
    return match


def _text(fields: Mapping[str, object], name: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    """A text, '' when absent. A number is taken as its digits: ids often are numbers in JSON."""
    value = fields.get(name)
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _Wrong(f"{name}: a text is needed")
    value = value.strip()
    if len(value) > chars_max:
        raise _Wrong(f"{name}: at most {chars_max} characters, not {len(value)}")
    if not value.translate(_INVISIBLE_BUT_TEXT).isprintable():
        raise _Wrong(f"{name}: control and invisible characters are not allowed")
    return value


def _needed(fields: Mapping[str, object], name: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    value = _text(fields, name, chars_max)
    if not value:
        raise _Wrong(f"{name} is missing")
    return value


def _time(fields: Mapping[str, object], name: str) -> int | None:
    """Milliseconds since the epoch from ISO 8601 with zone or a number of milliseconds; None when absent."""
    value = fields.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    moment = clicked_at_ms(value)
    if moment is None or not 0 <= moment <= TIME_MS_MAX:
        raise _Wrong(f"{name}: ISO 8601 with zone (2026-05-31T08:00:00Z) or milliseconds since 1970 are needed")
    return moment


def _count(fields: Mapping[str, object], name: str) -> int | None:
    value = fields.get(name)
    if isinstance(value, str):
        value = value.strip()
        if value.isascii() and value.isdigit() and len(value) <= 16:
            value = int(value)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= COUNT_MAX:
        raise _Wrong(f"{name}: a whole number of at least 0 is needed")
    return value


def _flag(fields: Mapping[str, object], name: str) -> bool:
    value = fields.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if not text or text in _FALSE:
        return False
    raise _Wrong(f"{name}: true or false is needed")
