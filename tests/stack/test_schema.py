"""What set-up says of tables and views, on a real ClickHouse: each change is noticed, and its cure is one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.clickhouse import ClickHouse
from shared.errors import OperatorError
from shared.settings import ClickHouseSettings
from sink.ddl import VERSIONS, apply_ddl
from sink.schema import INDICES, TABLES, Difference, Kind, Part, _truly, as_text, check, cures, needs_repetition, parts
from tests.support.stack import Names
from tools.tables import SCHEMA


@pytest.fixture
async def clickhouse(database_url: str, names: Names) -> AsyncIterator[ClickHouse]:
    """A database as the files leave it, as its owner."""
    async with ClickHouse(ClickHouseSettings(clickhouse_url=database_url)) as clickhouse:
        await apply_ddl(clickhouse, names.database)
        yield clickhouse


async def differences(clickhouse: ClickHouse) -> list[Difference]:
    """What the check finds."""
    checked = await check(clickhouse)
    assert (checked.tables, checked.views, checked.unread) == (11, 6, "")
    return checked.differences


async def test_the_description_is_what_the_files_leave(clickhouse: ClickHouse, pytestconfig: pytest.Config) -> None:
    """Written anew by: .venv/bin/python -m tools.tables. Another server prints it otherwise and means the same."""
    assert await differences(clickhouse) == []
    if pytestconfig.getoption("--stack") == "local":
        rows = [*await clickhouse.query(TABLES), *await clickhouse.query(INDICES)]
        assert as_text(parts([tuple(map(str, row)) for row in rows], clickhouse.database)) == SCHEMA.read_text("utf-8")


@pytest.mark.parametrize(
    ("statement", "kind", "name"),
    [
        ("DROP VIEW edr", Kind.ENGINE, ""),
        ("CREATE OR REPLACE VIEW rte AS SELECT * FROM clicks", Kind.QUERY, ""),
        ("DROP TABLE gaps SYNC", Kind.ENGINE, ""),
        ("RENAME TABLE clicks TO clicks_kept", Kind.ENGINE, ""),
        ("ALTER TABLE clicks DROP INDEX transaction_ids", Kind.INDEX, "transaction_ids"),
        ("ALTER TABLE clicks DROP INDEX raw_offsets", Kind.INDEX, "raw_offsets"),
        ("ALTER TABLE clicks DROP PROJECTION positions", Kind.PROJECTION, "positions"),
        ("ALTER TABLE clicks DROP COLUMN city", Kind.COLUMN, "city"),
        ("ALTER TABLE clicks_probe DROP COLUMN city", Kind.COLUMN, "city"),
        ("ALTER TABLE clicks MODIFY COLUMN asn UInt64", Kind.COLUMN, "asn"),
        ("ALTER TABLE gaps MODIFY COLUMN accepted_at REMOVE DEFAULT", Kind.DEFAULT, "accepted_at"),
    ],
)
async def test_a_change_by_hand_is_noticed_and_cured(
    clickhouse: ClickHouse, statement: str, kind: Kind, name: str
) -> None:
    """By the statements that are told, or by repeating the set-up: then there is no difference left."""
    await clickhouse.command(statement)
    (found,) = await differences(clickhouse)
    assert (found.part.kind, found.part.name) == (kind, name)
    if needs_repetition(found):
        await clickhouse.command("DROP TABLE schema_versions SYNC")
        await apply_ddl(clickhouse, clickhouse.database)
    for cure in cures(found):
        await clickhouse.command(cure)
    assert await differences(clickhouse) == []


async def test_another_order_of_rows_is_noticed(clickhouse: ClickHouse) -> None:
    """A table that somebody made anew by hand."""
    await clickhouse.command("DROP TABLE seals_announced SYNC")
    await clickhouse.command(
        "CREATE TABLE seals_announced (`id` UUID, `stream` LowCardinality(String), `raw_partition` UInt16, `raw_first` UInt64, "
        "`announced_by` String, `announced_at` DateTime64(3, 'UTC') DEFAULT now64(3), `is_over` Bool) "
        "ENGINE = MergeTree ORDER BY id TTL toDateTime(announced_at) + INTERVAL 2 DAY"
    )
    found = {each.part.kind: each.found for each in await differences(clickhouse)}
    assert found == {Kind.ORDER: "id", Kind.TTL: "toDateTime(announced_at) + toIntervalDay(2)"}


async def test_what_is_the_operators_own_stays(clickhouse: ClickHouse) -> None:
    """Tables, views, columns, indices, settings and codecs."""
    for statement in (
        "CREATE TABLE mine (a UInt8) ENGINE = MergeTree ORDER BY a",
        "CREATE VIEW my_clicks AS SELECT * FROM clicks",
        "ALTER TABLE clicks ADD COLUMN region_code String DEFAULT upper(region)",
        "ALTER TABLE clicks ADD INDEX ips ip TYPE minmax GRANULARITY 4",
        "ALTER TABLE clicks MODIFY SETTING min_age_to_force_merge_seconds = 3600",
        "ALTER TABLE clicks MODIFY COLUMN ip CODEC(ZSTD(3))",
        "ALTER TABLE clicks MODIFY COLUMN city COMMENT 'in German'",
    ):
        await clickhouse.command(statement)
    assert await differences(clickhouse) == []


async def test_what_is_only_printed_differently_is_the_same(clickhouse: ClickHouse) -> None:
    """The server that is asked prints both."""

    def doubtful(kind: Kind, one: str, other: str) -> Difference:
        return Difference(Part("clicks", kind, ""), one, other, is_view=False)

    same = doubtful(Kind.QUERY, "SELECT a FROM t WHERE (b = 1) AND c", "SELECT a FROM t WHERE b = 1 and (c)")
    keys = doubtful(
        Kind.ORDER, "a, toStartOfInterval(b, INTERVAL 15 MINUTE)", "(a),toStartOfInterval(b, toIntervalMinute(15))"
    )
    other = doubtful(Kind.QUERY, "SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = 2")
    broken = doubtful(Kind.TTL, "a + INTERVAL 1 DAY", "a + INTERVAL 1 DAY TO VOLUME 'cold'")
    gone = doubtful(Kind.QUERY, "SELECT 1", "")._replace(found=None)
    assert await _truly(clickhouse, [same, other, keys, broken, gone]) == [other, broken, gone]


async def test_without_the_right_to_read_them_indices_are_not_judged(
    clickhouse: ClickHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may open these system tables to whom they are granted only: the rest is compared, and it is said."""

    async def refusing(sql: str, *_: object) -> list[tuple[object, ...]]:
        if sql == INDICES:
            raise OperatorError("ACCESS_DENIED")
        return await query(sql)

    query = clickhouse.query
    monkeypatch.setattr(clickhouse, "query", refusing)
    await clickhouse.command("DROP VIEW edr")
    await clickhouse.command("ALTER TABLE clicks DROP INDEX raw_offsets")
    checked = await check(clickhouse)
    assert checked.unread == "ACCESS_DENIED"
    assert [each.part.table for each in checked.differences] == ["edr"]


def test_the_table_of_versions_is_part_of_it() -> None:
    """Set-up makes it itself, before all files."""
    assert "schema_versions" in VERSIONS
    assert '"schema_versions"' in SCHEMA.read_text("utf-8")
