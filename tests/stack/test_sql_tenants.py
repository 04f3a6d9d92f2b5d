"""A tenant that reads with SQL sees its own rows, whatever it asks: every answer is the same with and without the others'."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from clickledger.clickhouse_server.tenant_filter import TABLES, VIEWS
from clickledger.stack.guard import Guard
from shared.clickhouse import ClickHouse
from shared.settings import ClickHouseSettings
from sink.ddl import apply_ddl
from tests.stack.test_clickhouse_server_reader import REFUSED
from tests.support import sql_rows
from tests.support.clickhouse import LocalClickHouse
from tests.support.clickhouse_http import ClickHouseHttp, HttpAnswer
from tests.support.sql_rows import MARK, OURS, THEIRS

OURS_SECRET, THEIRS_SECRET, CLICKS_SECRET = "secret-of-ours", "secret-of-theirs", "secret-of-the-app"

_SOURCES = (
    *(*VIEWS, *TABLES, "promotions FINAL", "tenants FINAL", "clickledger.clicks AS c", "(SELECT * FROM clicks) AS s"),
    "view(SELECT * FROM clicks)",
    "(SELECT * FROM clicks UNION ALL SELECT * FROM clicks) AS u",
    "(SELECT * FROM edr ORDER BY received_at) AS o",
    "(SELECT DISTINCT * FROM rte) AS d",
    "clicks AS c INNER JOIN promotions AS p ON c.promotion_id = p.promotion_id",
    "clicks AS c LEFT JOIN (SELECT * FROM promotions FINAL) AS p ON c.promotion_id = p.promotion_id",
    "promotions AS p RIGHT JOIN clicks AS c ON c.promotion_id = p.promotion_id",
    "clicks AS c CROSS JOIN tenants AS t",
    "clicks AS c FULL JOIN tenants AS t ON t.tenant != c.tenant AND t.tenant LIKE '%their%'",
    "clicks AS c ARRAY JOIN [1, 2] AS n",
)
_CONDITIONS = (
    "1",
    "tenant = {theirs}",
    "tenant != {ours}",
    "tenant = {theirs} OR 1",
    "throwIf(toString(tenant) = {theirs}) = 0",
    "throwIf(position({text}, '{mark}') > 0) = 0",
    "intDiv(1, position({text}, '{mark}') = 0) >= 0",
    "if(position({text}, '{mark}') > 0, throwIf(materialize(1)), 0) = 0",
    "tenant = {theirs} AND throwIf(materialize(1)) = 0",
    "NOT (position({text}, '{mark}') > 0 AND throwIf(materialize(1)) = 1)",
)
_TELLING = ("JSON", "JSONCompact", "JSONColumnsWithMetadata", "XML", "JSONEachRowWithProgress", "Pretty")
_WHOLE = (
    "SELECT promotion_id, count() FROM clicks WHERE throwIf(position(promotion_id, '{mark}') > 0) = 0 GROUP BY ALL",
    "SELECT throwIf(position(promotion_id, '{mark}') > 0) AS x, count() FROM clicks GROUP BY x",
    "SELECT promotion_id, is_bot, count(), uniqExact(recipient) FROM clicks GROUP BY ALL ORDER BY ALL",
    "SELECT promotion_id FROM clicks GROUP BY promotion_id HAVING throwIf(position(promotion_id, '{mark}') > 0) = 0",
    "SELECT stream, raw_partition, status, count(), max(raw_offset) FROM clicks GROUP BY ALL ORDER BY ALL",
    "SELECT throwIf(position(stream, '{mark}') > 0), max(raw_offset) FROM clicks GROUP BY stream, raw_partition, status",
    "SELECT min(raw_offset), max(raw_offset), count() FROM clicks",
    "SELECT count() FROM clicks",
    *(f"SELECT status, count() FROM clicks GROUP BY ALL ORDER BY ALL FORMAT {name}" for name in _TELLING),
    "SELECT 1 FROM clicks LIMIT 1 UNION DISTINCT SELECT 1 FROM clicks FORMAT `JSONEachRowWithProgress`",
    "SELECT countIf(throwIf(recipient LIKE '{mark}%') = 0) FROM clicks",
    "SELECT 1 FROM clicks ORDER BY throwIf(recipient LIKE '{mark}%'), raw_offset LIMIT 1",
    "SELECT recipient FROM clicks LIMIT 1 BY throwIf(recipient LIKE '{mark}%') FORMAT Null",
    "SELECT row_number() OVER (PARTITION BY throwIf(recipient LIKE '{mark}%')) FROM clicks FORMAT Null",
    "SELECT count() FROM clicks AS a JOIN clicks AS b ON a.raw_offset + throwIf(a.recipient LIKE '{mark}%') = b.raw_offset",
    "SELECT count() FROM clicks AS a JOIN clicks AS b ON a.raw_offset = b.raw_offset AND throwIf(b.link LIKE '%{mark}%') = 0",
    "SELECT count() FROM clicks WHERE raw_offset IN (SELECT raw_offset FROM clicks WHERE throwIf(link LIKE '%{mark}%') = 0)",
    "SELECT count() FROM clicks ARRAY JOIN range(1 + throwIf(link LIKE '%{mark}%')) AS x",
    "SELECT count() FROM clicks PREWHERE throwIf(recipient LIKE '{mark}%') = 0",
    "SELECT count() FROM (SELECT * FROM promotions FINAL PREWHERE throwIf(name LIKE '{mark}%') = 0)",
    "SELECT count() FROM clicks pReWhErE 1",
    "SELECT {theirs} IN (SELECT tenant FROM clicks), (SELECT max(tenant) FROM clicks), (SELECT count() FROM tenants)",
    "SELECT 1 IN clicks",
    "SELECT ({theirs}, '', 1, '', 0, 1) IN tenants",
    "WITH RECURSIVE r AS (SELECT tenant FROM clicks UNION ALL SELECT tenant FROM r WHERE 0) SELECT DISTINCT tenant FROM r",
    "SELECT * FROM clicks SETTINGS additional_table_filters = {{}}",
    "SELECT * FROM clicks SETTINGS additional_table_filters = {{}}, readonly = 0 FORMAT JSON",
    "SELECT * FROM (SELECT * FROM clicks SETTINGS query_plan_enable_optimizations = 1)",
    "SET additional_table_filters = {{}}",
    "SET ROLE owner",
    "SET ROLE NONE",
    "SELECT * FROM merge('clickledger', '^clicks$')",
    "SELECT * FROM merge(currentDatabase(), '.*')",
    "SELECT * FROM loop('clickledger', 'clicks') LIMIT 5",
    "SELECT * FROM mergeTreeIndex('clickledger', 'clicks')",
    "SELECT * FROM mergeTreeProjection('clickledger', 'clicks', 'quarters')",
    "SELECT * FROM remote('127.0.0.1', 'clickledger', 'clicks')",
    "SELECT * FROM clusterAllReplicas('default', clickledger.clicks)",
    "SELECT * FROM dictionary('clickledger.by_tenant')",
    "SELECT dictGet('clickledger.by_tenant', 'zone', {theirs})",
    "SELECT * FROM clickledger.by_tenant",
    "SELECT * FROM everything",
    "SELECT * FROM seals",
    "SELECT * FROM gaps",
    "SELECT * FROM erasures",
    "SELECT * FROM schema_versions",
    "SELECT * FROM clicks_readback",
    "DESCRIBE seals",
    "SHOW CREATE TABLE seals",
    "EXPLAIN SELECT * FROM clicks",
    "EXPLAIN ESTIMATE SELECT * FROM clicks",
    "EXPLAIN PIPELINE SELECT * FROM clicks",
    "EXPLAIN QUERY TREE SELECT * FROM clicks",
    "EXPLAIN SYNTAX SELECT * FROM clicks",
    "SELECT * FROM system.tables WHERE database = 'clickledger' ORDER BY name",
    "SELECT * FROM system.columns WHERE database = 'clickledger' ORDER BY table, name",
    "SELECT * FROM information_schema.tables WHERE table_schema = 'clickledger' ORDER BY table_name",
    "SELECT * FROM information_schema.statistics",
    "SELECT * FROM system.data_skipping_indices",
    "SELECT * FROM system.projections",
    "SELECT * FROM system.databases",
    "SHOW TABLES",
    "SHOW COLUMNS FROM clicks",
    "SHOW INDEXES FROM clicks",
    "SELECT _part, _part_offset, _part_index FROM clicks ORDER BY ALL",
    "SELECT clicks._part_offset FROM clicks",
    "SELECT _partition_id, _block_number FROM clicks",
    "SELECT * FROM clicks SAMPLE 1 / 2",
    "KILL QUERY WHERE 1",
    "INSERT INTO clicks (tenant) VALUES ({theirs})",
)


@pytest.fixture(scope="module")
def server(guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalClickHouse]:
    """A local server that knows the keys of two tenants."""
    folder = tmp_path_factory.mktemp("tenants")
    keys = {
        OURS_SECRET: (OURS, ["reports"]),
        THEIRS_SECRET: (THEIRS, ["reports", "admin"]),
        CLICKS_SECRET: (OURS, ["shortlinkclicks", "admin"]),
    }
    sql_rows.write_keys(folder / "catalog", keys)
    server = LocalClickHouse(guard, folder, folder / "catalog")
    yield server
    server.close()


@pytest.fixture(scope="module")
def owner(server: LocalClickHouse) -> ClickHouseHttp:
    """The schema, and what nobody but the owner may read: a view, a dictionary."""
    owner = ClickHouseHttp(server.url)
    asyncio.run(_set_up(f"{server.url}/clickledger"))
    owner.rows("CREATE VIEW everything AS SELECT * FROM clicks")
    owner.rows(
        "CREATE DICTIONARY by_tenant (tenant String, zone String) PRIMARY KEY tenant "
        "SOURCE(CLICKHOUSE(TABLE 'tenants' DB 'clickledger')) LIFETIME(0) LAYOUT(COMPLEX_KEY_HASHED())"
    )
    return owner


async def _set_up(url: str) -> None:
    async with ClickHouse(ClickHouseSettings(clickhouse_url=url)) as clickhouse:
        await apply_ddl(clickhouse, "clickledger")


def as_tenant(server: LocalClickHouse, tenant: str, secret: str) -> ClickHouseHttp:
    """A tenant's requests; its name may hold any character."""
    host = server.url.rpartition("@")[2]
    return ClickHouseHttp(f"http://{quote(tenant, safe='')}:{secret}@{host}")


