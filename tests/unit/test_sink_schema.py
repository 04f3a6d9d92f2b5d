"""What is said of tables and views that are not as the files left them, and what is not."""

from __future__ import annotations

import pytest

from sink.schema import (
    Difference,
    Kind,
    Part,
    Schema,
    as_text,
    compare,
    is_certain,
    needs_repetition,
    parts,
    told,
    wanted,
)

LEFT = wanted("")
CLICKS = Part("clicks", Kind.ENGINE, "")


def said(found: Schema, cluster: str = "") -> list[str]:
    """The differences in words."""
    return [told(each, cluster, "clickledger") for each in compare(found, wanted(cluster))]


def changed(part: Part, definition: str | None) -> dict[Part, str]:
    """What was left, but for one part."""
    found = dict(LEFT)
    if definition is None:
        del found[part]
    else:
        found[part] = definition
    return found


def test_what_was_left_is_no_difference() -> None:
    """On one server and on a cluster."""
    assert compare(LEFT, wanted("")) == []
    assert compare(wanted("main"), wanted("main")) == []
    assert as_text(LEFT)


def test_what_is_the_operators_own_is_no_difference() -> None:
    """Tables, columns, defaults, indices and projections beside ours."""
    own = {
        Part("mine", Kind.ENGINE, ""): "Log",
        Part("clicks", Kind.COLUMN, "shard"): "UInt8",
        Part("clicks", Kind.DEFAULT, "shard"): "1",
        Part("clicks", Kind.DEFAULT, "asn"): "0",
        Part("clicks", Kind.INDEX, "ips"): "ip TYPE minmax GRANULARITY 1",
        Part("seals", Kind.PROJECTION, "mine"): "SELECT stream GROUP BY stream",
    }
    assert compare({**LEFT, **own}, LEFT) == []


@pytest.mark.parametrize("engine", ["ReplicatedMergeTree", "SharedMergeTree"])
def test_the_servers_own_replication_is_the_same_engine(engine: str) -> None:
    """Whether the sink stores into such a table is its own to say."""
    assert parts([("clicks", "ENGINE", "", engine)], "clickledger") == {CLICKS: "MergeTree"}


def test_the_database_is_no_part_of_a_views_query() -> None:
    """The server writes it before each table; a column of the same name stays."""
    query = "SELECT c.a FROM c.clicks AS c LEFT JOIN (SELECT a FROM `my-db`.promotions) AS p USING (a)"
    part = Part("edr", Kind.QUERY, "")
    assert parts([("edr", "QUERY", "", query)], "c")[part].startswith("SELECT c.a FROM clicks AS c LEFT JOIN")
    assert "FROM promotions" in parts([("edr", "QUERY", "", query)], "my-db")[part]


@pytest.mark.parametrize(
    ("part", "definition", "words"),
    [
        (Part("clicks", Kind.ORDER, ""), "tenant", "table clicks has ORDER BY tenant, not tenant, promotion_id"),
        (Part("clicks", Kind.PARTITION, ""), None, "table clicks has PARTITION BY nothing, not toYYYYMMDD(block_at)"),
        (Part("clicks", Kind.ENGINE, ""), "Log", "table clicks has ENGINE Log, not MergeTree: only a new table"),
        (
            Part("clicks", Kind.COLUMN, "asn"),
            None,
            "what stood in it is only in your backup; empty it comes by ALTER TABLE clicks ADD COLUMN asn UInt32",
        ),
        (
            Part("clicks", Kind.COLUMN, "asn"),
            "UInt64",
            "table clicks has another column asn (UInt64): ALTER TABLE clicks MODIFY COLUMN asn UInt32",
        ),
        (
            Part("clicks", Kind.DEFAULT, "inserted_at"),
            None,
            "table clicks lacks default inserted_at: ALTER TABLE clicks MODIFY COLUMN inserted_at DEFAULT now64(3)",
        ),
        (
            Part("clicks", Kind.INDEX, "raw_offsets"),
            None,
            "table clicks lacks index raw_offsets: ALTER TABLE clicks ADD INDEX raw_offsets raw_offset TYPE minmax GRANULARITY 1",
        ),
        (
            Part("clicks", Kind.INDEX, "raw_offsets"),
            "asn TYPE minmax GRANULARITY 1",
            "ALTER TABLE clicks DROP INDEX raw_offsets; ALTER TABLE clicks ADD INDEX raw_offsets raw_offset TYPE minmax",
        ),
        (Part("seals", Kind.PROJECTION, "lasts"), None, "ALTER TABLE seals MATERIALIZE PROJECTION lasts"),
        (Part("clicks", Kind.TTL, ""), "block_at", "table clicks has TTL block_at, set-up's files say greatest("),
    ],
)
def test_a_change_is_named_with_its_cure(part: Part, definition: str | None, words: str) -> None:
    """One line that says what, which, and the statement where there is one."""
    (line,) = said(changed(part, definition))
    assert words in line
    (difference,) = compare(changed(part, definition), LEFT)
    assert not needs_repetition(difference)


