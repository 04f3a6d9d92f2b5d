"""The local ClickHouse server as its clients see it: curl, drivers, the sink."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import clickhouse_connect
import lz4.frame
import pytest
import zstandard
from clickhouse_connect.driver.exceptions import DatabaseError

from clickledger.clickhouse_server.blocks import compress_blocks, decompress_blocks
from clickledger.clickhouse_server.engine import MERGE_NICE
from clickledger.stack.guard import Guard
from tests.support.clickhouse import OWNER_PASSWORD, LocalClickHouse
from tests.support.clickhouse_http import ClickHouseHttp
from tests.support.processes import WAIT_S

EVENTS_MS = 1_763_824_000_123
SINK_SETTINGS = {
    "insert_deduplicate": 1,
    "max_insert_block_size": 1_000_000,
    "min_insert_block_size_rows": 1_000_000,
    "min_insert_block_size_bytes": 1_000_000_000,
    "input_format_parallel_parsing": 0,
    "async_insert": 0,
    "input_format_read_datetime_number_as_raw_value": 1,
}
SLOW = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1"
RUNNING = (
    "SELECT count() FROM system.processes WHERE query LIKE '%sipHash64(number) = 1%' AND query NOT LIKE '%processes%'"
)


@pytest.fixture(scope="module")
def clickhouse_server(guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalClickHouse]:
    """The local server even where other tests use a container: it is what is tested here."""
    server = LocalClickHouse(guard, tmp_path_factory.mktemp("clickhouse"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def owner(clickhouse_server: LocalClickHouse) -> ClickHouseHttp:
    """The user that may write."""
    return ClickHouseHttp(clickhouse_server.url)


@pytest.fixture(scope="module")
def reader(clickhouse_server: LocalClickHouse) -> ClickHouseHttp:
    """The user that may only read."""
    return ClickHouseHttp(clickhouse_server.reader_url)


@pytest.fixture
def table(owner: ClickHouseHttp) -> Iterator[str]:
    """An empty table of the shape that inserts are tested with."""
    name = "rows_of_the_http_test"
    owner.rows(f"DROP TABLE IF EXISTS {name}")
    owner.rows(
        f"CREATE TABLE {name} (id UInt64, at DateTime64(3), text String) ENGINE = MergeTree ORDER BY id "
        "SETTINGS non_replicated_deduplication_window = 1000"
    )
    yield name
    owner.rows(f"DROP TABLE {name}")


def lines(count: int, text_bytes: int = 960) -> bytes:
    """`count` rows in JSONEachRow of a bit more than `text_bytes` each."""
    return b"".join(b'{"id":%d,"at":%d,"text":"%s"}\n' % (i, EVENTS_MS, b"x" * text_bytes) for i in range(count))


def test_plain_handles(owner: ClickHouseHttp) -> None:
    """Liveness needs no password; other paths and methods do not exist."""
    for path in ("/ping", "/replicas_status", "/"):
        assert owner.ask(method="GET", path=path).body == b"Ok.\n"
    assert owner.ask(method="HEAD", path="/ping").status == 200
    assert owner.ask(method="GET", path="/nothing").status == 404
    assert owner.ask(method="PUT").status == 405


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [("default:wrong", 403, 516), ("nobody:x", 403, 516), ("reader:", 403, 516), ("default:", 403, 516)],
)
def test_wrong_passwords(clickhouse_server: LocalClickHouse, url: str, status: int, code: int) -> None:
    """Nobody gets in without the right password."""
    answer = ClickHouseHttp(f"http://{url}@127.0.0.1:{clickhouse_server.port}").ask("SELECT 1")
    assert (answer.status, answer.code) == (status, code)


def test_no_password_at_all(clickhouse_server: LocalClickHouse) -> None:
    """A browser is asked for one."""
    connection = http.client.HTTPConnection("127.0.0.1", clickhouse_server.port)
    connection.request("GET", "/?query=SELECT+1")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("WWW-Authenticate", "")[:5]) == (401, "Basic")
    answer.read()
    connection.close()


def test_query_in_url_in_body_and_in_both(owner: ClickHouseHttp) -> None:
    """The URL's text comes first; a form's fields count too."""
    assert owner.ask(method="GET", query="SELECT 1").body == b"1\n"
    assert owner.ask("SELECT 2").body == b"2\n"
    assert owner.ask("+ 2", query="SELECT 1").body == b"3\n"
    form = b'--b\r\ncontent-disposition: form-data; name="query"\r\n\r\nSELECT {x:UInt8}\r\n--b--\r\n'
    assert owner.ask(form, headers={"content-type": "multipart/form-data; boundary=b"}, param_x=4).body == b"4\n"


def test_headers_of_an_answer(owner: ClickHouseHttp) -> None:
    """Format, id, zone and summary are those of ClickHouse."""
    answer = owner.ask("SELECT number FROM numbers(3) FORMAT JSONEachRow", query_id="mine-1")
    assert answer.headers["x-clickhouse-format"] == "JSONEachRow"
    assert answer.headers["x-clickhouse-query-id"] == "mine-1"
    assert answer.headers["x-clickhouse-timezone"] == "UTC"
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    summary = json.loads(answer.headers["x-clickhouse-summary"])
    assert (summary["read_rows"], summary["result_rows"]) == ("3", "3")


@pytest.mark.parametrize(
    ("sql", "status", "code", "name"),
    [
        ("SELECT * FROM no_such_table", 404, 60, "UNKNOWN_TABLE"),
        ("SELECT", 400, 62, "SYNTAX_ERROR"),
        ("", 400, 62, "SYNTAX_ERROR"),
        ("SELECT 1; SELECT 2", 400, 62, "SYNTAX_ERROR"),
        ("SELECT throwIf(1)", 500, 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        ("SELECT 1 INTO OUTFILE 'x'", 500, 175, "INTO_OUTFILE_NOT_ALLOWED"),
        ("INSERT INTO no_such_table VALUES (1)", 404, 60, "UNKNOWN_TABLE"),
        ("SELECT {x:UInt8}", 500, 456, "UNKNOWN_QUERY_PARAMETER"),
        ("SELECT 1 FORMAT NoSuch", 404, 73, "UNKNOWN_FORMAT"),
    ],
)
def test_errors_are_clickhouses(owner: ClickHouseHttp, sql: str, status: int, code: int, name: str) -> None:
    """Status, code header and text."""
    answer = owner.ask(sql)
    assert (answer.status, answer.code) == (status, code)
    assert answer.text.startswith(f"Code: {code}. DB::Exception: ")
    assert f"({name}) (version " in answer.text


def test_settings_and_parameters_of_the_url(owner: ClickHouseHttp) -> None:
    """They hold for one request; parameters are bound by type, whatever they contain."""
    assert owner.rows("SELECT getSetting('max_threads')", max_threads=3) == [["3"]]
    assert owner.rows("SELECT getSetting('max_threads') = 3") == [["0"]]
    assert owner.ask("SELECT 1", no_such_setting=1).code == 115
    assert owner.ask("SELECT {x:String} FORMAT RawBLOB", param_x="it's \\\\ {y} --").body == b"it's \\ {y} --"
    assert owner.ask("SELECT {x:Array(UInt8)}", param_x="[1,2]").body == b"[1,2]\n"
    assert owner.ask("SELECT {x:UInt8}", param_x="300; DROP").code == 457
    assert owner.ask("SELECT currentDatabase()", database="system").body == b"system\n"
    assert owner.ask("SELECT 1", database="no_such_database").code == 81


@pytest.mark.parametrize(
    "output_format", ["CSV", "JSON", "JSONCompact", "Native", "Parquet", "RowBinaryWithNamesAndTypes", "TSV"]
)
def test_every_format_is_one_document(owner: ClickHouseHttp, output_format: str) -> None:
    """A result larger than what is held back comes as one document, not as several glued together."""
    sql = "SELECT number, toString(number) AS text FROM numbers(300000)"
    answer = owner.ask(f"{sql} FORMAT {output_format}")
    assert answer.status == 200
    if output_format.startswith("JSON"):
        assert json.loads(answer.body)["rows"] == 300_000
    assert len(answer.body) > 1 << 20
    owner.rows("CREATE OR REPLACE TABLE documents (number UInt64, text String) ENGINE = Memory")
    assert owner.ask(answer.body, query=f"INSERT INTO documents FORMAT {output_format}").status == 200
    assert owner.rows("SELECT count(), sum(number), max(text) FROM documents") == [["300000", "44999850000", "99999"]]
    owner.rows("DROP TABLE documents")


@pytest.mark.parametrize(
    ("encoding", "decode"),
    [
        ("gzip", gzip.decompress),
        ("deflate", zlib.decompress),
        ("zstd", lambda data: zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()),
        ("lz4", lz4.frame.decompress),
    ],
)
@pytest.mark.parametrize("rows", [3, 500_000])
def test_answers_are_compressed_when_asked(
    owner: ClickHouseHttp, encoding: str, decode: Callable[[bytes], bytes], rows: int
) -> None:
    """By Accept-Encoding and enable_http_compression; without the setting the answer is plain."""
    sql = f"SELECT number FROM numbers({rows})"
    plain = owner.ask(sql, headers={"Accept-Encoding": encoding})
    packed = owner.ask(sql, headers={"Accept-Encoding": encoding}, enable_http_compression=1)
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == encoding
    assert decode(packed.body) == plain.body


def test_native_blocks_both_ways(owner: ClickHouseHttp, table: str) -> None:
    """compress=1 packs the answer, decompress=1 unpacks the body, as JDBC does."""
    body = compress_blocks(lines(2000))
    assert owner.ask(body, decompress=1, query=f"INSERT INTO {table} FORMAT JSONEachRow", **SINK_SETTINGS).status == 200
    packed = owner.ask(f"SELECT id FROM {table} ORDER BY id", compress=1).body
    assert b"".join(decompress_blocks([packed])).split() == [b"%d" % i for i in range(2000)]
    assert owner.ask(b"garbage", decompress=1, query=f"INSERT INTO {table} FORMAT JSONEachRow").code == 271


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [("gzip", gzip.compress), ("zstd", zstandard.ZstdCompressor().compress), ("lz4", lz4.frame.compress)],
)
def test_bodies_may_be_compressed(
    owner: ClickHouseHttp, table: str, encoding: str, encode: Callable[[bytes], bytes]
) -> None:
    """A cut-off body inserts nothing."""
    query = f"INSERT INTO {table} FORMAT JSONEachRow"
    body = encode(lines(5000))
    cut_off = owner.ask(body[:-9], headers={"Content-Encoding": encoding}, query=query, **SINK_SETTINGS)
    assert cut_off.code == 271
    assert owner.rows(f"SELECT count() FROM {table}") == [["0"]]
    assert owner.ask(body, headers={"Content-Encoding": encoding}, query=query, **SINK_SETTINGS).status == 200
    assert owner.rows(f"SELECT count() FROM {table}") == [["5000"]]


def test_one_insert_is_one_part_and_one_token_is_stored_once(owner: ClickHouseHttp, table: str) -> None:
    """50,000 rows of 1 kB make one part; the same token again makes none; numbers are read as milliseconds."""
    body = lines(50_000)
    for token in ("a", "a", "b"):
        answer = owner.ask(
            body, query=f"INSERT INTO {table} FORMAT JSONEachRow", insert_deduplication_token=token, **SINK_SETTINGS
        )
        assert answer.status == 200
        assert json.loads(answer.headers["x-clickhouse-summary"])["written_rows"] == "50000"
    assert owner.rows(f"SELECT count(), uniqExact(_part), min(toUnixTimestamp64Milli(at)) FROM {table}") == [
        ["100000", "2", str(EVENTS_MS)]
    ]


def test_a_bad_row_inserts_nothing(owner: ClickHouseHttp, table: str) -> None:
    """An insert is atomic, and the connection lives on."""
    body = lines(20_000) + b'{"id":"x"}\n'
    answer = owner.ask(body, query=f"INSERT INTO {table} FORMAT JSONEachRow", **SINK_SETTINGS)
    assert (answer.status, answer.code) == (400, 27)
    assert owner.rows(f"SELECT count() FROM {table}") == [["0"]]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("MODIFY SETTING parts_to_throw_insert = 1, parts_to_delay_insert = 0", 252),
        (f"MODIFY SETTING min_free_disk_bytes_to_perform_insert = {1 << 60}", 243),
        ("MODIFY SETTING table_readonly = 1", 774),
        ("ADD CONSTRAINT none CHECK id < 0", 469),
    ],
)
def test_an_insert_that_was_not_stored_is_not_acknowledged(
    owner: ClickHouseHttp, table: str, change: str, code: int
) -> None:
    """What the table throws when rows are written reaches the client, although the engine's streaming insert swallows it."""
    query = f"INSERT INTO {table} FORMAT JSONEachRow"
    assert owner.ask(lines(1), query=query, **SINK_SETTINGS).status == 200
    owner.rows(f"ALTER TABLE {table} {change}")
    assert owner.ask(lines(2), query=query, **SINK_SETTINGS).code == code
    assert owner.rows(f"SELECT count() FROM {table}") == [["1"]]


