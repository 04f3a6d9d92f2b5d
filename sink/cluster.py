"""The tables on a ClickHouse cluster: the statements of `sink/ddl/` rewritten, and how far all copies of a table are.

`clicks` lies in shards, a Kafka partition's rows always in shard `raw_partition` modulo shards: every node has the
replicated table `clicks_local` and, over all shards, the Distributed table `clicks` that everybody reads and inserts
into. All other tables are small: each node has a whole copy. docs/adr/0030 argues for exactly once on such tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from shared.errors import OperatorError

SHARDED: Final = "clicks"
LOCAL: Final = "clicks_local"
WINDOW_S: Final = 7 * 86_400
"""Tokens are remembered as long as the topics keep their records: older blocks cannot be built again."""
_TABLE: Final = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+)\s")
_VIEW: Final = re.compile(r"CREATE OR REPLACE VIEW (\w+)\s")
_ALTER: Final = re.compile(r"ALTER TABLE (\w+)\s+(ADD COLUMN|MODIFY COLUMN|DROP COLUMN|)")
_ENGINE: Final = re.compile(r"\bENGINE = (Replacing|)MergeTree(?:\((\w+)\))?(?=\s|$)")
_WINDOW: Final = re.compile(r"\bnon_replicated_deduplication_window\b( = \d+)")

_COPIED: Final = re.compile(r"\bFROM (clicks|seals)\b")
EVERY_COPY: Final[Mapping[str, Any]] = {"skip_unavailable_shards": 0}
"""A replica that does not answer may be the one that has the newest block, so without it there is no answer."""
INSERT_SETTINGS: Final[Mapping[str, Any]] = {
    "distributed_foreground_insert": 1,
    "insert_quorum": "auto",
    "load_balancing": "in_order",
}
"""Answered when a majority of the shard's replicas has the block; a block sent again goes to the same replica."""


class Place(NamedTuple):
    """Where the tables lie."""

    cluster: str
    """name of the cluster in the servers' configuration; letters, digits, `_`, `.` and `-`"""
    database: str


def of_every_copy(sql: str, cluster: str) -> str:
    """The SELECT over every replica of every shard: rows come once per copy, and what any copy has is stored."""
    names = {SHARDED: LOCAL}

    def copies(found: re.Match[str]) -> str:
        return f"FROM clusterAllReplicas({_text(cluster)}, currentDatabase(), {_text(names.get(found[1], found[1]))})"

    return _COPIED.sub(copies, sql)


def statements(statement: str, place: Place) -> tuple[str, ...]:
    """What a statement of `sink/ddl/` is on a cluster. Raises OperatorError for one of an unknown kind."""
    if match := _TABLE.match(statement):
        return _created(statement, match, place)
    if match := _VIEW.match(statement):
        return (_on_cluster(statement, match, match[1], place),)
    if match := _ALTER.match(statement):
        if match[1] != SHARDED:
            return (_on_cluster(statement, match, match[1], place),)
        tables = (LOCAL, SHARDED) if match[2] else (LOCAL,)  # Distributed tables have columns only
        return tuple(_on_cluster(statement, match, table, place) for table in tables)
    raise OperatorError(f"no form for a cluster is known of: {statement:.80}")


def _created(statement: str, match: re.Match[str], place: Place) -> tuple[str, ...]:
    name = match[1]
    shard = "{shard}" if name == SHARDED else "all"
    replica = "{replica}" if name == SHARDED else "{shard}-{replica}"

    def engine(found: re.Match[str]) -> str:
        path = f"{_text(f'/clickledger/{place.database}/{name}/{shard}')}, {_text(replica)}"
        return f"ENGINE = Replicated{found[1]}MergeTree({path}{f', {found[2]}' if found[2] else ''})"

    window = rf"replicated_deduplication_window\1, replicated_deduplication_window_seconds = {WINDOW_S}"
    local = LOCAL if name == SHARDED else name
    made = _WINDOW.sub(window, _ENGINE.sub(engine, _on_cluster(statement, match, local, place)))
    if name != SHARDED:
        return (made,)
    distributed = (
        f"CREATE TABLE IF NOT EXISTS {SHARDED} ON CLUSTER {_text(place.cluster)} AS {LOCAL}\n"
        f"ENGINE = Distributed({_text(place.cluster)}, {_text(place.database)}, {_text(LOCAL)}, raw_partition)"
    )
    return made, distributed


def _on_cluster(statement: str, match: re.Match[str], name: str, place: Place) -> str:
    """The statement about table `name`, on all nodes."""
    end = match.end(1)
    return f"{statement[: match.start(1)]}{name} ON CLUSTER {_text(place.cluster)}{statement[end:]}"


def _text(value: str) -> str:
    """A literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
