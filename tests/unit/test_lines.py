"""Records from CSV and NDJSON, with the numbers of the lines that are none."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from clickledger.lines import LINE_BYTES_MAX, BadLine, FileProblem, Record, check_header, count_lines, read_records
from shared.links import LINK_FIELDS


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_csv_cells_are_text_and_empty_ones_no_field(tmp_path: Path) -> None:
    """Quoted commas and line breaks, a byte-order mark, Windows line ends."""
    path = _write(tmp_path / "a.csv", b'\xef\xbb\xbfa,b\r\n1,"x, y"\r\n,"p\nq"\r\n')
    assert list(read_records(path)) == [Record(2, {"a": "1", "b": "x, y"}), Record(4, {"b": "p\nq"})]


def test_a_csv_row_with_too_many_cells_is_bad(tmp_path: Path) -> None:
    """An unquoted comma must not shift values in silence."""
    (bad, good) = read_records(_write(tmp_path / "a.csv", b"a,b\n1,2,3\n4,5\n"))
    assert isinstance(bad, BadLine)
    assert (bad.number, good) == (2, Record(3, {"a": "4", "b": "5"}))


@pytest.mark.parametrize("name", ["a.ndjson", "a.jsonl.gz", "a"])
def test_ndjson_is_known_by_its_name_or_first_character(tmp_path: Path, name: str) -> None:
    """Packed or not."""
    content = b'\xef\xbb\xbf{"a":1}\n\n[]\n{"a":2}'
    path = _write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    first, bad, last = read_records(path)
    assert (first, last) == (Record(1, {"a": 1}), Record(4, {"a": 2}))
    assert isinstance(bad, BadLine)
    assert (bad.number, bad.reason) == (3, "a JSON list, not an object")
    assert count_lines(path) == 3


@pytest.mark.parametrize(("length", "is_good"), [(LINE_BYTES_MAX, True), (LINE_BYTES_MAX + 1, False)])
def test_the_limit_of_a_line_counts_its_line_break(tmp_path: Path, length: int, is_good: bool) -> None:
    """At the limit it is read, above it is bad, and the next line is whole."""
    text = b'{"a":"' + b"x" * (length - 9) + b'"}\n'
    assert len(text) == length
    found = list(read_records(_write(tmp_path / "a.ndjson", text + b'{"b":1}\n')))
    assert isinstance(found[0], Record) is is_good
    assert found[1] == Record(2, {"b": 1})


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """Missing, a folder, cut off."""
    cut = _write(tmp_path / "a.csv.gz", gzip.compress(b"a\n" + b"1\n" * 1000)[:-9])
    for path in (tmp_path / "none", tmp_path, cut):
        with pytest.raises(FileProblem):
            list(read_records(path))


def test_a_quote_that_stays_open_is_a_bad_line(tmp_path: Path) -> None:
    """It would otherwise swallow the rest of the file into one field."""
    path = tmp_path / "links.csv"
    path.write_text('short_url,promotion_id\nhttp://a/b,p\nhttp://a/c,"p\nhttp://a/d,p\n')
    good, bad = read_records(path)
    assert isinstance(good, Record)
    assert isinstance(bad, BadLine)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty: a CSV file begins with a row of names, short_url, promotion_id at least"),
        ("short_url,recipient\n", "'promotion_id' is missing; expected are short_url, "),
        ("short_url,promotion_id,colour\n", "'colour' is not a field; expected are short_url, "),
        ("short_url,promotion_id,short_url\n", "'short_url' is there more than once"),
        ("short_url;promotion_id\n", "the names are separated by semicolons, not commas; expected are"),
        ("short_url\tpromotion_id\n", "separated by tabs, not commas"),
        ("\n", "'short_url' is missing"),
    ],
)
def test_a_wrong_header_is_named_with_the_file_and_what_is_expected(tmp_path: Path, content: str, words: str) -> None:
    """Before anything is sent; otherwise each line would be refused by itself."""
    path = tmp_path / "links.csv"
    path.write_text(content)
    with pytest.raises(FileProblem, match=re.escape(words)) as told:
        check_header(path, LINK_FIELDS, ("short_url", "promotion_id"))
    assert str(told.value).startswith(str(path))


def test_a_right_header_passes(tmp_path: Path) -> None:
    """In any order, behind a byte order mark, gzipped; NDJSON has none."""
    for name, content in (
        ("a.csv", b"\xef\xbb\xbfpromotion_id,short_url\r\n"),
        ("spreadsheet.csv", b"short_url,promotion_id,,\r\nhttp://s/a,p,,\r\n"),
        ("b.csv.gz", gzip.compress(b"short_url,promotion_id\n")),
        ("c.ndjson", b'{"short_url":"http://s/a"}\n'),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        check_header(path, LINK_FIELDS, ("short_url", "promotion_id"))
