"""Clicks from files: Apache/nginx combined logs, NDJSON and CSV, each plain or gzipped.

Rule: streaming, one line at a time; a line that cannot be read is a `BadLine` with its number, never an exception.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import orjson

from clickledger.load.clicks import Click

LINE_BYTES_MAX: Final = 64 * 1024
"""Longer lines are bad lines; web servers cut a request line at 8 KiB and a header at 16 KiB."""

_MONTH_NAMES: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS: Final = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_COMBINED: Final = re.compile(
    rf"(?P<ip>\S+) \S+ .*?\[(?P<time>[^\]]+)\] {_QUOTED} \d{{3}} \S+(?: {_QUOTED} {_QUOTED})?"
)
_TIME: Final = re.compile(r"(\d{2})/(\w{3})/(\d{4}):(\d{2}):(\d{2}):(\d{2}) ([+-])(\d{2})(\d{2})$")
_ESCAPE: Final = re.compile(r'\\(?:x([0-9a-fA-F]{2})|(["\\]))')


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is not a click."""

    number: int
    """Counted from 1, the header line included."""
    reason: str


class FileProblem(ValueError):
    """The file as a whole cannot be read; the message says what to change."""


def read_clicks(path: Path) -> Iterator[Click | BadLine]:
    """Yield the clicks of a file in order; a click from a log has an empty short_url (a log does not know it).

    The format is taken from the name (.csv, .ndjson, .jsonl, .log, with or without .gz), else from the first line.
    Raises FileProblem when the file cannot be opened or a CSV header lacks `short_url`.
    """
    try:
        with _open(path) as stream:
            yield from _reader_for(path, stream)(stream)
    except (OSError, EOFError) as exc:
        raise FileProblem(f"{path}: {exc.strerror if isinstance(exc, OSError) and exc.strerror else exc}") from exc


def _open(path: Path) -> io.BufferedReader:
    with path.open("rb") as plain:
        is_gzip = plain.read(2) == b"\x1f\x8b"
    return io.BufferedReader(gzip.GzipFile(path)) if is_gzip else path.open("rb")


def _reader_for(path: Path, stream: io.BufferedReader) -> Callable[[io.BufferedReader], Iterator[Click | BadLine]]:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    match suffixes[-1:] or [""]:
        case [".csv"]:
            return _read_csv
        case [".ndjson" | ".jsonl"]:
            return _read_ndjson
        case [".log"]:
            return _read_log
    first = stream.peek(LINE_BYTES_MAX).lstrip()[:LINE_BYTES_MAX].split(b"\n", 1)[0].decode("utf-8", "replace")
    if first.startswith("{"):
        return _read_ndjson
    return _read_log if _COMBINED.match(first) else _read_csv


def _lines(stream: io.BufferedReader) -> Iterator[tuple[int, bytes | None]]:
    """Yield (number, line), None for one over the limit; blank lines are left out."""
    number = 0
    while line := stream.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            while line and not line.endswith(b"\n"):
                line = stream.readline(LINE_BYTES_MAX)
            yield number, None
        elif line.strip():
            yield number, line


def _read_log(stream: io.BufferedReader) -> Iterator[Click | BadLine]:
    for number, line in _lines(stream):
        yield BadLine(number, _TOO_LONG) if line is None else parse_log_line(line.decode("utf-8", "replace"), number)


def _read_ndjson(stream: io.BufferedReader) -> Iterator[Click | BadLine]:
    for number, line in _lines(stream):
        yield BadLine(number, _TOO_LONG) if line is None else parse_json_line(line, number)


def _read_csv(stream: io.BufferedReader) -> Iterator[Click | BadLine]:
    text = io.TextIOWrapper(stream, "utf-8-sig", "replace", newline="")
    try:
        yield from _csv_rows(csv.DictReader(text))
    finally:
        text.detach()  # the stream is the caller's to close


def _csv_rows(rows: csv.DictReader[str]) -> Iterator[Click | BadLine]:
    names = [_canonical(name) for name in rows.fieldnames or ()]
    if "short_url" not in names:
        raise FileProblem("a CSV of clicks needs a header line with short_url (and user_agent, ip_address, clicked_at)")
    rows.fieldnames = names
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as exc:
            yield BadLine(rows.line_num, str(exc))
            continue
        yield _click_of({name: value for name, value in row.items() if value}, rows.line_num)


_TOO_LONG: Final = f"longer than {LINE_BYTES_MAX} bytes"


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


def parse_json_line(line: bytes, number: int) -> Click | BadLine:
    """Parse one NDJSON line with the contract's field names, with `-` or `_`."""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        return BadLine(number, f"not JSON: {exc}")
    if not isinstance(fields, dict):
        return BadLine(number, f"a JSON {type(fields).__name__}, not an object")
    return _click_of({_canonical(name): value for name, value in fields.items() if value not in (None, "")}, number)


def _canonical(name: str) -> str:
    return name.strip().lower().replace("-", "_")


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
