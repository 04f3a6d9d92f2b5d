"""URL, headers and text of a request: what is asked for, where an INSERT's data begins, what a body decodes to."""

from __future__ import annotations

import base64
import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from urllib.parse import urlencode

import lz4.frame
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from clickledger.clickhouse_server.bodies import decoded
from clickledger.clickhouse_server.errors import StatementError, from_engine, refusal
from clickledger.clickhouse_server.execution import in_pieces
from clickledger.clickhouse_server.native_hello import hello_block, is_hello
from clickledger.clickhouse_server.request import choose_encoding, form_fields, parse_request
from clickledger.clickhouse_server.tokens import (
    Command,
    Inserting,
    Reading,
    find_insert,
    kill_by_comment,
    parse_statement,
    starts_insert,
)


def test_url_fields_fall_into_query_settings_and_parameters() -> None:
    """Reserved names steer, param_x binds, everything else is a setting."""
    request = parse_request(
        "POST",
        b"query=SELECT+%7Bx%3AString%7D&param_x=it%27s&max_threads=2&query_id=q&database=d&default_format=JSON&compress=1",
        [],
    )
    assert request.query == b"SELECT {x:String}"
    assert request.params == {"x": "it's"}
    assert request.settings == {"max_threads": "2"}
    assert (request.query_id, request.database, request.default_format) == ("q", "d", "JSON")
    assert request.answer_in_blocks
    assert not request.is_read


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_a_parameter(text: str) -> None:
    """A parameter in UTF-8, percent-encoded or not, arrives as it was; backslashes are the server's to read."""
    query = urlencode({"param_x": text, "query": text}).encode()
    request = parse_request("POST", query, [])
    assert (request.params, request.query) == ({"x": text}, text.encode())


@pytest.mark.parametrize(
    ("query", "headers", "expected"),
    [
        (b"", [], ("default", "", False)),
        (b"user=a&password=b", [], ("a", "b", True)),
        (b"", [(b"x-clickhouse-user", b"a"), (b"x-clickhouse-key", b"b")], ("a", "b", True)),
        (b"", [(b"authorization", b"Basic " + base64.b64encode(b"a:b:c"))], ("a", "b:c", True)),
    ],
)
def test_credentials_come_one_of_three_ways(
    query: bytes, headers: list[tuple[bytes, bytes]], expected: tuple[str, str, bool]
) -> None:
    """URL, ClickHouse's headers or Basic authorization; without any, the user is default and nothing was given."""
    credentials = parse_request("GET", query, headers).credentials
    assert (credentials.user, credentials.password, credentials.given) == expected


@pytest.mark.parametrize(
    ("query", "headers", "code"),
    [
        (b"user=a", [(b"x-clickhouse-user", b"a")], 516),
        (b"", [(b"authorization", b"Bearer x")], 516),
        (b"", [(b"authorization", b"Basic !!")], 516),
        (b"a%60b=1", [], 36),
        (b"param_a-b=1", [], 36),
        (b"database=a%60b", [], 36),
        (b"default_format=a+b", [], 36),
        (b"", [(b"x-clickhouse-database", b"a`b")], 36),
        (b"", [(b"x-clickhouse-format", b"a b")], 36),
        (b"query_id=a%0d%0ab", [], 36),
        (b"query_id=" + b"a" * 257, [], 36),
        (b"role=owner", [], 48),
        (b"session_timeout=3601", [], 374),
        (b"session_timeout=x", [], 374),
        (b"client_protocol_version=x", [], 36),
        (b"&".join(b"a%d=1" % i for i in range(1001)), [], 36),
    ],
)
def test_what_cannot_be_meant_is_refused(query: bytes, headers: list[tuple[bytes, bytes]], code: int) -> None:
    """Mixed credentials, names that are no names, roles, bad numbers and too many fields have ClickHouse's codes."""
    with pytest.raises(StatementError) as caught:
        parse_request("POST", query, headers)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("accept", "expected"),
    [("gzip, deflate, br", "gzip"), ("zstd;q=0, lz4", "lz4"), ("identity", ""), ("", ""), ("sdch,  BR;q=0.5", "br")],
)
def test_answer_encoding_is_the_clients_first_that_we_write(accept: str, expected: str) -> None:
    """q=0 refuses an encoding; nothing known means none."""
    assert choose_encoding(accept) == expected
    asked = parse_request("GET", b"enable_http_compression=1", [(b"accept-encoding", accept.encode())])
    unasked = parse_request("GET", b"", [(b"accept-encoding", accept.encode())])
    assert (asked.answer_encoding, unasked.answer_encoding) == (expected, "")


def test_form_fields_and_files() -> None:
    """A form's fields count like those of the URL; a file would be an external table and is refused."""
    head = b'--b\r\ncontent-disposition: form-data; name="query"'
    assert form_fields("multipart/form-data; boundary=b", head + b"\r\n\r\nSELECT 1\r\n--b--\r\n") == {
        "query": b"SELECT 1"
    }
    with pytest.raises(StatementError):
        form_fields("multipart/form-data; boundary=b", head + b'; filename="t"\r\n\r\n1\r\n--b--\r\n')


