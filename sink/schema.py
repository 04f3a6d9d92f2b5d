"""Whether tables and views are as the files of `sink/ddl/` leave them, whatever the table `schema_versions` says.

What they leave stands in `schema.json`, as the engine itself describes it (`python -m tools.tables` writes it, a test applies
the files and compares). Only what is in it must be there: tables, columns, indices and projections of the operator's own are
nobody's business.

Tables, views and columns that are missing, and another engine or type, are certain. Servers of different versions print an
expression differently, so where texts differ the server that is asked prints both, and parentheses and spaces count for nothing; what
then still differs, or what services work without (an index), or is the operator's own (a TTL), is told, and nobody is locked out for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from importlib.resources import files
from typing import Final, NamedTuple

import orjson

from shared.clickhouse import ClickHouse
from shared.errors import OperatorError
from sink.cluster import LOCAL, SHARDED
from sink.ddl import forms, migrations

TABLES: Final = """
SELECT tables.name AS table, part.1 AS kind, '' AS name, part.2 AS definition
FROM system.tables AS tables
ARRAY JOIN
[
    ('ENGINE', engine), ('PARTITION BY', partition_key), ('ORDER BY', sorting_key), ('QUERY', as_select),
    ('TTL', extract(engine_full, ' TTL (.*?)(?: SETTINGS |$)'))
] AS part
WHERE database = currentDatabase() AND part.2 != ''
UNION ALL
SELECT table, part.1, name, part.2
FROM system.columns
ARRAY JOIN [('COLUMN', type), ('DEFAULT', if(default_kind = 'DEFAULT', default_expression, ''))] AS part
WHERE database = currentDatabase() AND part.2 != ''
    AND table NOT IN (SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'View')
"""
"""One row for each part of the client's own database; the query of a view says what its columns are."""
INDICES: Final = """
SELECT table, 'INDEX', name, concat(expr, ' TYPE ', type_full, ' GRANULARITY ', toString(granularity))
FROM system.data_skipping_indices WHERE database = currentDatabase()
UNION ALL
SELECT table, 'PROJECTION', name, query FROM system.projections WHERE database = currentDatabase()
"""
"""The same of what stands in system tables that a server opens only to whom they are granted."""

_COPIES: Final = ("clicks_probe", "clicks_readback")
"""Made like `clicks`: what they take over of it beside its columns differs with the server's version, and nothing needs it."""
_OTHER_ENGINES: Final = re.compile(r"(?:Replicated|Shared)(?=\w*MergeTree)")
"""What the same engine is called where tables are replicated by the server's own means."""

_SET_DIFFERENTLY: Final = re.compile(r"[()\s]")
"""Some versions keep parentheses that say nothing, some add them."""


class Kind(StrEnum):
    """What a part of a table or view is."""

    ENGINE = "ENGINE"
    PARTITION = "PARTITION BY"
    ORDER = "ORDER BY"
    TTL = "TTL"
    COLUMN = "COLUMN"
    DEFAULT = "DEFAULT"
    INDEX = "INDEX"
    PROJECTION = "PROJECTION"
    QUERY = "QUERY"


_EXPRESSIONS: Final = (Kind.PARTITION, Kind.ORDER, Kind.TTL, Kind.DEFAULT)
_QUERIES: Final = (Kind.PROJECTION, Kind.QUERY)
_IN_GRANTED: Final = (Kind.INDEX, Kind.PROJECTION)


class Part(NamedTuple):
    """One thing that a database has."""

    table: str
    kind: Kind
    name: str
    """of a column, an index or a projection; else empty"""


Schema = Mapping[Part, str]
"""The definition of each part, as the engine prints it."""


class Difference(NamedTuple):
    """A part that is not as it was left."""

    part: Part
    wanted: str
    found: str | None
    """None: it is not there"""
    is_view: bool


