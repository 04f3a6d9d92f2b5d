"""Event detail records over HTTP on a stack of their own: formats, filters, pulls by cursor, and readers who misbehave."""

from __future__ import annotations

import gzip
import http.client
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import SecretStr

from clickledger.stack.guard import Guard
from reporting.edr.columns import COLUMNS, NAMES, Kind
from reporting.edr.pulls import earliest
from reporting.formulas import FORMULA_STARTS
from shared.clickhouse import ClickHouse
from shared.enriched import Stream
from shared.settings import ClickHouseSettings
from tests.support.edr import Client, Export, make_rows, owner
from tests.support.full_stack import FullStack
from tests.support.pipeline import Sending, audit_is_clean, eventually, is_whole, query, succeed

BULK_ROWS = 100_000
PULL_ROWS = BULK_ROWS // 2
_FORMULAS = ("=1+2", "+49 170", "＝1", "＠x")
_LINKS = """short_url,promotion_id,recipient,link_name,long_url
http://edr.example/a,=SUM(1),+4917000001,"say ""hi"", now",https://shop.example/a
http://edr.example/b,p-2,4917000002,b,https://shop.example/b
"""


@pytest.fixture(scope="module")
def stack(guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FullStack]:
    """A stack with clicks of its tenant `default`, and many rows of the tenant `bulk`."""
    folder = tmp_path_factory.mktemp("edr")
    stack = FullStack(guard, folder, env={"CLICKLEDGER_REPORTING_PULL_ROWS_MAX": str(PULL_ROWS)})
    (folder / "links.csv").write_text(_LINKS)
    succeed(stack, "links", "load", str(folder / "links.csv"), "--wait")
    clicks = "".join(
        f'{{"short-url":"http://edr.example/{"ab"[i % 2]}","user-agent":"{_FORMULAS[i % 4]} ü\\"x\\", {i}"}}\n'
        for i in range(40)
    )
    (folder / "clicks.ndjson").write_text(clicks)
    succeed(stack, "send", "--from", str(folder / "clicks.ndjson"))
    audit_is_clean(stack)
    succeed(stack, "tenants", "create", "bulk")
    make_rows(stack, "bulk", BULK_ROWS)
    yield stack
    stack.close()


@pytest.fixture(scope="module")
def reader(stack: FullStack) -> Client:
    """A reader of the tenant `default`."""
    return Client(stack, stack.ready["reports_key"])


@pytest.fixture(scope="module")
def bulk(stack: FullStack) -> Client:
    """A reader of the tenant `bulk`."""
    return Client(stack, succeed(stack, "keys", "create", "--tenant", "bulk", "--grants", "reports").strip())


def ours(reader: Client, **parameters: str) -> Export:
    """The forty clicks on the links of this file; another test sends more."""
    return reader.everything(**{"link": "edr.example/a", **parameters})


def positions(export: Export) -> list[tuple[str, int, int]]:
    """The positions of NDJSON's rows, in their order."""
    return [(row["stream"], row["raw_partition"], row["raw_offset"]) for row in export.json_rows]


def stored(stack: FullStack, tenant: str = "default") -> list[tuple[str, int, int]]:
    """The positions of a tenant's rows."""
    sql = f"SELECT stream, raw_partition, raw_offset FROM clicks WHERE tenant = '{tenant}' ORDER BY ALL"
    return [(row["stream"], row["raw_partition"], int(row["raw_offset"])) for row in query(stack, sql)]


def test_the_columns_are_the_views(stack: FullStack) -> None:
    """Names, order and kinds of the list in the code are those of the view."""
    kinds = {"UUID": Kind.ID, "Bool": Kind.BOOLEAN, "String": Kind.TEXT, "LowCardinality(String)": Kind.TEXT}
    found = []
    for row in query(stack, "DESCRIBE TABLE edr"):
        kind = Kind.TIME if "DateTime64(3, 'UTC')" in row["type"] else kinds.get(row["type"], Kind.INTEGER)
        found.append((row["name"], kind))
    assert found == [(column.name, column.kind) for column in COLUMNS]


def test_the_three_formats_say_the_same(reader: Client) -> None:
    """CSV by RFC 4180, NDJSON and Parquet have the same rows; what a spreadsheet would calculate is quoted in CSV only."""
    rows = sorted(ours(reader, format="ndjson").json_rows, key=lambda row: row["transaction_id"])
    assert len(rows) == 20
    assert all(list(row) == list(NAMES) for row in rows)
    text = ours(reader, format="csv").body
    assert text.count(b"\r\n") == 21
    assert b"\n" not in text.replace(b"\r\n", b"")
    in_csv = sorted(Export(200, {}, text).csv_rows, key=lambda row: row["transaction_id"])
    for row, cells in zip(rows, in_csv, strict=True):
        assert list(cells) == list(NAMES)
        for name, value in row.items():
            shown = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            assert cells[name] == (f"'{shown}" if shown.startswith(FORMULA_STARTS) else shown), name
    assert {cells["promotion_id"] for cells in in_csv} == {"'=SUM(1)"}
    file = ours(reader, format="parquet").body
    frame = pd.read_parquet(io.BytesIO(file)).sort_values("transaction_id")
    assert list(frame["user_agent"]) == [row["user_agent"] for row in rows]