@pytest.mark.parametrize(
    ("text", "head", "input_format", "data"),
    [
        (b"INSERT INTO t VALUES (1)", b"INSERT INTO t ", "Values", b" (1)"),
        (b"insert into t (a, `format`) Values(1)", b"insert into t (a, `format`) ", "Values", b"(1)"),
        (b"INSERT INTO t FORMAT CSV\n1,2\n", b"INSERT INTO t ", "CSV", b"1,2\n"),
        (b"INSERT INTO t FORMAT RowBinary\r\n\n\x00", b"INSERT INTO t ", "RowBinary", b"\n\x00"),
        (
            b"/* VALUES */ INSERT INTO db.values (a) SETTINGS x = 'FORMAT b' format\tNative \n\xff",
            None,
            "Native",
            b"\xff",
        ),
        (
            b"INSERT INTO FUNCTION null('a UInt8') VALUES (1)",
            b"INSERT INTO FUNCTION null('a UInt8') ",
            "Values",
            b" (1)",
        ),
    ],
)
def test_where_the_data_of_an_insert_begins(text: bytes, head: bytes | None, input_format: str, data: bytes) -> None:
    """Behind VALUES, or behind FORMAT, its name, blanks and one line break; comments, strings and brackets do not count."""
    found = find_insert(text, is_complete=True)
    assert found is not None
    assert found.format == input_format
    assert text[found.data_at :] == data
    if head is not None:
        assert found.head == head


def test_a_part_of_an_insert_says_nothing_until_its_data_is_in_sight() -> None:
    """A name or a line break may go on in the next piece of the body, so both are waited for."""
    text = b"INSERT INTO t FORMAT RowBinary \n\x0a\x01"
    for end in range(len(b"INSERT INTO t FORMAT RowBinary \n") + 1):
        assert find_insert(text[:end], is_complete=False) is None
    found = find_insert(text, is_complete=False)
    assert found is not None
    assert text[found.data_at :] == b"\x0a\x01"


@pytest.mark.parametrize(
    "text", [b"INSERT INTO t SELECT 1", b"INSERT INTO t WITH x AS (SELECT 1) SELECT 1 FORMAT CSV", b"SELECT 1"]
)
def test_an_insert_from_a_select_has_no_data(text: bytes) -> None:
    """It is a command of its own."""
    assert find_insert(text, is_complete=True) is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"SELECT 1", Reading),
        (b" -- a\n (select 1) ;", Reading),
        (b"WITH a AS (SELECT 1) SELECT * FROM a", Reading),
        (b"show tables", Reading),
        (b"EXPLAIN INSERT INTO t SELECT 1", Reading),
        (b"INSERT INTO t SELECT 1", Command),
        (b"WITH 1 AS a INSERT INTO t SELECT a", Command),
        (b"CREATE TABLE t (a UInt8) ENGINE = Memory", Command),
        (b"KILL QUERY WHERE 1", Command),
        (b"INSERT INTO t (a)", Inserting),
        (b"", Command),
        (b"'", Command),
    ],
)
def test_kinds_of_statements(text: bytes, kind: type) -> None:
    """The first word tells whether a result is streamed, data is inserted or a command is run."""
    assert isinstance(parse_statement(text), kind)


@pytest.mark.parametrize(
    ("text", "named", "final"),
    [
        (b"SELECT 1", "", b"SELECT 1\nOUT FORMAT TSV"),
        (b"SELECT 1 -- c", "", b"SELECT 1\nOUT FORMAT TSV"),
        (b"SELECT 1 FORMAT JSON;", "JSON", b"SELECT 1 \nOUT FORMAT JSON"),
        (b"SELECT 1 format JSON SETTINGS a = 1", "JSON", b"SELECT 1 \nOUT format JSON SETTINGS a = 1"),
        (b"SELECT 'FORMAT CSV'", "", b"SELECT 'FORMAT CSV'\nOUT FORMAT TSV"),
        (b"SELECT 1 AS format", "", b"SELECT 1 AS format\nOUT FORMAT TSV"),
        (b"SELECT * FROM (SELECT 1 AS format)", "", b"SELECT * FROM (SELECT 1 AS format)\nOUT FORMAT TSV"),
    ],
)
def test_the_output_clause_goes_before_format(text: bytes, named: str, final: bytes) -> None:
    """A FORMAT of the statement is kept, else the default one is added; strings and brackets do not count."""
    reading = parse_statement(text)
    assert isinstance(reading, Reading)
    assert reading.format == named
    assert reading.with_output(b"OUT", "TSV") == final


@given(st.binary(max_size=200))
def test_lexing_never_fails(text: bytes) -> None:
    """Any bytes are some statement, and an INSERT's data never begins outside of them."""
    parse_statement(text)
    starts_insert(text)
    found = find_insert(b"INSERT INTO t " + text, is_complete=True)
    assert found is None or found.data_at <= len(text) + len(b"INSERT INTO t ")