def test_a_table_that_is_gone_is_one_difference() -> None:
    """Not each of its columns; it is made again by repeating, as a view is."""
    found = {part: text for part, text in LEFT.items() if part.table not in ("gaps", "edr")}
    assert said(found) == ["view edr is missing", "table gaps is missing"]
    assert all(map(needs_repetition, compare(found, LEFT)))
    query = Part("edr", Kind.QUERY, "")
    assert said(changed(query, "SELECT 1")) == ["view edr has another query, or this server prints it in another way"]
    assert needs_repetition(Difference(query, LEFT[query], "SELECT 1", is_view=True))


def test_a_lost_column_says_nothing_of_its_default() -> None:
    """It comes with the column."""
    inserted = Part("clicks", Kind.COLUMN, "inserted_at")
    found = changed(inserted, None)
    del found[inserted._replace(kind=Kind.DEFAULT)]
    (line,) = said(found)
    assert "lacks column inserted_at" in line


def test_on_a_cluster_both_tables_of_clicks_are_looked_at() -> None:
    """Rows lie in clicks_local, the Distributed table has its columns; a cure is on all nodes."""
    found = wanted("main")
    for table in ("clicks", "clicks_local"):
        del found[Part(table, Kind.COLUMN, "asn")]
    del found[Part("clicks_local", Kind.INDEX, "raw_offsets")]
    lines = said(found, "main")
    assert [line.split(":")[0] for line in lines] == [
        "table clicks lacks column asn UInt32",
        "table clicks_local lacks column asn UInt32",
        "table clicks_local lacks index raw_offsets",
    ]
    assert all("ON CLUSTER 'main'" in line for line in lines)


@pytest.mark.parametrize(
    ("kind", "found", "certain"),
    [
        (Kind.ENGINE, "Log", True),
        (Kind.COLUMN, "UInt8", True),
        (Kind.QUERY, "SELECT 1", False),
        (Kind.ORDER, "id", False),
        (Kind.COLUMN, None, True),
        (Kind.DEFAULT, None, False),
        (Kind.INDEX, None, False),
        (Kind.PROJECTION, None, False),
        (Kind.TTL, None, False),
    ],
)
def test_what_servers_may_print_differently_locks_nobody_out(kind: Kind, found: str | None, certain: bool) -> None:
    """What is missing, engines and types are the same in every version."""
    assert is_certain(Difference(Part("clicks", kind, ""), "wanted", found, is_view=False)) is certain


def test_a_column_comes_back_with_its_default() -> None:
    """The printed cure says both, and the default is not told apart."""
    gone = changed(Part("gaps", Kind.COLUMN, "accepted_at"), None)
    del gone[Part("gaps", Kind.DEFAULT, "accepted_at")]
    (line,) = said(gone)
    assert "ADD COLUMN accepted_at DateTime64(3, 'UTC') DEFAULT now64(3)" in line