class Checked(NamedTuple):
    """What a comparison came to."""

    tables: int
    views: int
    migrations: int
    differences: list[Difference]
    unread: str
    """why indices and projections were not looked at; empty when they were"""


def as_text(schema: Schema) -> str:
    """The content of `schema.json`: table, kind, name, definition."""
    tree: dict[str, dict[str, dict[str, str]]] = {}
    for part, definition in sorted(schema.items()):
        tree.setdefault(part.table, {}).setdefault(str(part.kind), {})[part.name] = definition
    return orjson.dumps(tree, option=orjson.OPT_INDENT_2).decode() + "\n"


def wanted(cluster: str) -> dict[Part, str]:
    """What the files leave; on a cluster the rows of `clicks` lie in `clicks_local`, and `clicks` has its columns only."""
    tree = orjson.loads(files("sink").joinpath("schema.json").read_bytes())
    schema = {
        Part(table, Kind(kind), name): definition
        for table, kinds in tree.items()
        for kind, names in kinds.items()
        for name, definition in names.items()
    }
    if not cluster:
        return schema
    local = {part._replace(table=LOCAL): text for part, text in schema.items() if part.table == SHARDED}
    spread = {part: text for part, text in schema.items() if part.table != SHARDED or part.kind is Kind.COLUMN}
    return {**spread, **local, Part(SHARDED, Kind.ENGINE, ""): "Distributed"}


def parts(rows: Iterable[tuple[str, str, str, str]], database: str) -> dict[Part, str]:
    """What `READ` found. Names in the queries of views lose the database, which the server puts before each."""
    prefix = re.compile(rf"\b(FROM|JOIN) (?:{re.escape(database)}|`{re.escape(database)}`)\.")

    def plain(kind: Kind, definition: str) -> str:
        match kind:
            case Kind.QUERY:
                return prefix.sub(r"\1 ", definition)
            case Kind.ENGINE:
                return _OTHER_ENGINES.sub("", definition)
            case _:
                return definition

    found = [(Part(table, Kind(kind), name), definition) for table, kind, name, definition in rows]
    return {
        part: plain(part.kind, definition)
        for part, definition in found
        if part.table not in _COPIES or part.kind in (Kind.ENGINE, Kind.COLUMN, Kind.DEFAULT)
    }


def compare(found: Schema, expected: Schema) -> list[Difference]:
    """Every part that is missing or another; of what is missing or of another kind as a whole, only that."""
    differences = []
    broken = set()
    for part, definition in sorted(expected.items(), key=lambda each: (each[0].kind is not Kind.ENGINE, each[0])):
        if part.table in broken or found.get(part) == definition:
            continue
        if part.kind is Kind.ENGINE:
            broken.add(part.table)
        elif part.kind is Kind.DEFAULT and part._replace(kind=Kind.COLUMN) not in found:
            continue  # said of the column
        default = expected.get(part._replace(kind=Kind.DEFAULT), "") if part.kind is Kind.COLUMN else ""
        wanted_form = f"{definition} DEFAULT {default}" if default and part not in found else definition
        is_view = expected[Part(part.table, Kind.ENGINE, "")] == "View"
        differences.append(Difference(part, wanted_form, found.get(part), is_view))
    return differences


async def check(clickhouse: ClickHouse) -> Checked:
    """Compare the client's database with what the files leave. Raises as ClickHouse does."""
    expected = wanted(clickhouse.cluster)
    rows, unread = await clickhouse.query(TABLES), ""
    try:
        rows += await clickhouse.query(INDICES)
    except OperatorError as exc:  # not granted, or an older server
        unread = str(exc)
        expected = {part: text for part, text in expected.items() if part.kind not in _IN_GRANTED}
    found = parts(
        ((str(table), str(kind), str(name), str(text)) for table, kind, name, text in rows), clickhouse.database
    )
    engines = [text for part, text in expected.items() if part.kind is Kind.ENGINE]
    views = engines.count("View")
    differences = await _truly(clickhouse, compare(found, expected))
    return Checked(len(engines) - views, views, len(migrations()), differences, unread)


