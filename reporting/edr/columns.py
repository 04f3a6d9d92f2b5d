"""The columns of an event detail record, and the formats that carry them.

Rule: columns are only ever added, at the end. docs/edr.md and the view `edr` are compared with this list by tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

from reporting.formulas import FORMULA_STARTS


class Kind(StrEnum):
    """What a column holds; docs/edr.md says how each format shows it."""

    TEXT = "text"
    ID = "id"
    TIME = "time"
    BOOLEAN = "boolean"
    INTEGER = "integer"


class Column(NamedTuple):
    """One column of the view `edr`."""

    name: str
    kind: Kind
    meaning: str


COLUMNS: Final[tuple[Column, ...]] = tuple(
    Column(*row)
    for row in (
        ("transaction_id", Kind.ID, "the id that the caller was given; copies of a click share it"),
        ("status", Kind.TEXT, "`accepted`, `duplicate`, `rejected` or `malformed`"),
        ("reason", Kind.TEXT, "why the row is not accepted; empty when it is"),
        ("clicked_at", Kind.TIME, "when the phone clicked"),
        ("received_at", Kind.TIME, "when the API took the click"),
        ("inserted_at", Kind.TIME, "when the row was stored"),
        ("tenant", Kind.TEXT, "whose click it is"),
        ("source", Kind.TEXT, "`api`, `batch`, `spool` or `reprocess`"),
        ("short_url", Kind.TEXT, "the short URL as sent"),
        ("link", Kind.TEXT, "the registered link: host and path"),
        ("link_name", Kind.TEXT, "name of the link"),
        ("promotion_id", Kind.TEXT, "promotion of the link"),
        ("promotion", Kind.TEXT, "name of the promotion at the time of reading"),
        ("campaign_id", Kind.TEXT, "campaign of the promotion"),
        ("deployment_id", Kind.TEXT, "deployment of the promotion"),
        ("recipient", Kind.TEXT, "recipient the link was made for"),
        ("long_url", Kind.TEXT, "where the link leads"),
        ("sent_at", Kind.TIME, "when the message was sent; null when unknown"),
        ("user_agent", Kind.TEXT, "user agent as sent"),
        ("browser", Kind.TEXT, "browser family"),
        ("browser_version", Kind.TEXT, "browser version"),
        ("os", Kind.TEXT, "operating system family"),
        ("os_version", Kind.TEXT, "operating system version"),
        ("device", Kind.TEXT, "device model"),
        ("device_brand", Kind.TEXT, "device brand"),
        ("device_type", Kind.TEXT, "`phone`, `tablet`, `pc`, `bot` or `other`; empty without a user agent"),
        ("resolution", Kind.TEXT, "width x height, where the agent prints it"),
        ("is_bot", Kind.BOOLEAN, "crawler, link preview or scanner"),
        ("bot_reason", Kind.TEXT, "name of the rule that says so"),
        ("ip", Kind.TEXT, "address of the device, after the tenant's privacy mode"),
        (
            "ip_kind",
            Kind.TEXT,
            "`public`, `private`, `loopback`, `cgnat`, `link_local`, `documentation`, `other` or `invalid`; empty without an address",
        ),
        ("country", Kind.TEXT, "ISO 3166-1 alpha-2, of public addresses"),
        ("region", Kind.TEXT, "region, where a database knows it"),
        ("city", Kind.TEXT, "city, where a database knows it"),
        ("asn", Kind.INTEGER, "autonomous system number; 0 when unknown"),
        ("stream", Kind.TEXT, "which incarnation of the topic of raw clicks"),
        ("raw_partition", Kind.INTEGER, "partition in it"),
        ("raw_offset", Kind.INTEGER, "offset in it; the three together name the row for ever"),
        (
            "clicked_at_ignored",
            Kind.BOOLEAN,
            "a `clicked-at` was given but was outside its bounds: `clicked_at` is `received_at`",
        ),
    )
)
NAMES: Final = tuple(column.name for column in COLUMNS)


class Format(StrEnum):
    """How rows are written."""

    CSV = "csv"
    NDJSON = "ndjson"
    PARQUET = "parquet"


class Compression(StrEnum):
    """How a file is compressed; inside of it with Parquet."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


