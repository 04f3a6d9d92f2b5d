"""The table's definition: the numbered files of `sink/ddl/`, applied in order, each recorded once.

A file that was applied must not change any more: the next change is the next number. Every statement is idempotent, so
two set-ups at the same time, or one that was cut short, do no harm.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import orjson

from shared.clickhouse import ClickHouse
from shared.errors import OperatorError
from sink.cluster import Place
from sink.cluster import statements as on_cluster

_NAME: Final = re.compile(r"(\d{4})_\w+\.sql")
_COMMENT: Final = re.compile(r"^\s*--.*$", re.MULTILINE)
VERSIONS: Final = """
CREATE TABLE IF NOT EXISTS schema_versions
(
    `version` UInt32 COMMENT 'number of the file',
    `name` String COMMENT 'its name',
    `digest` String COMMENT 'SHA-256 of its statements',
    `applied_at` DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'when it was applied'
)
ENGINE = MergeTree
ORDER BY version
"""
"""The table that says which files were applied."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    statements: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the statements, comments and spacing apart."""
        return hashlib.sha256("\n;\n".join(" ".join(s.split()) for s in self.statements).encode()).hexdigest()


def migrations() -> list[Migration]:
    """Every file, in order. Statements end with `;` at the end of a line."""
    found = []
    for file in files("sink").joinpath("ddl").iterdir():
        if match := _NAME.fullmatch(file.name):
            text = _COMMENT.sub("", file.read_text(encoding="utf-8"))
            statements = tuple(s.strip() for s in re.split(r";[ \t]*(?:\n|$)", text) if s.strip())
            found.append(Migration(int(match[1]), file.name, statements))
    return sorted(found, key=lambda migration: migration.version)


def forms(statement: str, cluster: str, database: str) -> tuple[str, ...]:
    """What is sent to the server: the statement as it stands in its file, or its form for the cluster."""
    return on_cluster(statement, Place(cluster, database)) if cluster else (statement,)


def missing(known: Sequence[Migration], applied: dict[int, str]) -> list[Migration]:
    """What is still to be applied. Raises OperatorError where an applied file is not the one we have."""
    for migration in known:
        if applied.get(migration.version, migration.digest) != migration.digest:
            raise OperatorError(f"{migration.name} was applied with other statements: restore it and add a new file")
    if newer := sorted(applied.keys() - {migration.version for migration in known}):
        raise OperatorError(
            f"the schema has version {newer[-1]}, which this release does not know: use a newer release"
        )
    return [migration for migration in known if migration.version not in applied]


async def applied_versions(clickhouse: ClickHouse) -> dict[int, str]:
    """The digest of each applied file; empty before the first set-up. Raises as ClickHouse does."""
    (found,) = await clickhouse.query(
        "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'schema_versions'"
    )
    if not found[0]:
        return {}
    return dict(await clickhouse.query("SELECT version, any(digest) FROM schema_versions GROUP BY version"))


async def apply_ddl(clickhouse: ClickHouse, database: str) -> list[str]:
    """Make or upgrade everything in `database`, the client's own; the names of the files applied now.

    Raises OperatorError for a schema that is not ours, and as ClickHouse does.
    """
    if clickhouse.database != database:
        raise OperatorError(f"the client works on database {clickhouse.database!r}, not on {database!r}")
    await clickhouse.create_database()
    for statement in forms(VERSIONS.strip(), clickhouse.cluster, database):
        await clickhouse.command(statement)
    done = []
    for migration in missing(migrations(), await applied_versions(clickhouse)):
        for written in migration.statements:
            for statement in forms(written, clickhouse.cluster, database):
                await clickhouse.command(statement)
        await clickhouse.insert_bytes(
            "schema_versions",
            orjson.dumps({"version": migration.version, "name": migration.name, "digest": migration.digest}),
            {"insert_deduplicate": 0},
        )
        done.append(migration.name)
    return done