def test_a_client_that_leaves_in_mid_body_inserts_nothing(
    owner: ClickHouseHttp, clickhouse_server: LocalClickHouse, table: str
) -> None:
    """Half a body is no insert."""
    parts = urlsplit(clickhouse_server.url)
    with socket.create_connection(("127.0.0.1", clickhouse_server.port)) as client:
        client.sendall(
            f"POST /?query=INSERT+INTO+{table}+FORMAT+JSONEachRow&user=default&password={parts.password} HTTP/1.1\r\n"
            "Host: x\r\nContent-Length: 100000000\r\n\r\n".encode()
        )
        client.sendall(lines(3000))
    assert owner.rows(f"SELECT count() FROM {table}") == [["0"]]
    assert owner.rows(f"SELECT count() FROM {table}") == [["0"]]


def test_inserts_with_data_in_the_text(owner: ClickHouseHttp, table: str) -> None:
    """All in the body, all in the URL, or begun in the URL and gone on with in the body."""
    insert = f"INSERT INTO {table} (id)"
    assert owner.ask(f"{insert} VALUES (1), (2);").status == 200
    assert owner.ask(f"{insert} FORMAT CSV\n3\n4\n").status == 200
    assert owner.ask(query=f"{insert} VALUES (5)").status == 200
    assert owner.ask("(6)", query=f"{insert} VALUES").status == 200
    assert owner.ask("VALUES (7)", query=insert).status == 200
    assert owner.rows(f"SELECT groupArray(id) FROM (SELECT id FROM {table} ORDER BY id)") == [["[1,2,3,4,5,6,7]"]]