def test_parquet_has_the_right_types(reader: Client, tmp_path: Path) -> None:
    """pandas, polars and DuckDB read times as times in UTC, numbers as numbers, ids as text."""
    file = tmp_path / "edr.parquet"
    file.write_bytes(ours(reader, format="parquet", compression="gzip").body)
    frame = pd.read_parquet(file)
    assert str(frame["received_at"].dtype) == "datetime64[ms, UTC]"
    assert str(frame["is_bot"].dtype) == "bool"
    assert str(frame["raw_offset"].dtype) == "uint64"
    assert isinstance(frame["transaction_id"].iloc[0], str)
    lazy = pl.read_parquet(file)
    assert lazy.schema["received_at"] == pl.Datetime("ms", "UTC")
    assert (lazy.schema["is_bot"], lazy.schema["country"], lazy.schema["asn"]) == (pl.Boolean, pl.String, pl.UInt32)
    with duckdb.connect() as database:
        types = {name: kind for name, kind, *_ in database.execute(f"DESCRIBE SELECT * FROM '{file}'").fetchall()}
    assert list(types) == list(NAMES)
    assert types["received_at"] == "TIMESTAMP WITH TIME ZONE"
    assert (types["sent_at"], types["is_bot"]) == ("TIMESTAMP WITH TIME ZONE", "BOOLEAN")
    assert (types["raw_offset"], types["status"]) == ("UBIGINT", "VARCHAR")
    assert pq.ParquetFile(file).metadata.row_group(0).column(0).compression == "GZIP"


def test_compression(reader: Client) -> None:
    """A compression that is asked for makes a file of that kind; Accept-Encoding's is the transport's."""
    plain = sorted(ours(reader, compression="none").body.splitlines())
    packed = ours(reader, compression="gzip")
    assert packed.headers["content-type"] == "application/gzip"
    assert packed.headers["content-disposition"].endswith('"edr.csv.gz"')
    assert sorted(gzip.decompress(packed.body).splitlines()) == plain
    packed = ours(reader, compression="zstd")
    assert "content-encoding" not in packed.headers
    assert sorted(zstandard.ZstdDecompressor().decompressobj().decompress(packed.body).splitlines()) == plain
    carried = reader.get(
        {"accept-encoding": "br, gzip;q=0.5, zstd;q=0"}, from_="2020-01-01T00:00:00Z", link="edr.example/a"
    )
    assert (carried.headers["content-encoding"], carried.headers["content-type"][:8]) == ("gzip", "text/csv")
    assert sorted(gzip.decompress(carried.body).splitlines()) == plain


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [
        ({"promotion_id": "p-2"}, 20),
        ({"promotion_id": "=SUM(1)"}, 20),
        ({"promotion_id": "' OR 1=1 --"}, 0),
        ({"promotion_id": "\\"}, 0),
        ({"link": "edr.example/a"}, 20),
        ({"link": "http://edr.example/b", "promotion_id": "p-2"}, 20),
        ({"promotion_id": "p-2", "status": "duplicate,rejected"}, 0),
        ({"promotion_id": "p-2", "status": "accepted,duplicate", "bots": "no"}, 20),
        ({"promotion_id": "p-2", "bots": "yes"}, 0),
        ({"promotion_id": "p-2", "time": "clicked_at"}, 20),
        ({"promotion_id": "p-2", "to": "2021-01-01T00:00:00Z"}, 0),
    ],
)
def test_filters(reader: Client, wanted: dict[str, str], rows: int) -> None:
    """Filters hold together, and no text in them is SQL."""
    assert len(reader.everything(format="ndjson", **wanted).json_rows) == rows


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "from is needed"),
        ({"from_": "2026-01-01"}, "no zone"),
        ({"from_": "yesterday"}, "not a time"),
        ({"from_": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "must be before"),
        ({"from_": "0001-01-01T00:00:00Z"}, "1970"),
        ({"from_": "2020-01-01T00:00:00Z", "to": "9999-01-01T00:00:00Z"}, "2261"),
        ({"from_": "2020-01-01T00:00:00Z", "format": "xml"}, "format"),
        ({"from_": "2020-01-01T00:00:00Z", "status": "lost"}, "status"),
        ({"from_": "2020-01-01T00:00:00Z", "tenant": "bulk"}, "Unknown parameter"),
        ({"cursor": "latest", "from_": "2020-01-01T00:00:00Z"}, "cursor goes without"),
        ({"cursor": "x y.1"}, "cursor"),
        ({"cursor": "stream.1.-1"}, "cursor"),
        ({"cursor": "stream"}, "cursor"),
    ],
)
def test_bad_requests(reader: Client, asked: dict[str, str], says: str) -> None:
    """Each is refused with 400 and names what is wrong."""
    found = reader.get(**asked)
    assert (found.status, says in found.description) == (400, True), found.body