NAMES_OF_CLICKHOUSE: Final[Mapping[Format, str]] = {
    Format.CSV: "CSVWithNames",
    Format.NDJSON: "JSONEachRow",
    Format.PARQUET: "Parquet",
}
_MEDIA_TYPES: Final[Mapping[Format, str]] = {
    Format.CSV: "text/csv; charset=utf-8; header=present",
    Format.NDJSON: "application/x-ndjson",
    Format.PARQUET: "application/vnd.apache.parquet",
}
_COMPRESSED: Final[Mapping[Compression, tuple[str, str]]] = {
    Compression.GZIP: (".gz", "application/gzip"),
    Compression.ZSTD: (".zst", "application/zstd"),
}

_COMMON: Final[Mapping[str, Any]] = {
    "max_threads": 2,  # one reader takes the bytes; more threads are memory, and the sink needs the processors
    "max_block_size": 8_192,  # rows in hand at a time: a few MB instead of a hundred
    "readonly": 2,  # so that a server ends the query when its client goes away
    "http_write_exception_in_output_format": 0,  # 1 by default in 23.9 to 25.11: an error would be a row, the body whole
}
_OF_FORMAT: Final[Mapping[Format, Mapping[str, Any]]] = {
    Format.CSV: {
        "date_time_output_format": "iso",
        "format_csv_null_representation": "",
        "output_format_csv_crlf_end_of_line": 1,
        "output_format_parallel_formatting": 0,
    },
    Format.NDJSON: {
        "date_time_output_format": "iso",
        "output_format_json_quote_64bit_integers": 0,
        "output_format_json_escape_forward_slashes": 0,
        "output_format_parallel_formatting": 0,
    },
    Format.PARQUET: {
        "output_format_parquet_parallel_encoding": 0,
        "output_format_parquet_row_group_size": 50_000,  # rows, some 50 MB in memory
        "output_format_parquet_string_as_string": 1,
    },
}
_FORMULA: Final = ", ".join(f"char({', '.join(map(str, start.encode()))})" for start in FORMULA_STARTS)


class Shape(NamedTuple):
    """Format and compression of one file."""

    format: Format
    compression: Compression

    @property
    def suffix(self) -> str:
        """The end of a file's name."""
        if self.format is Format.PARQUET or self.compression is Compression.NONE:
            return f".{self.format}"
        return f".{self.format}{_COMPRESSED[self.compression][0]}"

    @property
    def media_type(self) -> str:
        """The Content-Type of such a file."""
        if self.format is Format.PARQUET or self.compression is Compression.NONE:
            return _MEDIA_TYPES[self.format]
        return _COMPRESSED[self.compression][1]

    @property
    def encoding(self) -> str:
        """What ClickHouse is to compress its answer with; '' for nothing. Parquet compresses inside."""
        if self.format is Format.PARQUET or self.compression is Compression.NONE:
            return ""
        return str(self.compression)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the query that writes it."""
        settings = {**_COMMON, **_OF_FORMAT[self.format]}
        if self.format is Format.PARQUET:
            settings["output_format_parquet_compression_method"] = str(self.compression)
        return settings


def expressions(fmt: Format) -> str:
    """The columns as this format wants them, for SELECT."""
    return ",\n    ".join(_expression(column, fmt) for column in COLUMNS)


def _expression(column: Column, fmt: Format) -> str:
    name = column.name
    if fmt is Format.CSV and column.kind is Kind.TEXT:
        return f"if(substringUTF8({name}, 1, 1) IN ({_FORMULA}), concat('\\'', {name}), {name}) AS {name}"
    if fmt is Format.PARQUET and column.kind is Kind.ID:
        return f"toString({name}) AS {name}"  # 16 bytes otherwise, which few readers know to be an id
    return name
