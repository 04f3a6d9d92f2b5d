"""What a reader may ask, judged from the engine's own syntax tree; everything not understood is refused.

The engine enforces the role and ``readonly``; these rules close what it leaves open to such a session (engine.py).
The tree is that of the exact text that runs, so no trick of quoting, case or comments can make the two differ.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from clickledger.clickhouse_server import reader_names as names
from clickledger.clickhouse_server.errors import (
    ACCESS_DENIED,
    INTO_OUTFILE_NOT_ALLOWED,
    READONLY,
    StatementError,
    refusal,
)

READER_SECONDS_MAX: Final = 60.0  # one statement of a reader; the machine is shared with the sink
READER_MEMORY_BYTES_MAX: Final = 4 << 30  # 4 GiB for one statement of a reader
TENANT_MEMORY_BYTES_MAX: Final = 1 << 30  # 1 GiB for one of a tenant: tenants share the machine with each other
READER_THREADS_MAX: Final = 4  # for one statement; also its default where the machine has as many processors
READER_BLOCK_ROWS_MAX: Final = 65_536  # rows in hand at a time; about the engine's own default

_PROGRESS: Final = "withprogress"  # JSONEachRowWithProgress and its kin, in lower case
_LINE: Final = re.compile(r"(?P<indent> *)(?P<kind>[A-Za-z:]+)(?P<rest> .*)?\Z")
_SUFFIX: Final = re.compile(r"(?: \(alias .*\))?(?: \(children \d+\))?\Z")


@dataclass(frozen=True, slots=True)
class Rules:
    """Names in lower case that a reader may use; read once from the engine's own catalogue."""

    functions: frozenset[str]
    aggregates: frozenset[str]
    combinators: tuple[str, ...]

    def allows_function(self, name: str) -> bool:
        """Whether `name` is a pure function, or an aggregate one with combinators, such as sumIf or countArrayIf."""
        lower = name.lower()
        return lower in self.functions or self._is_aggregate(lower)

    def _is_aggregate(self, lower: str) -> bool:
        if lower in self.aggregates:
            return True
        return any(
            lower.endswith(suffix) and self._is_aggregate(lower.removesuffix(suffix)) for suffix in self.combinators
        )


def load_rules(ask: Callable[[str], str]) -> Rules:
    """The rules for one engine; `ask` runs SQL and returns TSV."""
    categories = ", ".join(f"'{name}'" for name in names.PURE_CATEGORIES)
    others = ", ".join(f"'{name}'" for name in sorted(names.PURE_OTHERS))
    is_pure = f"origin = 'System' AND (categories IN ({categories}) OR name IN ({others}))"
    pure = f"SELECT name FROM system.functions WHERE {is_pure}"  # noqa: S608 # built from the constants above
    functions = ask(f"SELECT lower(name) FROM system.functions WHERE name IN ({pure}) OR alias_to IN ({pure})")  # noqa: S608
    aggregates = ask("SELECT lower(name) FROM system.functions WHERE is_aggregate AND origin = 'System'")
    combinators = ask("SELECT lower(name) FROM system.aggregate_function_combinators WHERE NOT is_internal")
    return Rules(
        names.SYNTAX_FUNCTIONS.union(functions.split()),
        frozenset(aggregates.split()),
        tuple(combinators.split()),
    )


def reader_settings(settings: Mapping[str, str], *, is_tenant: bool = False) -> dict[str, str]:
    """The settings a reader's statement runs with; raises READONLY for one that is not on the list."""
    kept: dict[str, str] = {}
    for name, value in settings.items():
        if name in names.SETTINGS_IGNORED:
            continue
        if not names.SETTING.match(name) or names.SETTING_NOT.match(name):
            raise refusal(READONLY, f"Cannot modify '{name}' setting in readonly mode.")
        kept[name] = value
    kept["max_execution_time"] = _bounded_seconds(kept.get("max_execution_time", ""))
    kept["max_memory_usage"] = str(TENANT_MEMORY_BYTES_MAX if is_tenant else READER_MEMORY_BYTES_MAX)
    kept["max_threads"] = _bounded_count(kept.get("max_threads", ""), min(READER_THREADS_MAX, os.cpu_count() or 1))
    if "max_block_size" in kept:
        kept["max_block_size"] = _bounded_count(kept["max_block_size"], READER_BLOCK_ROWS_MAX)
    return kept


def _bounded_count(text: str, bound: int) -> str:
    """`text` if it is a number from 1 to `bound`, else `bound`: 0 and "auto" ask for as much as there is."""
    is_count = text.isascii() and text.isdigit() and len(text) <= len(str(bound))
    return text if is_count and 1 <= int(text) <= bound else str(bound)