def test_rows_are_counted_first(reader: Client) -> None:
    """On request, in a header, of the same selection; of a time range and of a pull."""
    for asked in ({"from_": "2020-01-01T00:00:00Z"}, {"cursor": "earliest"}):
        for wanted in ({}, {"link": "edr.example/a"}, {"bots": "yes"}):
            found = reader.get(format="ndjson", count="true", **asked, **wanted)
            assert int(found.headers["x-rows"]) == len(found.json_rows)
    assert "x-rows" not in reader.everything().headers


def test_no_other_tenants_rows(reader: Client, bulk: Client) -> None:
    """A key reads its own tenant's rows, by time and by cursor, whoever's the position is."""
    assert {row["tenant"] for row in reader.everything(format="ndjson").json_rows} == {"default"}
    assert reader.get(cursor="made.0", format="ndjson").body == b""
    assert bulk.get(cursor="earliest", format="ndjson").body == b""
    assert bulk.everything(format="ndjson", promotion_id="p2").body.count(b'"tenant":"bulk"') == BULK_ROWS // 20


def test_pulls_miss_nothing_and_repeat_nothing(stack: FullStack, reader: Client) -> None:
    """While clicks arrive and the sink stores them, pulls from the beginning have each row once, in order, to the end."""
    sending = Sending(stack, "--rate", "300", "--count", "600")
    cursor, pulled, pulls = "earliest", [], []
    try:
        sending.wait_for_rows()
        while sending.is_running:
            found = reader.get(cursor=cursor, format="ndjson")
            pulled += positions(found)
            if found.body:
                pulls.append((cursor, found))
            cursor = found.cursor
        sending.proof()
    finally:
        sending.close()
    last = reader.get(cursor=cursor, format="ndjson")
    assert last.headers["x-cursor-remaining"] == "0"
    pulled += positions(last)
    assert sorted(pulled) == stored(stack)
    assert len(pulls) > 1
    assert len({partition for _, partition, _ in pulled}) > 1
    for export in (found for _, found in pulls):
        assert positions(export) == sorted(positions(export))
    again = reader.get(cursor=last.cursor, format="ndjson")
    assert (again.body, again.cursor) == (b"", last.cursor)
    assert reader.get(cursor="latest").cursor == last.cursor
    ahead = ".".join([last.cursor.partition(".")[0], *(str(int(n) + 5) for n in last.cursor.split(".")[1:])])
    assert reader.get(cursor=ahead).cursor == ahead, "a position that came from the stream may be ahead of the table"


def test_large_pulls_come_in_parts(bulk: Client) -> None:
    """A pull is bounded and says how much is left; a former stream is read to its end, then the present one follows."""
    cursor, sizes, remaining = "made.0", [], []
    while cursor.startswith("made."):
        found = bulk.get(cursor=cursor, format="ndjson")
        sizes.append(found.body.count(b"\n"))
        remaining.append(int(found.headers["x-cursor-remaining"]))
        cursor = found.cursor
    assert sizes == [PULL_ROWS, PULL_ROWS, 0]
    assert remaining == sorted(remaining, reverse=True)
    almost = bulk.get(cursor=f"made.{BULK_ROWS - 1}")
    assert int(almost.headers["x-cursor-remaining"]) > 0, "the present stream follows"


def test_a_stream_of_which_only_seals_are_left(stack: FullStack, bulk: Client) -> None:
    """Its cursor is refused before its end and goes on to the next former stream at its end, never past it."""
    columns = "stream, raw_partition, raw_first, raw_last, version, rows, sealed_at"
    owner(stack, f"INSERT INTO seals ({columns}) VALUES ('gone', 0, 0, 9, 1, 10, '2020-01-01 00:00:00')")
    assert bulk.get(cursor="gone.3").status == 410
    assert bulk.get(cursor="gone.10").cursor == "made.0"


def running(stack: FullStack) -> int:
    """Exports that ClickHouse works on."""
    sql = "SELECT count() FROM system.processes WHERE query LIKE '%FROM edr%' AND query NOT LIKE '%processes%'"
    return int(owner(stack, sql))


