"""Reading clicks from logs, NDJSON and CSV."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickledger.lines import LINE_BYTES_MAX, BadLine, FileProblem, Record, parse_json_line
from clickledger.load.clicks import Click
from clickledger.load.sources import parse_log_line, parse_log_time, read_clicks

_LOG = '203.0.113.9 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 12 "-" "Agent \\"x\\" 1.0"'


def _write(path: Path, text: str | bytes, *, packed: bool = False) -> Path:
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


@pytest.mark.parametrize(
    ("line", "agent"),
    [
        (_LOG, 'Agent "x" 1.0'),
        ('2001:db8::1 - bob smith [17/May/2015:10:05:03 +0000] "GET /" 200 -', None),
        ('203.0.113.9 - - [17/May/2015:10:05:03 +0000] "\\x16\\x03" 400 0 "-" "-"', None),
    ],
)
def test_lines_of_combined_and_common_logs_are_clicks(line: str, agent: str | None) -> None:
    """Address, time and agent are taken, escapes undone; a log does not know the short URL."""
    click = parse_log_line(line, 1)
    assert click == Click("", agent, line.split(maxsplit=1)[0], 1431857103000)


@pytest.mark.parametrize("line", ["", "hello", '1.2.3.4 - - [17/Mai/2015:10:05:03 +0000] "GET /" 200 1', "{}"])
def test_other_lines_are_bad_with_their_number(line: str) -> None:
    """A line that is no log line is reported, not raised."""
    assert isinstance(parse_log_line(line, 7), BadLine)


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("01/Jan/1970:00:00:00 +0000", 0),
        ("01/Jan/1970:05:30:00 +0530", 0),
        ("31/Feb/2020:00:00:00 +0000", None),
        ("01/Jan/1970:00:00:00 +9900", None),
        ("1970-01-01", None),
    ],
)
def test_log_times(text: str, at_ms: int | None) -> None:
    """Zones count, impossible dates are none."""
    assert parse_log_time(text) == at_ms


@given(st.binary(max_size=200))
def test_parsing_never_raises(line: bytes) -> None:
    """Any bytes are a click or a bad line."""
    assert isinstance(parse_json_line(line, 1), Record | BadLine)
    assert isinstance(parse_log_line(line.decode("utf-8", "replace"), 1), Click | BadLine)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["c.csv", "c"])
def test_csv_with_any_spelling_of_the_names(tmp_path: Path, name: str, packed: bool) -> None:
    """Hyphens, underscores and capitals are the same; quoted line breaks belong to the field; bad rows are numbered."""
    text = '\ufeffShort-URL,user_agent,clicked-at\nhttp://s/a,"A\nB",1970-01-01T00:00:01+00:00\n,x,\nhttp://s/b,,nonsense\n'
    found = list(read_clicks(_write(tmp_path / name, text, packed=packed)))
    assert found[0] == Click("http://s/a", "A\nB", None, 1000)
    assert [(bad.number, bad.reason[:10]) for bad in found[1:] if isinstance(bad, BadLine)] == [
        (4, "short_url "),
        (5, "clicked_at"),
    ]


def test_ndjson_with_bad_lines_between(tmp_path: Path) -> None:
    """Bad and over-long lines do not end the file; blank ones are skipped but counted."""
    lines = [b'{"short-url":"http://s/a","ip-address":"1.2.3.4"}', b"", b"[1]", b"x" * (LINE_BYTES_MAX + 1)]
    lines += [b'{"short_url":"http://s/b","clicked_at":5,"idempotency-key":"k"}', b'{"short_url":7}']
    found = list(read_clicks(_write(tmp_path / "c.ndjson", b"\n".join(lines))))
    assert [item.number for item in found if isinstance(item, BadLine)] == [3, 4, 6]
    assert [item for item in found if isinstance(item, Click)] == [
        Click("http://s/a", None, "1.2.3.4"),
        Click("http://s/b", None, None, 5, "k"),
    ]


@pytest.mark.parametrize(("name", "text"), [("a.log.gz", _LOG), ("a", _LOG), ("a.jsonl", '{"short_url":"u"}')])
def test_the_format_is_found_by_name_or_first_line(tmp_path: Path, name: str, text: str) -> None:
    """Packed or not, named or not."""
    assert isinstance(next(read_clicks(_write(tmp_path / name, text, packed=name.endswith(".gz")))), Click)


def test_problems_of_the_whole_file_say_what_to_change(tmp_path: Path) -> None:
    """A missing file, a CSV without short_url, a cut-off gzip."""
    with pytest.raises(FileProblem, match="No such file"):
        list(read_clicks(tmp_path / "none"))
    with pytest.raises(FileProblem, match="header line with short_url"):
        list(read_clicks(_write(tmp_path / "a.csv", "url,agent\n1,2\n")))
    with pytest.raises(FileProblem):
        list(read_clicks(_write(tmp_path / "a.log.gz", gzip.compress(_LOG.encode() * 50)[:-12])))