def attempts() -> list[str]:
    """Every source under every condition, and the single ones."""
    found = []
    names = {"mark": MARK, "ours": "'demo'", "theirs": "'o\\'their\\\\s'"}
    for source in _SOURCES:
        is_join = "JOIN" in source and "ARRAY" not in source
        text = "zone" if source.startswith("tenants") else "reason" if "rejected" in source else "promotion_id"
        text = "source" if source == "freshness" else text
        if is_join:
            text = "link"
        for condition in _CONDITIONS:
            where = condition.format(**names, text=f"toString({'c.' if is_join else ''}{text})")
            where = where.replace("tenant", "c.tenant", 1) if is_join else where
            found.append(f"SELECT count() FROM {source} WHERE {where}")
        found.append(f"SELECT * FROM {source} ORDER BY ALL LIMIT 400")
    return [*found, *(each.format(**names) for each in _WHOLE)]


def comparable(answer: HttpAnswer) -> tuple[int, bytes, dict[str, str]]:
    """What a client learns; an error's text names the statement, not rows, but must say nothing of them either."""
    its_own = ("date", "x-clickhouse-query-id", "x-clickhouse-exception-tag")
    return answer.status, answer.body, {name: text for name, text in answer.headers.items() if name not in its_own}


def test_no_answer_depends_on_another_tenants_rows(server: LocalClickHouse, owner: ClickHouseHttp) -> None:
    """Some 250 statements, asked before and after the other tenant gets rows; its own reader does see them."""
    sql_rows.empty_tables(owner)
    sql_rows.insert_promotions(owner, OURS)
    sql_rows.insert(owner, "clicks", sql_rows.rows(OURS, 300, seed=1))
    ours, theirs = as_tenant(server, OURS, OURS_SECRET), as_tenant(server, THEIRS, THEIRS_SECRET)
    asked = attempts()
    before = [comparable(ours.ask(sql)) for sql in asked]
    assert sum(status == 200 for status, _, _ in before) > len(asked) / 2
    sql_rows.insert_promotions(owner, THEIRS)
    sql_rows.insert(owner, "clicks", sql_rows.rows(THEIRS, 500, seed=2, first_offset=300))
    owner.rows("OPTIMIZE TABLE clicks FINAL")
    assert theirs.rows("SELECT count(), countIf(tenant != {t:String}) FROM clicks", param_t=THEIRS) == [["500", "0"]]
    for sql, known in zip(asked, before, strict=True):
        found = comparable(ours.ask(sql))
        assert MARK.encode() not in found[1].replace(sql.encode(), b"").replace(MARK.encode() + b"'", b""), sql
        assert found == known, sql


