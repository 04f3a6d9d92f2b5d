"""What the read-only user may and may not do, asked of the engine itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clickledger.stack.guard import Guard
from tests.support.clickhouse import LocalClickHouse
from tests.support.clickhouse_http import ClickHouseHttp

REFUSED = (
    # files, network, programs
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT file('/etc/passwd')",
    "SELECT FiLe('/etc/passwd')",
    "SELECT `file`('/etc/passwd')",
    "SELECT \"file\"('/etc/passwd')",
    "SELECT * FROM /* x */ `FILE` -- y\n ('/etc/passwd')",
    "SELECT arrayMap(x -> file(x), ['/etc/passwd'])",
    "SELECT * REPLACE (file('/etc/passwd') AS id) FROM mine",
    "SELECT * APPLY (file) FROM mine",
    "SELECT 1 ORDER BY 1 WITH FILL FROM length(file('/etc/passwd'))",
    "SELECT 1 LIMIT (SELECT length(file('/etc/passwd')))",
    "SELECT 1 IN file('/etc/passwd')",
    "WITH file('/etc/passwd') AS a SELECT a",
    "SELECT 1 UNION ALL SELECT length(file('/etc/passwd'))",
    "SELECT * FROM (SELECT * FROM (SELECT * FROM file('/etc/passwd', 'LineAsString')))",
    "SELECT * FROM view(SELECT * FROM file('/etc/passwd', 'LineAsString'))",
    "DESCRIBE TABLE file('/etc/passwd')",
    "EXPLAIN SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "EXPLAIN SYNTAX SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
    "SELECT * FROM s3('http://127.0.0.1:1/x', 'CSV', 'a String')",
    "SELECT * FROM remote('127.0.0.1', 'elsewhere', 'secret')",
    "SELECT * FROM cluster('default', 'elsewhere', 'secret')",
    "SELECT * FROM executable('id', 'CSV', 'a String')",
    "SELECT * FROM python(os)",
    "SELECT * FROM Python('os')",
    "SELECT * FROM sqlite('/tmp/x', 'y')",
    "SELECT * FROM input('a UInt8')",
    "SELECT 1 INTO OUTFILE '/tmp/clickledger-must-not-be'",
    "SELECT 1 INTO/**/OUTFILE '/tmp/clickledger-must-not-be' FORMAT CSV",
    "SELECT 1 UNION DISTINCT SELECT 2 INTO OUTFILE '/tmp/clickledger-must-not-be' FORMAT CSV",
    # other tables
    "SELECT * FROM elsewhere.secret",
    'SELECT * FROM `elsewhere`."secret"',
    "SELECT 1 UNION ALL SELECT x FROM elsewhere.secret",
    "SELECT 1 EXCEPT SELECT x FROM elsewhere.secret",
    "WITH a AS (SELECT * FROM elsewhere.secret) SELECT * FROM a",
    "SELECT * FROM mine JOIN elsewhere.secret AS s ON s.x = mine.id",
    "SELECT id IN (SELECT x FROM elsewhere.secret) FROM mine",
    "SELECT id IN elsewhere.secret FROM mine",
    "SELECT (SELECT max(x) FROM elsewhere.secret)",
    "SELECT * FROM merge('elsewhere', '.*')",
    "SELECT * FROM merge(REGEXP('.*'), 'secret')",
    "SELECT * FROM loop('elsewhere', 'secret') LIMIT 1",
    "SELECT * FROM mergeTreeIndex('elsewhere', 'secret')",
    "SELECT joinGet('elsewhere.secret', 'x', 1)",
    "SELECT dictGet('elsewhere.secret', 'x', 1)",
    "SELECT hasColumnInTable('elsewhere', 'secret', 'x')",
    "FROM elsewhere.secret SELECT *",
    "DESCRIBE elsewhere.secret",
    "SHOW CREATE TABLE elsewhere.secret",
    "EXISTS elsewhere.secret",
    "SELECT * FROM system.processes",
    "SELECT * FROM SYSTEM.processes",
    "SELECT * FROM system . `processes`",
    'SELECT * FROM "system"."parts"',
    "SELECT 1 IN system.processes",
    "SELECT * FROM information_schema.engines",
    "SHOW PROCESSLIST",
    "SHOW GRANTS",
    "SHOW USERS",
    # settings and roles
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 FORMAT CSV SETTINGS readonly = 0",
    "SELECT 1 FROM (SELECT 1 SETTINGS max_threads = 1)",
    "SET readonly = 0",
    "SET ROLE owner",
    "EXECUTE AS default SELECT 1",
    "USE elsewhere",
    "SELECT getSetting('max_threads')",
    "SELECT getServerSetting('path')",
    # changes
    "INSERT INTO mine (id) VALUES (1)",
    "/* SELECT */ INSERT INTO mine (id) FORMAT CSV\n1",
    "INSERT INTO mine SELECT 1",
    "INSERT INTO FUNCTION file('/tmp/clickledger-must-not-be', 'CSV', 'a UInt8') VALUES (1)",
    "EXPLAIN INSERT INTO mine SELECT 1",
    "CREATE TABLE x (a UInt8) ENGINE = Memory",
    "CREATE TEMPORARY TABLE x (a UInt8)",
    "CREATE FUNCTION f AS x -> x",
    "DROP TABLE mine",
    "ALTER TABLE mine DELETE WHERE 1",
    "TRUNCATE TABLE mine",
    "OPTIMIZE TABLE mine",
    "KILL QUERY WHERE 1",
    "SYSTEM RELOAD USERS",
    "GRANT ALL ON *.* TO default",
    "BACKUP TABLE mine TO File('/tmp/clickledger-must-not-be')",
    "CHECK TABLE mine",
    # more than one, or none that can be read
    "SELECT 1; SELECT 2",
    "SELECT 1;\nDROP TABLE mine",
    "SELECT 1 -- \n; DROP TABLE mine",
    "SELECT 1 PARALLEL WITH SELECT 2",
    "SELECT ' FORMAT CSV",
    'SELECT " FORMAT CSV',
    "SELECT $$ FORMAT CSV",
    "SELECT 1 /* FORMAT CSV",
    "SELECT 'a' FORMAT x'",
    "SELECT sleep(1)",
    "garbage",
    "",
)

ALLOWED = (
    "SELECT count() FROM mine",
    "SELECT * FROM clickledger.mine",
    "SELECT * FROM view_of_mine",
    "SELECT hour FROM view_with_settings",
    "WITH a AS (SELECT id FROM mine) SELECT count() FROM a",
    "SELECT 1 UNION DISTINCT SELECT 2",
    "(SELECT 1) EXCEPT SELECT 2",
    "SELECT a.id FROM mine AS a JOIN mine AS b USING id WHERE a.id IN (1, 2)",
    "SELECT sumIf(id, id > 1), uniqExact(id), countState(), quantileTDigestIf(0.5)(id, 1), argMax(id, id) FROM mine",
    "SELECT id, sum(id) OVER w, row_number() OVER (ORDER BY id) FROM mine WINDOW w AS (ORDER BY id)",
    "SELECT toStartOfInterval(now(), INTERVAL 15 MINUTE), now64(3) AT TIME ZONE 'Asia/Kolkata', dateDiff('day', now(), today())",
    "SELECT CASE WHEN 1 THEN 2 END, CAST(1 AS String), 1::String, 'a' LIKE '%', [1, 2][1], map('a', 1)['a'], (1, 2).1",
    "SELECT number FROM numbers(3) ORDER BY number WITH FILL STEP 1 LIMIT 2",
    "SELECT 'INTO OUTFILE; DROP TABLE x' AS `FORMAT`",
    "SELECT name FROM system.tables WHERE database = 'elsewhere'",
    "SELECT table, name, type FROM system.columns",
    "SELECT TABLE_NAME FROM INFORMATION_SCHEMA.TABLES",
    "SHOW TABLES",
    "SHOW DATABASES",
    "DESCRIBE mine",
    "SHOW CREATE TABLE mine",
    "EXISTS mine",
    "EXPLAIN SELECT * FROM mine",
    "SELECT version(), currentDatabase(), currentUser(), timezone()",
)


@pytest.fixture(scope="module")
def clickhouse_server(guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalClickHouse]:
    """The local server even where other tests use a container: it is what is tested here."""
    server = LocalClickHouse(guard, tmp_path_factory.mktemp("clickhouse"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def owner(clickhouse_server: LocalClickHouse) -> Iterator[ClickHouseHttp]:
    """Makes what the reader may see and what it may not."""
    owner = ClickHouseHttp(clickhouse_server.url)
    owner.rows("CREATE DATABASE IF NOT EXISTS elsewhere")
    owner.rows("CREATE TABLE IF NOT EXISTS elsewhere.secret (x UInt8) ENGINE = MergeTree ORDER BY x")
    owner.rows("INSERT INTO elsewhere.secret VALUES (42)")
    owner.rows("CREATE TABLE IF NOT EXISTS mine (id UInt64) ENGINE = MergeTree ORDER BY id")
    owner.rows("CREATE OR REPLACE VIEW view_of_mine AS SELECT * FROM mine")
    owner.rows(
        "CREATE OR REPLACE VIEW view_with_settings AS SELECT toHour(toTimeZone(now(), if(id = 1, 'UTC', 'Asia/Kolkata')))"
        " AS hour FROM mine SETTINGS allow_nonconst_timezone_arguments = 1"
    )
    owner.rows("INSERT INTO mine VALUES (1), (2)")
    yield owner
    owner.rows("DROP DATABASE elsewhere")
    owner.rows("DROP TABLE view_of_mine")
    owner.rows("DROP TABLE view_with_settings")
    owner.rows("DROP TABLE mine")


@pytest.fixture
def reader(owner: ClickHouseHttp, clickhouse_server: LocalClickHouse) -> ClickHouseHttp:
    """The user under test."""
    return ClickHouseHttp(clickhouse_server.reader_url)


@pytest.mark.parametrize("sql", REFUSED)
def test_refused(reader: ClickHouseHttp, sql: str) -> None:
    """Nothing that reaches out, looks elsewhere, sets, changes or cannot be understood."""
    answer = reader.ask(sql)
    assert answer.status >= 400, answer.text
    assert b"root:" not in answer.body
    assert reader.ask(method="GET", query=sql).status >= 400 or not sql


@pytest.mark.parametrize("sql", ALLOWED)
def test_allowed(reader: ClickHouseHttp, sql: str) -> None:
    """Ordinary reading, and what drivers ask when they connect."""
    answer = reader.ask(sql)
    assert answer.status == 200, answer.text


def test_nothing_of_other_databases_is_listed(reader: ClickHouseHttp) -> None:
    """The schema is that of the one database."""
    assert reader.rows("SELECT name FROM system.tables WHERE name = 'secret'") == []
    assert reader.rows("SHOW TABLES FROM elsewhere") == []
    assert reader.rows("SELECT name FROM system.columns WHERE table = 'secret'") == []
    assert reader.rows("SELECT count() > 0 FROM system.tables WHERE database = 'clickledger'") == [["1"]]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_memory_usage", "0"),
        ("additional_table_filters", "{'mine': '1'}"),
        ("allow_introspection_functions", "1"),
        ("format_schema", "x"),
        ("role", "owner"),
        ("log_queries_cut_to_length", "1"),
    ],
)
def test_settings_of_the_url_beyond_the_list(reader: ClickHouseHttp, name: str, value: str) -> None:
    """They are refused, not dropped, so that nobody believes in them."""
    assert reader.ask("SELECT 1", **{name: value}).status >= 400


def test_what_drivers_send_is_taken(reader: ClickHouseHttp) -> None:
    """Shape of the answer and harmless noise; readonly cannot be lowered and the database cannot be changed."""
    answer = reader.ask("SELECT 1 AS x", readonly=0, default_format="JSON", output_format_json_quote_64bit_integers=1)
    assert answer.status == 200
    assert reader.ask("INSERT INTO mine VALUES (1)", readonly=0).status >= 400
    assert reader.ask("SELECT count() FROM processes", database="system").code == 60
    assert reader.ask("SELECT count() FROM mine", database="default", session_id="a").status == 200


def test_no_answer_is_a_page_or_a_script(reader: ClickHouseHttp) -> None:
    """Every answer forbids a browser to run or guess anything; a path of a stranger's is not said back."""
    unknown = reader.ask(method="GET", path="/%3Cscript%3E")
    assert (unknown.status, unknown.headers["content-type"]) == (404, "text/plain; charset=UTF-8")
    assert b"script" not in unknown.body
    for answer in (unknown, reader.ask(path="/ping"), reader.ask("SELECT 1 FORMAT HTML"), reader.ask("garbage")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"


def test_long_texts_are_refused(reader: ClickHouseHttp) -> None:
    """A reader's statement has the length that a server parses by default: 256 KiB."""
    assert reader.ask("SELECT 1 /* " + "x" * (300 << 10)).code == 223


def test_parameters_cannot_smuggle_names(reader: ClickHouseHttp) -> None:
    """An identifier that comes as a parameter is judged like one in the text."""
    sql = "SELECT count() FROM {a:Identifier}.{b:Identifier}"
    assert reader.ask(sql, param_a="clickledger", param_b="mine").status == 200
    assert reader.ask(sql, param_a="system", param_b="processes").code == 497
    assert reader.ask(sql, param_a="elsewhere", param_b="secret").code == 497
    assert reader.ask("SELECT {x:String}", param_x="file('/etc/passwd')").body == b"file(\\'/etc/passwd\\')\n"


def test_a_filter_set_by_the_server_cannot_be_undone(owner: ClickHouseHttp, reader: ClickHouseHttp) -> None:
    """The seam for a filter per tenant: readonly = 1 keeps additional_table_filters, through views too.

    The table function merge() reads past such a filter, so it has to stay refused to readers.
    """
    fields = {"additional_table_filters": "{'clickledger.mine': 'id = 1'}", "readonly": "1"}
    assert owner.rows("SELECT id FROM mine", **fields) == [["1"]]
    assert owner.rows("SELECT id FROM view_of_mine", **fields) == [["1"]]
    assert owner.rows("SELECT a.id FROM clickledger.mine AS a", **fields) == [["1"]]
    assert owner.rows("SELECT count() FROM mine", **fields) == [["1"]]
    assert owner.ask("SELECT id FROM mine SETTINGS additional_table_filters = {}", **fields).code == 164
    assert reader.ask("SELECT id FROM merge('clickledger', '^mine$')").code == 497