async def _truly(clickhouse: ClickHouse, differences: list[Difference]) -> list[Difference]:
    """Those that also differ when this server prints both sides."""
    doubtful = [each for each in differences if each.found is not None and each.part.kind in (*_EXPRESSIONS, *_QUERIES)]
    if not doubtful:
        return differences
    texts = [_statement(each.part.kind, text) for each in doubtful for text in (each.wanted, each.found or "")]
    printed = ", ".join(f"formatQuerySingleLineOrNull({_literal(text)})" for text in texts)
    ((answers,),) = await clickhouse.query(f"SELECT [{printed}]")
    bare = [None if answer is None else _SET_DIFFERENTLY.sub("", answer) for answer in answers]
    same = {each for each, one, other in zip(doubtful, bare[::2], bare[1::2], strict=True) if one and one == other}
    return [each for each in differences if each not in same]


def _statement(kind: Kind, text: str) -> str:
    return text if kind in _QUERIES else f"SELECT {text}"


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def told(difference: Difference, cluster: str, database: str) -> str:
    """The difference in words, with its cure; without one where repeating the set-up is the cure."""
    part, found = difference.part, difference.found
    what = f"{'view' if difference.is_view else 'table'} {part.table}"
    mending = "; ".join(form for cure in cures(difference) for form in forms(cure, cluster, database))
    match part.kind:
        case Kind.ENGINE if found is None:
            return f"{what} is missing"
        case Kind.QUERY:
            return f"{what} has another query, or this server prints it in another way"
        case Kind.ENGINE | Kind.PARTITION | Kind.ORDER:
            is_now = f"has {part.kind} {found or 'nothing'}, not {difference.wanted}"
            return f"{what} {is_now}: only a new table can have that: restore it from your backup"
        case Kind.TTL:
            return f"{what} has TTL {found or 'nothing'}, set-up's files say {difference.wanted}: rows must outlive their sealing"
        case Kind.COLUMN if found is None:
            return (
                f"{what} lacks column {part.name} {difference.wanted}: what stood in it is only in your backup; "
                f"empty it comes by {mending}"
            )
        case _:
            state = "lacks" if found is None else "has another"
            now = "" if found is None else f" ({found})"
            return f"{what} {state} {part.kind.lower()} {part.name}{now}: {mending}"


def is_certain(difference: Difference) -> bool:
    """Whether it is wrong in every version of the server: nothing may start on such tables."""
    return difference.part.kind in (Kind.ENGINE, Kind.COLUMN)


def needs_repetition(difference: Difference) -> bool:
    """Whether repeating the set-up is the cure: of views, and of tables that are not there."""
    return difference.is_view or (difference.part.kind is Kind.ENGINE and difference.found is None)


def cures(difference: Difference) -> list[str]:
    """Statements that make the part as it should be, for parts of a table that can be changed."""
    part, definition = difference.part, difference.wanted
    table = SHARDED if part.table == LOCAL else part.table
    drop = [] if difference.found is None else [f"ALTER TABLE {table} DROP {part.kind} {part.name}"]
    match part.kind:
        case Kind.COLUMN:
            verb = "ADD" if difference.found is None else "MODIFY"
            return [f"ALTER TABLE {table} {verb} COLUMN {part.name} {definition}"]
        case Kind.DEFAULT:
            return [f"ALTER TABLE {table} MODIFY COLUMN {part.name} DEFAULT {definition}"]
        case Kind.INDEX:
            return [*drop, f"ALTER TABLE {table} ADD INDEX {part.name} {definition}"]
        case Kind.PROJECTION:
            made = f"ALTER TABLE {table} ADD PROJECTION {part.name} ({definition})"
            return [*drop, made, f"ALTER TABLE {table} MATERIALIZE PROJECTION {part.name}"]
        case _:
            return []
