"""What a reader may ask, judged from the engine's own syntax tree; everything not understood is refused.

The engine enforces the role and ``readonly``; these rules close what it leaves open to such a session (engine.py).
The tree is that of the exact text that runs, so no trick of quoting, case or comments can make the two differ.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from clickledger.clickhouse_server.errors import (
    ACCESS_DENIED,
    INTO_OUTFILE_NOT_ALLOWED,
    READONLY,
    StatementError,
    refusal,
)

# Categories of system.functions whose functions compute from their arguments alone.
_PURE_CATEGORIES: Final = (
    "Aggregate Functions", "Type Conversion", "Dates and Times", "String", "Arrays", "Geo", "String Search", "Hash", "JSON",
    "Mathematical", "Arithmetic", "URL", "Distance", "Geo Polygon", "Map", "IP Address", "Tuple", "Comparison", "Time Series",
    "Random Number", "Bitmap", "NumericIndexedVector", "String Splitting", "Encoding", "Bit", "UUID", "String Replacement",
    "Rounding", "Null", "Conditional", "Time Window", "Financial", "Logical", "QBit",
)  # fmt: skip
# Of the category Other, those that neither reach out nor wait nor tell about the machine or its settings.
_PURE_OTHERS: Final = tuple(
    [
        "bar",
        "blockNumber",
        "blockSize",
        "byteSize",
        "countDigits",
        "currentDatabase",
        "currentUser",
        "currentSchemas",
        "defaultValueOfArgumentType",
        "defaultValueOfTypeName",
        "displayName",
        "dumpColumnStructure",
        "errorCodeToName",
        "finalizeAggregation",
        "formatReadableDecimalSize",
        "formatReadableQuantity",
        "formatReadableSize",
        "formatReadableTimeDelta",
        "getSizeOfEnumType",
        "getSubcolumn",
        "hostName",
        "identity",
        "ignore",
        "indexHint",
        "initialQueryID",
        "initializeAggregation",
        "isConstant",
        "isDecimalOverflow",
        "lowCardinalityIndices",
        "lowCardinalityKeys",
        "materialize",
        "neighbor",
        "normalizeQuery",
        "normalizedQueryHash",
        "parseReadableSize",
        "parseReadableSizeOrNull",
        "parseReadableSizeOrZero",
        "parseTimeDelta",
        "queryID",
        "rowNumberInAllBlocks",
        "rowNumberInBlock",
        "runningAccumulate",
        "runningDifference",
        "runningDifferenceStartingWithFirstValue",
        "throwIf",
        "toColumnTypeName",
        "toTypeName",
        "transform",
        "uptime",
        "variantElement",
        "variantType",
        "version",
        "visibleWidth",
    ],
)
_SYNTAX_FUNCTIONS: Final = ("lambda", "exists", "grouping", "columns")  # nodes of the tree that are no functions

_TABLE_FUNCTIONS: Final = frozenset(
    {"numbers", "numbers_mt", "zeros", "zeros_mt", "generateseries", "generate_series", "values", "view", "null"},
)
_SYSTEM_TABLES: Final = frozenset(
    [
        "one",
        "numbers",
        "numbers_mt",
        "zeros",
        "zeros_mt",
        "tables",
        "columns",
        "databases",
        "functions",
        "data_type_families",
        "settings",
        "formats",
        "table_functions",
        "table_engines",
        "time_zones",
        "collations",
        "keywords",
        "aggregate_function_combinators",
        "contributors",
        "licenses",
        "data_skipping_indices",
        "projections",
        "constraints",
        "dictionaries",
        "build_options",
    ],
)
_INFORMATION_SCHEMA: Final = frozenset(
    ["tables", "columns", "schemata", "views", "key_column_usage", "referential_constraints", "statistics"],
)

# Settings a reader may send: they shape the answer or bound it, and touch neither files, network nor permissions.
_READER_SETTING: Final = re.compile(
    r"(output_format_\w+|format_csv_\w+|format_tsv_\w+|format_json_\w+|date_time_output_format|session_timezone|extremes"
    r"|join_use_nulls|max_block_size|max_result_rows|max_result_bytes|result_overflow_mode|max_threads|max_execution_time"
    r"|http_zlib_compression_level|prefer_column_name_to_alias|use_client_time_zone)\Z",
)
_READER_SETTING_NOT: Final = re.compile(r"\w*(schema|template|_path|_url)\w*\Z")
# Sent by drivers with every request, without meaning for a statement that only reads through this interface.
_READER_IGNORED: Final = frozenset(
    [
        "enable_http_compression",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "log_comment",
        "log_queries",
        "cancel_http_readonly_queries_on_client_close",
        "http_write_exception_in_output_format",
        "network_compression_method",
        "async_insert",
        "wait_for_async_insert",
        "http_receive_timeout",
        "http_send_timeout",
        "readonly",
        "wait_end_of_query",
        "allow_experimental_analyzer",
        "enable_analyzer",
        "send_timeout",
        "receive_timeout",
    ],
)
READER_SECONDS_MAX: Final = 60.0  # one statement of a reader; the machine is shared with the sink
READER_MEMORY_BYTES_MAX: Final = 4 << 30  # 4 GiB for one statement of a reader

_ROOTS: Final = frozenset(
    [
        "SelectWithUnionQuery",
        "SelectIntersectExceptQuery",
        "Explain",
        "DescribeQuery",
        "ShowColumns",
        "ShowIndexes",
        "ShowTables",
        "ShowFunctions",
        "ExistsTableQuery",
        "ExistsViewQuery",
        "ExistsDatabaseQuery",
        "ShowCreateTableQuery",
        "ShowCreateViewQuery",
        "ShowCreateDatabaseQuery",
    ],
)
_INNER_NODES: Final = frozenset(
    [
        "SelectQuery",
        "ExpressionList",
        "TablesInSelectQuery",
        "TablesInSelectQueryElement",
        "TableExpression",
        "TableJoin",
        "ArrayJoin",
        "Subquery",
        "Literal",
        "Asterisk",
        "QualifiedAsterisk",
        "ColumnsTransformerList",
        "ColumnsExceptTransformer",
        "ColumnsReplaceTransformer",
        "ColumnsReplaceTransformer::Replacement",
        "ColumnsRegexpMatcher",
        "ColumnsListMatcher",
        "QualifiedColumnsRegexpMatcher",
        "QualifiedColumnsListMatcher",
        "OrderByElement",
        "InterpolateElement",
        "SampleRatio",
        "WithElement",
        "WindowDefinition",
        "WindowListElement",
    ],
)
_EXPLAIN_KINDS: Final = frozenset(
    {"EXPLAIN", "EXPLAIN AST", "EXPLAIN SYNTAX", "EXPLAIN PIPELINE", "EXPLAIN ESTIMATE", "EXPLAIN QUERY TREE"},
)
_LINE: Final = re.compile(r"(?P<indent> *)(?P<kind>[A-Za-z:]+)(?: (?P<rest>.*))?\Z")
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
    categories = ", ".join(f"'{name}'" for name in _PURE_CATEGORIES)
    others = ", ".join(f"'{name}'" for name in _PURE_OTHERS)
    is_pure = f"origin = 'System' AND (categories IN ({categories}) OR name IN ({others}))"
    pure = f"SELECT name FROM system.functions WHERE {is_pure}"  # noqa: S608 # built from the constants above
    functions = ask(f"SELECT lower(name) FROM system.functions WHERE name IN ({pure}) OR alias_to IN ({pure})")  # noqa: S608
    aggregates = ask("SELECT lower(name) FROM system.functions WHERE is_aggregate AND origin = 'System'")
    combinators = ask("SELECT lower(name) FROM system.aggregate_function_combinators WHERE NOT is_internal")
    return Rules(
        frozenset((*functions.split(), *_SYNTAX_FUNCTIONS)),
        frozenset(aggregates.split()),
        tuple(combinators.split()),
    )


def reader_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings a reader's statement runs with; raises READONLY for one that is not on the list."""
    kept: dict[str, str] = {}
    for name, value in settings.items():
        if name in _READER_IGNORED:
            continue
        if not _READER_SETTING.match(name) or _READER_SETTING_NOT.match(name):
            raise refusal(READONLY, f"Cannot modify '{name}' setting in readonly mode.")
        kept[name] = value
    kept["max_execution_time"] = _bounded_seconds(kept.get("max_execution_time", ""))
    kept["max_memory_usage"] = str(READER_MEMORY_BYTES_MAX)
    return kept


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
    """Raise StatementError unless `tree` (EXPLAIN AST of one statement) only reads `database` and the schema's tables.

    The statement must write to exactly one file, which is the pipe that the server itself named in it.
    """
    lines = [line for line in tree.split("\n") if line]
    nodes = [_parse_line(line) for line in lines]
    if not nodes or nodes[0].kind not in _ROOTS:
        raise refusal(READONLY, "reader: Cannot execute query in readonly mode.")
    if sum(node.indent == 1 and node.kind == "Literal" for node in nodes) > 2:  # the pipe's name, its compression
        raise refusal(INTO_OUTFILE_NOT_ALLOWED, "INTO OUTFILE is not allowed")
    previous = nodes[0]
    for node in nodes:
        _check_node(node, previous, database, rules)
        previous = node