def test_get_changes_nothing(owner: ClickHouseHttp, table: str) -> None:
    """As on a server, so that no link can write."""
    for sql in (f"INSERT INTO {table} (id) VALUES (1)", f"DROP TABLE {table}", f"INSERT INTO {table} (id) SELECT 1"):
        assert owner.ask(method="GET", query=sql).code == 164
    assert owner.rows(f"SELECT count() FROM {table}") == [["0"]]


def test_rows_for_input_are_refused(owner: ClickHouseHttp, table: str) -> None:
    """The engine in process would drop them in silence."""
    assert owner.ask(f"INSERT INTO {table} (id) SELECT a FROM input('a UInt64') FORMAT CSV\n1\n").code == 48


def test_named_sessions_remember(owner: ClickHouseHttp) -> None:
    """SET, USE and temporary tables last in a session; settings of one request do not."""
    owner.rows("CREATE TEMPORARY TABLE mine (a UInt8)", session_id="s1")
    owner.rows("INSERT INTO mine VALUES (7)", session_id="s1")
    owner.rows("SET max_threads = 3", session_id="s1")
    names = "getSetting('max_threads'), getSetting('max_block_size')"
    assert owner.rows(f"SELECT a, {names} FROM mine", session_id="s1", max_block_size=77) == [["7", "3", "77"]]
    assert owner.rows("SELECT getSetting('max_block_size') = 77", session_id="s1") == [["0"]]
    assert owner.ask("SELECT * FROM mine", session_id="s2").code == 60
    assert owner.ask("SELECT 1", session_id="s3", session_check=1).code == 372
    owner.rows("SELECT 1", session_id="s1", close_session=1)
    assert owner.ask("SELECT * FROM mine", session_id="s1").code == 60


