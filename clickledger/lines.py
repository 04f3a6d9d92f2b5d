"""Lines of files as records: NDJSON and CSV, plain or gzipped, streaming.

Rule: a line that cannot be read is a `BadLine` with its number, never an exception; only a file that cannot be read as
a whole raises.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import orjson

LINE_BYTES_MAX: Final = 64 * 1024
"""Longer lines are bad lines; web servers cut a request line at 8 KiB and a header at 16 KiB."""
TOO_LONG: Final = f"longer than {LINE_BYTES_MAX} bytes"


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be used."""

    number: int
    """Counted from 1, the header line included."""
    reason: str


@dataclass(frozen=True, slots=True)
class Record:
    """A line's fields; in CSV every value is text, and an empty cell is no field."""

    number: int
    fields: dict[str, Any]


class FileProblem(ValueError):
    """The file as a whole cannot be read; the message says what to change."""


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file, unpacking gzip by its first bytes. Raises FileProblem, also for what goes wrong inside the body."""
    try:
        with path.open("rb") as plain:
            is_gzip = plain.read(2) == b"\x1f\x8b"
        unpacked = io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(path))) if is_gzip else path.open("rb")
        with cast("io.BufferedReader", unpacked) as stream:
            yield stream
    except (OSError, EOFError) as exc:
        raise FileProblem(f"{path}: {exc.strerror if isinstance(exc, OSError) and exc.strerror else exc}") from exc


def is_csv(path: Path, stream: io.BufferedReader) -> bool:
    """Tell CSV from NDJSON by the name (.csv, .ndjson, .jsonl, with or without .gz), else by the first character."""
    match suffix_of(path):
        case ".csv":
            return True
        case ".ndjson" | ".jsonl":
            return False
    return not first_line(stream).startswith("{")


def suffix_of(path: Path) -> str:
    """Give the last suffix that is not .gz, in small letters; '' without one."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return suffixes[-1] if suffixes else ""


def first_line(stream: io.BufferedReader) -> str:
    """Look at the first line without consuming it."""
    start = stream.peek(LINE_BYTES_MAX)[:LINE_BYTES_MAX].removeprefix(b"\xef\xbb\xbf").lstrip()
    return start.split(b"\n", 1)[0].decode("utf-8", "replace")


def read_records(path: Path) -> Iterator[Record | BadLine]:
    """Yield the records of an NDJSON or CSV file in order. Raises FileProblem."""
    with opened(path) as stream:
        yield from read_csv(stream) if is_csv(path, stream) else read_ndjson(stream)


def check_header(path: Path, known: Collection[str], needed: Collection[str]) -> None:
    """Raise FileProblem for a CSV file that is empty, or whose first row does not name the fields, each once."""
    with opened(path) as stream:
        if not is_csv(path, stream):
            return
        if not stream.peek(1):
            raise FileProblem(f"{path} is empty: a CSV file begins with a row of names, {', '.join(needed)} at least")
        text = io.TextIOWrapper(stream, "utf-8-sig", "replace", newline="")
        try:
            names = [name for name in next(csv.reader(text), []) if name]  # a spreadsheet's empty last column
        except csv.Error as exc:
            raise FileProblem(f"{path}, header: {exc}") from exc
        finally:
            text.detach()
    expected = f"expected are {', '.join(known)}, separated by commas; needed: {', '.join(needed)}"
    for separator, what in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and separator in names[0]:
            raise FileProblem(f"{path}, header: the names are separated by {what}, not commas; {expected}")
    if doubled := [name for name, count in Counter(names).items() if count > 1]:
        raise FileProblem(f"{path}, header: {doubled[0]!r:.60} is there more than once; {expected}")
    if unknown := [name for name in names if name not in known]:
        raise FileProblem(f"{path}, header: {unknown[0]!r:.60} is not a field; {expected}")
    if missing := [name for name in needed if name not in names]:
        raise FileProblem(f"{path}, header: {missing[0]!r} is missing; {expected}")


def read_lines(stream: io.BufferedReader) -> Iterator[tuple[int, bytes] | BadLine]:
    """Yield (number, line); blank lines are left out, over-long ones are bad."""
    number = 0
    while line := stream.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            while line and not line.endswith(b"\n"):
                line = stream.readline(LINE_BYTES_MAX)
            yield BadLine(number, TOO_LONG)
        elif line.strip():
            yield number, line


def read_ndjson(stream: io.BufferedReader) -> Iterator[Record | BadLine]:
    """Yield one record per line."""
    for item in read_lines(stream):
        yield item if isinstance(item, BadLine) else parse_json_line(item[1], item[0])


def parse_json_line(line: bytes, number: int) -> Record | BadLine:
    """Parse one line that must be a JSON object."""
    try:
        fields = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as exc:
        return BadLine(number, f"not JSON: {exc}")
    if not isinstance(fields, dict):
        return BadLine(number, f"a JSON {type(fields).__name__}, not an object")
    return Record(number, fields)


def read_csv(stream: io.BufferedReader) -> Iterator[Record | BadLine]:
    """Yield one record per row; the first row names the fields. A record's number is that of its last line."""
    text = io.TextIOWrapper(stream, "utf-8-sig", "replace", newline="")
    try:
        yield from _csv_rows(csv.DictReader(text, strict=True))  # strict: an open quote at the end is an error
    finally:
        text.detach()  # the stream is the caller's to close


def _csv_rows(rows: csv.DictReader[str]) -> Iterator[Record | BadLine]:
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as exc:
            yield BadLine(rows.line_num, str(exc))
            continue
        if None in row:
            yield BadLine(rows.line_num, f"more cells than the header has names ({len(rows.fieldnames or ())})")
            continue
        yield Record(rows.line_num, {name: value for name, value in row.items() if value})


def count_lines(path: Path) -> int:
    """Count line breaks, for a progress bar. Raises FileProblem."""
    with opened(path) as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