@pytest.mark.parametrize(
    "text", [b"/*", b"'\\'", b"`\\`", b'"\\"', b"$a$", b"$$", b"''", b"-- ", b"(", b"\\", b"'\\", b"# "], ids=repr
)
def test_no_text_takes_longer_than_its_length_allows(text: bytes) -> None:
    """Openings that are never closed do not make the lexer start over: 128 KiB of them end within the test's time-out."""
    whole = text * ((128 << 10) // len(text))
    parse_statement(b"SELECT " + whole)
    find_insert(b"INSERT INTO t " + whole, is_complete=True)


@pytest.mark.parametrize(
    ("text", "stateful", "reads_input"),
    [
        (b"SET a = 1", True, False),
        (b"use d", True, False),
        (b"CREATE OR REPLACE TEMPORARY TABLE t (a UInt8)", True, False),
        (b"CREATE TABLE t (a UInt8) ENGINE = Memory", False, False),
        (b"INSERT INTO t SELECT a FROM input('a UInt8')", False, True),
        (b"INSERT INTO t FROM INFILE 'x' FORMAT CSV", False, True),
        (b"INSERT INTO t SELECT input FROM u", False, False),
    ],
)
def test_what_a_command_needs(text: bytes, stateful: bool, reads_input: bool) -> None:
    """SET, USE and temporary tables need a lasting session; rows for input() cannot be had."""
    command = Command(text)
    assert (command.is_stateful, command.reads_input) == (stateful, reads_input)


def test_kill_finds_the_clients_query_id() -> None:
    """The engine knows the client's id as log_comment; other statements stay as they are."""
    assert (
        kill_by_comment(b"KILL QUERY WHERE `query_id` = 'x' SYNC")
        == b"KILL QUERY WHERE Settings['log_comment'] = 'x' SYNC"
    )
    assert kill_by_comment(b"DROP TABLE query_id") == b"DROP TABLE query_id"


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in pieces of `size` bytes."""
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("zstd", zstandard.ZstdCompressor().compress),
        ("lz4", lz4.frame.compress),
        ("xz", lzma.compress),
        ("bz2", bz2.compress),
    ],
)
def test_encoded_bodies_come_out_whole_however_they_are_cut(encoding: str, encode: Callable[[bytes], bytes]) -> None:
    """Content-Encoding is undone piece by piece; a body that was cut off is an error, not a shorter body."""
    body = b"0123456789" * 300_000
    encoded = encode(body)
    assert b"".join(decoded(cut(encoded, 777), encoding, in_blocks=False)) == body
    with pytest.raises(StatementError):
        list(decoded(cut(encode(body)[:-20], 777), encoding, in_blocks=False))


def test_unknown_encoding_is_refused() -> None:
    """Better no rows than garbage."""
    with pytest.raises(StatementError, match="Content-Encoding"):
        list(decoded(iter([b"x"]), "snappy", in_blocks=False))


@given(st.lists(st.binary(max_size=30)))
def test_pieces_keep_every_byte(pieces: list[bytes]) -> None:
    """Joining and cutting loses nothing and makes no empty pieces."""
    found = list(in_pieces(iter(pieces)))
    assert b"".join(found) == b"".join(pieces)
    assert all(found)


def test_large_pieces_are_cut_and_small_ones_joined() -> None:
    """The engine gets about 1 MiB at a time."""
    sizes = [len(piece) for piece in in_pieces(iter([b"x" * 10, b"x" * (3 << 20), *([b"y" * 1000] * 2000)]))]
    assert max(sizes) < (1 << 20) + 1000
    assert len(sizes) < 7


def test_error_texts_and_status() -> None:
    """The engine's text passes unchanged and gets the version once; a text without a code is code 1002."""
    error = from_engine("Code: 60. DB::Exception: no table. (UNKNOWN_TABLE)")
    assert (error.code, int(error.status)) == (60, 404)
    assert error.body("1.2") == "Code: 60. DB::Exception: no table. (UNKNOWN_TABLE) (version 1.2)\n"
    assert from_engine("x (version 1.2)").code == 1002
    twice = StatementError(27, "Code: 27. DB::Exception: x. (Y) (version 1.2)")
    assert (twice.body("1.2").count("version"), int(twice.status)) == (1, 400)
    assert int(refusal(202, "x").status) == 503
    assert int(refusal(194, "x").status) == 401


def test_hello_of_the_go_driver() -> None:
    """One Native block: block info, four columns, one row, a flag per column since 54454, revision 0."""
    assert is_hello(b"SELECT displayName(), version(), revision(), timezone()")
    assert not is_hello(b"SELECT version()")
    old, new = hello_block("h", "1", "UTC", 54400), hello_block("h", "1", "UTC", 54460)
    assert old.startswith(b"\x01\x00\x02\xff\xff\xff\xff\x00\x04\x01\x0ddisplayName()\x06String\x01h")
    assert b"\x0arevision()\x06UInt32\x00\x00\x00\x00" in old
    assert len(new) == len(old) + 4