@pytest.mark.parametrize("sql", REFUSED)
def test_what_no_reader_may_no_tenant_may(server: LocalClickHouse, owner: ClickHouseHttp, sql: str) -> None:
    """The rules for the read-only user hold for tenants too."""
    answer = as_tenant(server, OURS, OURS_SECRET).ask(sql)
    assert answer.status >= 400, answer.text


@pytest.mark.parametrize(
    ("user", "secret"),
    [
        (OURS, "nonsense"),
        (OURS, CLICKS_SECRET),
        (OURS, THEIRS_SECRET),
        (THEIRS, OURS_SECRET),
        ("default", OURS_SECRET),
        ("reader", OURS_SECRET),
        ("", OURS_SECRET),
        (OURS, ""),
        (f"{OURS}' OR 1 --", OURS_SECRET),
    ],
)
def test_a_key_opens_its_own_tenant_only(
    server: LocalClickHouse, owner: ClickHouseHttp, user: str, secret: str
) -> None:
    """The user is the tenant, the password a secret of one of its keys with the grant `reports`."""
    answer = as_tenant(server, user, secret).ask("SELECT 1")
    assert (answer.status, answer.code) in {(403, 516), (401, 194)}


def test_settings_of_a_tenant(server: LocalClickHouse, owner: ClickHouseHttp) -> None:
    """No setting in the URL moves the filter, and none of the plan's can be turned on again."""
    ours = as_tenant(server, OURS, OURS_SECRET)
    for name, value in (
        ("additional_table_filters", "{}"),
        ("query_plan_enable_optimizations", "1"),
        ("optimize_use_projections", "1"),
        ("role", "owner"),
    ):
        assert ours.ask("SELECT 1", **{name: value}).status >= 400
    asked = "SELECT count() FROM clicks"
    assert b"statistics" not in ours.ask(asked, output_format_write_statistics=1, default_format="JSON").body
    for name in ("JSONEachRowWithProgress", "JSONStringsEachRowWithProgress", "JSONCompactEachRowWithProgress"):
        assert ours.ask(asked, default_format=name).code == 497
        assert ours.ask(f"{asked} FORMAT {name}").code in {497, 73}
    assert ours.ask("SELECT 1", readonly=0, allow_experimental_analyzer=0).status == 200


def test_a_tenant_is_shown_the_views(server: LocalClickHouse, owner: ClickHouseHttp) -> None:
    """What tools list is the stable interface."""
    assert {name for (name,) in as_tenant(server, OURS, OURS_SECRET).rows("SHOW TABLES")} == set(VIEWS)
