"""Clicks from files: Apache/nginx combined logs, NDJSON and CSV, each plain or gzipped.

Rule: streaming, one line at a time; a line that cannot be read is a `BadLine` with its number, never an exception.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

from clickledger.lines import (
    BadLine,
    FileProblem,
    Record,
    first_line,
    is_csv,
    opened,
    read_csv,
    read_lines,
    read_ndjson,
    suffix_of,
)
from clickledger.load.clicks import Click

_MONTH_NAMES: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS: Final = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_COMBINED: Final = re.compile(
    rf"(?P<ip>\S+) \S+ .*?\[(?P<time>[^\]]+)\] {_QUOTED} \d{{3}} \S+(?: {_QUOTED} {_QUOTED})?"
)
_TIME: Final = re.compile(r"(\d{2})/(\w{3})/(\d{4}):(\d{2}):(\d{2}):(\d{2}) ([+-])(\d{2})(\d{2})$")
_ESCAPE: Final = re.compile(r'\\(?:x([0-9a-fA-F]{2})|(["\\]))')


def read_clicks(path: Path) -> Iterator[Click | BadLine]:
    """Yield the clicks of a file in order; a click from a log has an empty short_url (a log does not know it).

    The format is taken from the name (.csv, .ndjson, .jsonl, .log, with or without .gz), else from the first line.
    Raises FileProblem when the file cannot be read, or looks like a CSV whose header lacks `short_url`.
    """
    with opened(path) as stream:
        if _is_log(path, stream):
            yield from _read_log(stream)
        elif is_csv(path, stream):
            _check_header(first_line(stream))
            yield from map(_click_of_record, read_csv(stream))
        else:
            yield from map(_click_of_record, read_ndjson(stream))


def _is_log(path: Path, stream: io.BufferedReader) -> bool:
    suffix = suffix_of(path)
    if suffix in (".csv", ".ndjson", ".jsonl"):
        return False
    return suffix == ".log" or _COMBINED.match(first_line(stream)) is not None


def _check_header(line: str) -> None:
    if "short_url" not in [_canonical(name.strip('\ufeff" \r')) for name in line.split(",")]:
        raise FileProblem("a CSV of clicks needs a header line with short_url (and user_agent, ip_address, clicked_at)")


def _read_log(stream: io.BufferedReader) -> Iterator[Click | BadLine]:
    for item in read_lines(stream):
        yield item if isinstance(item, BadLine) else parse_log_line(item[1].decode("utf-8", "replace"), item[0])


def parse_log_line(line: str, number: int) -> Click | BadLine:
    """Parse one line of a combined (or common) log; a user agent of `-` is none."""
    matched = _COMBINED.match(line)
    if matched is None:
        return BadLine(number, 'not a line of a combined log: address - user [time] "request" status bytes …')
    agent = _unescape(matched[5] or "-")
    at_ms = parse_log_time(matched["time"])
    if at_ms is None:
        return BadLine(number, f"time {matched['time']!r:.40} is not dd/Mon/yyyy:HH:MM:SS +zzzz")
    return Click("", None if agent == "-" else agent, matched["ip"], at_ms)


def parse_log_time(text: str) -> int | None:
    """Parse `17/May/2015:10:05:03 +0000` to epoch milliseconds, without the locale; None when it is not such a time."""
    matched = _TIME.match(text)
    if matched is None or matched[2] not in _MONTHS:
        return None
    offset = timedelta(hours=int(matched[8]), minutes=int(matched[9]))
    try:
        zone = timezone(offset if matched[7] == "+" else -offset)
        day, year, hour, minute, second = (int(part) for part in matched.group(1, 3, 4, 5, 6))
        moment = datetime(year, _MONTHS[matched[2]], day, hour, minute, second, tzinfo=zone)
    except ValueError:
        return None
    return int(moment.timestamp() * 1000)


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else m[2], text) if "\\" in text else text


def _canonical(name: str) -> str:
    return name.strip().lower().replace("-", "_")


def _click_of_record(item: Record | BadLine) -> Click | BadLine:
    """Read a record with the contract's field names, with `-` or `_`."""
    if isinstance(item, BadLine):
        return item
    return _click_of(
        {_canonical(name): value for name, value in item.fields.items() if value not in (None, "")}, item.number
    )


def _click_of(fields: Mapping[str, Any], number: int) -> Click | BadLine:
    texts: dict[str, str | None] = {}
    for name in ("short_url", "user_agent", "ip_address", "idempotency_key"):
        value = fields.get(name)
        if value is not None and not isinstance(value, str):
            return BadLine(number, f"{name} is not a string")
        texts[name] = value
    short_url, key = texts["short_url"], texts["idempotency_key"]
    if not short_url:
        return BadLine(number, "short_url is missing or empty")
    if key is not None and not (1 <= len(key) <= 128 and key.isascii() and key.isprintable() and " " not in key):
        return BadLine(number, "idempotency_key is not 1-128 visible ASCII characters")
    at_ms = _time_of(fields.get("clicked_at"))
    if isinstance(at_ms, str):
        return BadLine(number, at_ms)
    return Click(short_url, texts["user_agent"], texts["ip_address"], at_ms, key)


def _time_of(value: object) -> int | str | None:
    """Return epoch milliseconds, None when not given, or the text of an error."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str):
        if value.isdecimal():
            return int(value)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return f"clicked_at {value!r:.40} is neither ISO 8601 nor epoch milliseconds"
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    return f"clicked_at is a {type(value).__name__}, not ISO 8601 or epoch milliseconds"