def test_a_stream_that_breaks_is_seen_to_break(owner: ClickHouseHttp) -> None:
    """After the first bytes the status is 200, so the error stands at the end and the body does not end properly."""
    with pytest.raises(http.client.IncompleteRead) as caught:
        owner.ask("SELECT throwIf(number = 5000000), toString(number) FROM numbers(10000000)")
    assert b"\r\n__exception__\r\n" in caught.value.partial
    assert b"Code: 395. DB::Exception" in caught.value.partial


def test_a_client_that_leaves_ends_its_query(owner: ClickHouseHttp, clickhouse_server: LocalClickHouse) -> None:
    """A query that has given nothing yet is killed in the engine."""
    parts = urlsplit(clickhouse_server.url)
    client = socket.create_connection(("127.0.0.1", clickhouse_server.port))
    text = SLOW.encode()
    head = f"POST /?user=default&password={parts.password} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n"
    client.sendall(head.encode() + text)
    wait_for(lambda: owner.rows(RUNNING) == [["1"]])
    client.close()
    wait_for(lambda: owner.rows(RUNNING) == [["0"]])


def test_a_client_that_stops_reading_can_leave_too(owner: ClickHouseHttp, clickhouse_server: LocalClickHouse) -> None:
    """An engine that waits for a full pipe is ended as well."""
    parts = urlsplit(clickhouse_server.url)
    running = "SELECT count() FROM system.processes WHERE query LIKE '%numbers(900000000000)%' AND query NOT LIKE '%processes%'"
    client = socket.create_connection(("127.0.0.1", clickhouse_server.port))
    head = f"GET /?user=default&password={parts.password}&query=SELECT+*+FROM+numbers(900000000000) HTTP/1.1\r\nHost: x\r\n\r\n"
    client.sendall(head.encode())
    client.recv(1000)
    wait_for(lambda: owner.rows(running) == [["1"]])
    client.close()
    wait_for(lambda: owner.rows(running) == [["0"]])