def resident_kb(pid: int) -> int:
    """Memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def test_a_reader_that_goes_away_ends_its_query(stack: FullStack, bulk: Client) -> None:
    """Closed in the middle, the query is gone from ClickHouse; the next export is whole."""
    with bulk.asking(from_="2020-01-01T00:00:00Z", format="ndjson") as response:
        assert len(response.read(100_000)) == 100_000
        assert running(stack) == 1
    eventually(lambda: running(stack) == 0, "the end of the query")
    assert bulk.everything(format="ndjson", promotion_id="p1").body.count(b"\n") == BULK_ROWS // 20


@pytest.mark.parametrize(("form", "size_min"), [("ndjson", 50_000_000), ("csv", 30_000_000), ("parquet", 10_000_000)])
def test_a_slow_reader_costs_no_memory(stack: FullStack, bulk: Client, form: str, size_min: int) -> None:
    """The service reads from ClickHouse at the reader's pace: its memory does not grow with the export."""
    pid = stack.ready["pids"]["reporting"]
    with bulk.asking(from_="2020-01-01T00:00:00Z", format=form, compression="none") as response:
        response.read(1_000)
        before = resident_kb(pid)
        size, most = 1_000, before
        assert running(stack) == 1
        while piece := response.read(1 << 20):
            size += len(piece)
            most = max(most, resident_kb(pid))
    assert size > size_min
    assert most - before < 32_000


def test_http_1_0_is_refused(stack: FullStack, reader: Client) -> None:
    """It has no way to tell a whole body from a broken one."""
    connection = http.client.HTTPConnection(stack.ready["reports"].removeprefix("http://"), timeout=60)
    connection._http_vsn, connection._http_vsn_str = 10, "HTTP/1.0"  # type: ignore[attr-defined]
    connection.request("GET", "/v1/edr?from=2020-01-01T00:00:00Z", headers={"authorization": f"Bearer {reader.key}"})
    assert connection.getresponse().status == 505
    connection.close()


async def test_expired_rows_are_told(stack: FullStack, bulk: Client) -> None:
    """A cursor before rows that are gone, or may go within the hour, is 410; the earliest one lies behind the last of them."""
    for partition, rows in enumerate((70_000, 50, 50)):
        make_rows(stack, "expiring", rows, stream="expiring", partition=partition)
    of = "clicks {change} WHERE stream = 'expiring' AND raw_partition = {partition} AND raw_offset IN ({offsets}) SETTINGS mutations_sync = 1"
    owner(stack, "ALTER TABLE " + of.format(change="DELETE", partition=0, offsets="0, 69000"))
    change = "UPDATE expires_at = now64(3) + INTERVAL 30 MINUTE, inserted_at = now64(3) - INTERVAL 8 DAY"
    owner(stack, "ALTER TABLE " + of.format(change=change, partition=1, offsets="5"))
    found = bulk.get(cursor="expiring.0.0.0")
    assert (found.status, "expired" in found.description) == (410, True)
    assert found.headers["x-earliest-cursor"] in found.description
    assert bulk.get(cursor=found.headers["x-earliest-cursor"]).status == 200
    assert bulk.get(cursor="expiring.69001.5.0").status == 410
    assert bulk.get(cursor="expiring.69001.6.0").status == 200
    assert bulk.get(cursor="nobody.0").status == 410
    async with ClickHouse(ClickHouseSettings(clickhouse_url=SecretStr(stack.ready["clickhouse_owner"]))) as clickhouse:
        assert str(await earliest(clickhouse, Stream("expiring", (0, 0, 0)))) == "expiring.69001.6.0"


async def test_queries_end_by_themselves(stack: FullStack) -> None:
    """The server knows how long somebody waits for an answer, and that the query changes nothing."""
    url = SecretStr(stack.ready["clickhouse_owner"])
    async with ClickHouse(ClickHouseSettings(clickhouse_url=url, clickhouse_query_timeout_ms=7_000)) as clickhouse:
        found = await clickhouse.query("SELECT getSetting('max_execution_time'), getSetting('readonly')")
    assert [int(value) for value in found[0]] == [7, 2]


def test_clickhouse_dies_in_the_middle(stack: FullStack, bulk: Client) -> None:
    """The client sees that the body broke off; while ClickHouse is away it is 503, and then it works again."""
    with bulk.asking(from_="2020-01-01T00:00:00Z", format="ndjson") as response:
        response.read(1_000)
        os.kill(stack.ready["pids"]["clickhouse"], signal.SIGKILL)
        with pytest.raises(http.client.IncompleteRead):
            response.read()
    found = bulk.everything(promotion_id="p1")
    if found.status != 200:  # the supervisor starts it again, at some moment
        assert (found.status, found.headers["retry-after"]) == (503, "1")
    eventually(lambda: is_whole(stack) and bulk.everything(promotion_id="p1").status == 200, "an export afterwards")