def _parse_line(line: str) -> _Node:
    found = _LINE.match(line)
    if found is None:
        raise _denied("this statement (a name in it is not understood)")
    rest = found["rest"] or ""
    rest = rest.removeprefix(" ") if found["kind"] in {"InsertQuery"} else rest
    return _Node(len(found["indent"]), found["kind"], _SUFFIX.sub("", f" {rest}").strip())


def _check_node(node: _Node, previous: _Node, database: str, rules: Rules) -> None:
    match node.kind:
        case "Function":
            _check_function(node, previous, rules)
        case "TableIdentifier" | "Identifier":
            _check_identifier(node.name, database)
        case "Explain":
            if node.name not in _EXPLAIN_KINDS:
                raise _denied(node.name)
        case "Set":
            raise refusal(READONLY, "Cannot modify settings in readonly mode: SETTINGS is not allowed for reader.")
        case kind if kind not in _ROOTS and kind not in _INNER_NODES:
            raise _denied(f"{kind} in a statement")
        case _:
            return


def _check_function(node: _Node, previous: _Node, rules: Rules) -> None:
    is_table = previous.kind == "TableExpression" and node.indent == previous.indent + 1
    allowed = node.name.lower() in _TABLE_FUNCTIONS if is_table else rules.allows_function(node.name)
    if not allowed:
        raise _denied(f"{'table function' if is_table else 'function'} {node.name}")


def _check_identifier(name: str, database: str) -> None:
    """Refuse names in the system's databases beyond the schema; other databases are the engine's to refuse by role."""
    first, _, rest = name.partition(".")
    if first == database:
        return
    lower = first.lower()
    if lower == "system" and rest and rest not in _SYSTEM_TABLES:
        raise _denied(f"table system.{rest}")
    if lower == "information_schema" and rest and rest.lower() not in _INFORMATION_SCHEMA:
        raise _denied(f"table information_schema.{rest}")


def _denied(what: str) -> StatementError:
    return refusal(ACCESS_DENIED, f"reader: Not enough privileges: {what} is not allowed for this user.")