def test_kill_query_by_the_clients_id(owner: ClickHouseHttp) -> None:
    """KILL QUERY finds the id that the client gave; the same id cannot run twice."""
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(owner.ask, SLOW, query_id="kill-me")
        wait_for(lambda: owner.rows(RUNNING) == [["1"]])
        assert owner.ask("SELECT 1", query_id="kill-me").code == 216
        owner.rows("KILL QUERY WHERE query_id = 'kill-me' SYNC")
        assert slow.result().code == 394


def test_too_many_statements_are_turned_away(owner: ClickHouseHttp, reader: ClickHouseHttp) -> None:
    """4 of a reader run and 64 wait; what comes beyond is answered 503 with code 202, and the owner is not touched."""
    with ThreadPoolExecutor(84) as pool:
        slow = [pool.submit(reader.ask, SLOW, query_id=f"slow-{number}") for number in range(4)]
        wait_for(lambda: owner.rows(RUNNING) == [["4"]])
        quick = [pool.submit(reader.ask, "SELECT 1") for _ in range(80)]
        wait_for(lambda: sum(answer.done() for answer in quick) == 16)
        assert owner.rows("SELECT 1") == [["1"]]
        owner.rows("KILL QUERY WHERE query_id LIKE 'slow-%'")
        assert {answer.result().code for answer in slow} == {394}
        found = [(answer.result().status, answer.result().code) for answer in quick]
    assert sorted(found) == [(200, 0)] * 64 + [(503, 202)] * 16


