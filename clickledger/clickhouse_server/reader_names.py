"""The names a reader may use: functions, tables, settings, nodes of the syntax tree. What is not here is refused."""

import re
from typing import Final


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Categories of system.functions whose functions compute from their arguments alone.
PURE_CATEGORIES: Final = (
    "Aggregate Functions", "Type Conversion", "Dates and Times", "String", "Arrays", "Geo", "String Search", "Hash", "JSON",
    "Mathematical", "Arithmetic", "URL", "Distance", "Geo Polygon", "Map", "IP Address", "Tuple", "Comparison", "Time Series",
    "Random Number", "Bitmap", "NumericIndexedVector", "String Splitting", "Encoding", "Bit", "UUID", "String Replacement",
    "Rounding", "Null", "Conditional", "Time Window", "Financial", "Logical", "QBit",
)  # fmt: skip
# Of the category Other, those that neither reach out nor wait nor tell about the machine or its settings.
PURE_OTHERS: Final = _names(
    "bar blockNumber blockSize byteSize countDigits currentDatabase currentUser currentSchemas defaultValueOfArgumentType "
    "defaultValueOfTypeName displayName dumpColumnStructure errorCodeToName finalizeAggregation formatReadableDecimalSize "
    "formatReadableQuantity formatReadableSize formatReadableTimeDelta getSizeOfEnumType getSubcolumn hostName identity "
    "ignore indexHint initialQueryID initializeAggregation isConstant isDecimalOverflow lowCardinalityIndices "
    "lowCardinalityKeys materialize neighbor normalizeQuery normalizedQueryHash parseReadableSize parseReadableSizeOrNull "
    "parseReadableSizeOrZero parseTimeDelta queryID revision rowNumberInAllBlocks rowNumberInBlock runningAccumulate "
    "runningDifference runningDifferenceStartingWithFirstValue throwIf toColumnTypeName toTypeName transform uptime "
    "variantElement variantType version visibleWidth",
)
SYNTAX_FUNCTIONS: Final = _names("lambda exists grouping columns _cast")  # function nodes of the tree that are syntax

TABLE_FUNCTIONS: Final = _names("numbers numbers_mt zeros zeros_mt generateseries generate_series values view null")
SYSTEM_TABLES: Final = _names(
    "one numbers numbers_mt zeros zeros_mt tables columns databases functions data_type_families settings formats "
    "table_functions table_engines time_zones collations keywords aggregate_function_combinators contributors licenses "
    "data_skipping_indices projections constraints dictionaries build_options",
)
INFORMATION_SCHEMA: Final = _names("tables columns schemata views key_column_usage referential_constraints statistics")

# Settings a reader may send: they shape the answer or bound it, and touch neither files, network nor permissions.
SETTING: Final = re.compile(
    r"(output_format_\w+|format_csv_\w+|format_tsv_\w+|format_json_\w+|date_time_output_format|session_timezone|extremes"
    r"|join_use_nulls|max_block_size|max_result_rows|max_result_bytes|result_overflow_mode|max_threads|max_execution_time"
    r"|http_zlib_compression_level|prefer_column_name_to_alias|use_client_time_zone)\Z",
)
SETTING_NOT: Final = re.compile(r"\w*(schema|template|_path|_url)\w*\Z")
# Sent by drivers with every request, without meaning for a statement that only reads through this interface.
SETTINGS_IGNORED: Final = _names(
    "enable_http_compression send_progress_in_http_headers http_headers_progress_interval_ms log_comment log_queries "
    "cancel_http_readonly_queries_on_client_close http_write_exception_in_output_format network_compression_method "
    "async_insert wait_for_async_insert http_receive_timeout http_send_timeout readonly wait_end_of_query "
    "allow_experimental_analyzer enable_analyzer send_timeout receive_timeout",
)

ROOT_NODES: Final = _names(
    "SelectWithUnionQuery SelectIntersectExceptQuery Explain DescribeQuery ShowColumns ShowIndexes ShowTables ShowFunctions "
    "ExistsTableQuery ExistsViewQuery ExistsDatabaseQuery ShowCreateTableQuery ShowCreateViewQuery ShowCreateDatabaseQuery",
)
INNER_NODES: Final = _names(
    "SelectQuery ExpressionList TablesInSelectQuery TablesInSelectQueryElement TableExpression TableJoin ArrayJoin Subquery "
    "Literal Asterisk QualifiedAsterisk ColumnsTransformerList ColumnsExceptTransformer ColumnsReplaceTransformer "
    "ColumnsReplaceTransformer::Replacement ColumnsRegexpMatcher ColumnsListMatcher QualifiedColumnsRegexpMatcher "
    "QualifiedColumnsListMatcher OrderByElement InterpolateElement SampleRatio WithElement WindowDefinition "
    "WindowListElement",
)
TENANT_SYSTEM_TABLES_NOT: Final = _names("databases data_skipping_indices projections constraints dictionaries")
"""Of SYSTEM_TABLES: they tell sizes and places that are the same for all tenants."""
TENANT_COLUMNS_NOT: Final = re.compile(r"_(part|block|disk|sample|row|data|shard)", re.IGNORECASE)
"""Virtual columns: where a row lies among those of all tenants."""
TENANT_EXPLAIN_KINDS: Final = frozenset({"EXPLAIN AST", "EXPLAIN SYNTAX"})
EXPLAIN_KINDS: Final = frozenset(
    {"EXPLAIN", "EXPLAIN AST", "EXPLAIN SYNTAX", "EXPLAIN PIPELINE", "EXPLAIN ESTIMATE", "EXPLAIN QUERY TREE"},
)
