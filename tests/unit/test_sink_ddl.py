"""The table's definition says the same as the wire contract, and its files are applied by the rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.enriched_fields import ENRICHED_FIELDS
from shared.errors import OperatorError
from shared.seals import COLUMNS, COLUMNS_VERSION, EXPIRES_AT, PERSONAL
from sink.ddl import Migration, migrations, missing
from sink.start import refuse_engines, refuse_times, refuse_window

DDL = Path(__file__).parents[2] / "sink" / "ddl"


def test_columns_are_the_enriched_records_keys() -> None:
    """Name and type of each, in order; then block_at and inserted_at."""
    create = (DDL / "0001_clicks.sql").read_text(encoding="utf-8").split("ENGINE = MergeTree")[0]
    found = re.findall(r"^    `(\w+)` (.+?)(?: DEFAULT .+?)? COMMENT", create, re.MULTILINE)
    time = "DateTime64(3, 'UTC')"
    wanted = [(field.name, field.clickhouse_type) for field in ENRICHED_FIELDS]
    assert found == [*wanted, ("block_at", time), ("inserted_at", time)]


def test_files_are_numbered_without_holes() -> None:
    """1, 2, 3, … and every statement stands alone and can be repeated."""
    known = migrations()
    assert [migration.version for migration in known] == list(range(1, len(known) + 1))
    repeatable = re.compile(
        r"CREATE TABLE IF NOT EXISTS |CREATE OR REPLACE VIEW |ALTER TABLE \w+ "
        r"((ADD INDEX|ADD COLUMN|ADD PROJECTION) IF NOT EXISTS|(DROP|MATERIALIZE) PROJECTION IF EXISTS|MODIFY TTL|MODIFY SETTING) "
    )
    assert all(repeatable.match(s) for migration in known for s in migration.statements)


def test_the_hashed_columns_are_the_tables() -> None:
    """A column that is added to the table needs a new version of the list, so that old seals stay valid."""
    names = [*(field.name for field in ENRICHED_FIELDS), "block_at", "inserted_at"]
    assert list(COLUMNS[COLUMNS_VERSION]) == names
    assert PERSONAL.keys() <= set(names)


def test_rows_expire_when_seals_say() -> None:
    """The table's TTL and the expiry that is written into seals are one expression."""
    assert f"MODIFY TTL {EXPIRES_AT}" in (DDL / "0004_seals.sql").read_text(encoding="utf-8")


def test_only_what_is_missing_is_applied() -> None:
    """In order; comments and spacing may change, statements may not; a newer schema is refused."""
    one, two = Migration(1, "0001_a.sql", ("A  b",)), Migration(2, "0002_b.sql", ("C",))
    assert missing([one, two], {}) == [one, two]
    assert missing([one, two], {1: Migration(1, "0001_a.sql", ("A b",)).digest}) == [two]
    with pytest.raises(OperatorError, match="0001_a"):
        missing([one, two], {1: "other"})
    with pytest.raises(OperatorError, match="newer"):
        missing([one], {1: one.digest, 2: two.digest})


def test_a_window_must_cover_an_hour_of_inserts() -> None:
    """At the limit, below it, and without the setting; on replicated tables in seconds, too."""
    refuse_window("… SETTINGS non_replicated_deduplication_window = 72000, index_granularity = 8192", 20)
    replicated = "SETTINGS replicated_deduplication_window = {}, replicated_deduplication_window_seconds = {}"
    refuse_window(replicated.format(72_000, 3_600), 20)
    for definition in (
        "SETTINGS non_replicated_deduplication_window = 71999",
        "SETTINGS index_granularity = 8192",
        replicated.format(71_999, 604_800),
        replicated.format(100_000, 3_599),
    ):
        with pytest.raises(OperatorError):
            refuse_window(definition, 20)


def test_tables_must_be_those_of_the_setting() -> None:
    """Without a cluster's name a plain table only; with one the two tables of a cluster only."""
    plain, replicated = {"clicks": "MergeTree"}, {"clicks": "Distributed", "clicks_local": "ReplicatedMergeTree"}
    refuse_engines(plain, "")
    refuse_engines(replicated, "main")
    for engines, cluster in (
        (replicated, ""),
        (plain, "main"),
        ({"clicks": "ReplicatedMergeTree"}, ""),
        ({"clicks": "ReplicatedMergeTree"}, "main"),
        ({"clicks": "Distributed", "clicks_local": "MergeTree"}, "main"),
        ({}, ""),
    ):
        with pytest.raises(OperatorError):
            refuse_engines(engines, cluster)


def test_a_server_that_reads_times_wrongly_is_refused() -> None:
    """Seconds instead of milliseconds, or a row that is not there."""
    refuse_times(["received_at"], [(1_700_000_000_123,)])
    with pytest.raises(OperatorError, match="received_at"):
        refuse_times(["received_at"], [(253_402_300_799_999,)])
    with pytest.raises(OperatorError, match="0 times"):
        refuse_times(["received_at"], [])