def test_reads_go_on_while_the_sink_writes(owner: ClickHouseHttp, reader: ClickHouseHttp, table: str) -> None:
    """Two inserts at a time and readers beside them; every count is one of whole inserts."""
    body = lines(10_000)
    query = f"INSERT INTO {table} FORMAT JSONEachRow"
    done = threading.Event()
    counts: list[int] = []

    def read() -> None:
        while not done.is_set():
            counts.append(int(reader.rows(f"SELECT count() FROM {table}")[0][0]))

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        writers = [
            pool.submit(owner.ask, body, query=query, insert_deduplication_token=f"t{i}", **SINK_SETTINGS)
            for i in range(10)
        ]
        assert {writer.result().status for writer in writers} == {200}
        done.set()
        for one in readers:
            one.result()
    assert all(count % 10_000 == 0 for count in counts)
    assert owner.rows(f"SELECT count() FROM {table}") == [["100000"]]


def test_memory_does_not_grow_with_the_result(owner: ClickHouseHttp, clickhouse_server: LocalClickHouse) -> None:
    """Half a gigabyte passes through a process that grows by far less."""
    parts = urlsplit(clickhouse_server.url)
    before = resident_bytes(clickhouse_server.pid)
    connection = http.client.HTTPConnection("127.0.0.1", clickhouse_server.port)
    sql = "SELECT number, toString(number) FROM numbers(30000000) FORMAT RowBinary"
    connection.request("POST", f"/?user=default&password={parts.password}", body=sql.encode())
    answer = connection.getresponse()
    passed, grown = 0, 0
    while chunk := answer.read(1 << 20):
        passed += len(chunk)
        if passed % 97 == 0:
            grown = max(grown, resident_bytes(clickhouse_server.pid) - before)
    grown = max(grown, resident_bytes(clickhouse_server.pid) - before)
    connection.close()
    assert passed > 450_000_000
    assert grown < 200_000_000


def test_the_python_driver(clickhouse_server: LocalClickHouse, table: str) -> None:
    """clickhouse-connect creates, inserts, binds, streams, and raises errors with their code."""
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=clickhouse_server.port, password=OWNER_PASSWORD, database="clickledger"
    )
    at = datetime(2025, 1, 1, tzinfo=UTC)
    client.insert(table, [[5001, at, "a"], [5002, at, "b"]], column_names=["id", "at", "text"])
    client.raw_insert(table, insert_block=lines(1000), fmt="JSONEachRow", settings=dict(SINK_SETTINGS))
    assert client.query(f"SELECT text FROM {table} WHERE id = {{x:UInt64}}", parameters={"x": 5002}).result_rows[0] == (
        "b",
    )
    with client.query_row_block_stream(f"SELECT id FROM {table}") as stream:
        assert sum(len(block) for block in stream) == 1002
    with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
        client.query("SELECT * FROM no_such_table")
    client.close()


async def test_the_async_python_driver(clickhouse_server: LocalClickHouse) -> None:
    """The same driver's asynchronous client."""
    client = await clickhouse_connect.get_async_client(
        host="127.0.0.1", port=clickhouse_server.port, password=OWNER_PASSWORD, database="clickledger"
    )
    assert (await client.query("SELECT sum(number) FROM numbers(1000)")).first_row == (499_500,)
    await client.close()