def _bounded_seconds(text: str) -> str:
    try:
        seconds = float(text)
    except ValueError:
        seconds = READER_SECONDS_MAX
    return f"{seconds if 0 < seconds <= READER_SECONDS_MAX else READER_SECONDS_MAX:g}"


class _Node(NamedTuple):
    indent: int
    kind: str
    name: str


def check_tree(tree: str, database: str, rules: Rules) -> None:
    """Raise StatementError unless `tree` (EXPLAIN AST of one statement) only reads `database` and the schema's tables."""
    nodes = [_parse_line(line) for line in tree.split("\n") if line]
    if not nodes or nodes[0].kind not in names.ROOT_NODES:
        raise refusal(READONLY, "reader: Cannot execute query in readonly mode.")
    previous = nodes[0]
    for node in nodes:
        _check_node(node, previous, database, rules)
        previous = node


def check_tenant_text(text: bytes) -> None:
    """Raise StatementError for a text of a tenant with PREWHERE anywhere: it is not told from WHERE in the tree."""
    if b"prewhere" in text.lower():
        raise _denied("PREWHERE (write WHERE)")


def check_tenant_format(output_format: str) -> None:
    """Raise StatementError for a format that tells how many rows were read: they are those of all tenants."""
    if output_format.lower().endswith(_PROGRESS):
        raise _denied(f"FORMAT {output_format}")


def check_tenant_tree(tree: str) -> None:
    """Raise StatementError unless a tenant may ask this: nothing that tells the sizes of what all tenants share."""
    for node in map(_parse_line, filter(None, tree.split("\n"))):
        if node.kind == "Explain" and node.name not in names.TENANT_EXPLAIN_KINDS:
            raise _denied(node.name)
        if node.kind in {"Identifier", "TableIdentifier"}:
            database, _, table = node.name.lower().partition(".")
            if database == "system" and table.partition(".")[0] in names.TENANT_SYSTEM_TABLES_NOT:
                raise _denied(f"table system.{table}")
            check_tenant_format(node.name)  # the FORMAT of a statement is an identifier of its tree
            if names.TENANT_COLUMNS_NOT.match(node.name.rpartition(".")[2]):
                raise _denied(f"column {node.name}")
        if node.kind == "ShowIndexes":
            raise _denied("SHOW INDEXES")


def check_output(tree: str, files: Sequence[str]) -> None:
    """Raise StatementError unless the statement of `tree` writes to `files` (the server's pipe, its compression) only.

    The engine leaves the clause out of the tree of a UNION DISTINCT; that there is no clause of the client's own is
    also known from the engine's class of the statement.
    """
    found = [line[10:-1] for line in tree.split("\n") if line.startswith(" Literal '")]
    if found and found != list(files):
        raise refusal(INTO_OUTFILE_NOT_ALLOWED, "INTO OUTFILE is not allowed")


def _parse_line(line: str) -> _Node:
    found = _LINE.match(line)
    if found is None:
        raise _denied("this statement (a name in it is not understood)")
    return _Node(len(found["indent"]), found["kind"], _SUFFIX.sub("", found["rest"] or "").strip())


def _check_node(node: _Node, previous: _Node, database: str, rules: Rules) -> None:
    match node.kind:
        case "Function":
            _check_function(node, previous, rules)
        case "TableIdentifier" | "Identifier":
            _check_identifier(node, database)
        case "Explain":
            if node.name not in names.EXPLAIN_KINDS:
                raise _denied(node.name)
        case "Set":
            raise refusal(READONLY, "Cannot modify settings in readonly mode: SETTINGS is not allowed for reader.")
        case kind if kind not in names.ROOT_NODES and kind not in names.INNER_NODES:
            raise _denied(f"{kind} in a statement")
        case _:
            return


def _check_function(node: _Node, previous: _Node, rules: Rules) -> None:
    is_table = previous.kind == "TableExpression" and node.indent == previous.indent + 1
    allowed = node.name.lower() in names.TABLE_FUNCTIONS if is_table else rules.allows_function(node.name)
    if not allowed:
        raise _denied(f"{'table function' if is_table else 'function'} {node.name}")


def _check_identifier(node: _Node, database: str) -> None:
    """Refuse names in the system's databases beyond the schema; other databases are the engine's to refuse by role."""
    first, _, rest = node.name.partition(".")
    if first == database or not rest:
        return
    table = rest.partition(".")[0] if node.kind == "Identifier" else rest  # an Identifier may go on with a column
    lower = first.lower()
    if lower == "system" and table not in names.SYSTEM_TABLES:
        raise _denied(f"table system.{rest}")
    if lower == "information_schema" and table.lower() not in names.INFORMATION_SCHEMA:
        raise _denied(f"table information_schema.{rest}")


def _denied(what: str) -> StatementError:
    return refusal(ACCESS_DENIED, f"reader: Not enough privileges: {what} is not allowed for this user.")