def test_grafanas_first_question(reader: ClickHouseHttp) -> None:
    """Its driver asks for the native protocol's framing and is told to read the plain one."""
    fields = {
        "default_format": "Native",
        "client_protocol_version": 54460,
        "database": "clickledger",
        "max_execution_time": 30,
    }
    hello = reader.ask("SELECT displayName(), version(), revision(), timezone()", **fields)
    assert hello.body.startswith(b"\x01\x00\x02\xff\xff\xff\xff\x00\x04\x01")
    assert b"revision()\x06UInt32\x00\x00\x00\x00\x00" in hello.body
    assert reader.ask("SELECT 1 AS x", **fields).body == b"\x01\x01\x01x\x05UInt8\x01"
    packed = reader.ask("SELECT 1 AS x", compress=1, **fields).body
    assert b"".join(decompress_blocks([packed])) == b"\x01\x01\x01x\x05UInt8\x01"


def test_merges_give_way(owner: ClickHouseHttp) -> None:
    """The engine takes the setting by which threads that merge give way to inserts and questions."""
    sql = "SELECT value FROM system.server_settings WHERE name = 'os_threads_nice_value_merge_mutate'"
    assert owner.rows(sql) == [[str(MERGE_NICE)]]


def test_answers_do_not_wait_for_the_clients_acknowledgement(clickhouse_server: LocalClickHouse) -> None:
    """On a kept connection the fastest of some short queries takes less than the 40 ms that TCP may delay one."""
    parts = urlsplit(clickhouse_server.url)
    connection = http.client.HTTPConnection(str(parts.hostname), int(parts.port or 0), timeout=WAIT_S)
    took_s = []
    for _ in range(30):
        began = time.monotonic()
        connection.request("POST", "/", b"SELECT 1", {"X-ClickHouse-Key": OWNER_PASSWORD})
        assert connection.getresponse().read() == b"1\n"
        took_s.append(time.monotonic() - began)
    connection.close()
    assert min(took_s) < 0.03


def test_stop_finishes_inserts_and_kill_loses_nothing_acknowledged(guard: Guard, tmp_path: Path) -> None:
    """SIGTERM ends with 0 after the running insert; after SIGKILL every acknowledged row is there and tokens still hold."""
    server = LocalClickHouse(guard, tmp_path)
    owner = ClickHouseHttp(server.url)
    owner.rows(
        "CREATE TABLE t (id UInt64, at DateTime64(3), text String) ENGINE = MergeTree ORDER BY id "
        "SETTINGS non_replicated_deduplication_window = 1000"
    )
    try:
        query = "INSERT INTO t FORMAT JSONEachRow"
        for number in range(3):
            sent = owner.ask(lines(5000), query=query, insert_deduplication_token=f"t{number}", **SINK_SETTINGS)
            assert sent.status == 200
        server.kill()
        server.start()
        assert owner.rows("SELECT count(), uniqExact(_part) FROM t") == [["15000", "3"]]
        owner.ask(lines(5000), query=query, insert_deduplication_token="t2", **SINK_SETTINGS)
        assert owner.rows("SELECT count() FROM t") == [["15000"]]
        with ThreadPoolExecutor(1) as pool:
            slow = "INSERT INTO t (id) SELECT number + sleepEachRow(0.05) FROM numbers(50)"
            running = pool.submit(owner.ask, slow)
            wait_for(lambda: owner.rows("SELECT count() FROM system.processes WHERE query LIKE 'INSERT%'") == [["1"]])
            assert server.stop() == 0
            assert running.result().status == 200
        server.start()
        assert owner.rows("SELECT count() FROM t") == [["15050"]]
    finally:
        server.close()


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds."""
    pause, deadline = threading.Event(), time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.05)


def resident_bytes(pid: int) -> int:
    """Memory of a process that is not swapped out."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))
