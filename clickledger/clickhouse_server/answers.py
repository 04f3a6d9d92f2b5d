"""Headers and framing of answers, as ClickHouse's HTTP interface gives them. Pure."""

from typing import Final

import orjson

from clickledger.clickhouse_server.engine import Counts

SERVER_NAME: Final = "clickledger"

_TEXT: Final = "text/plain; charset=UTF-8"
_TYPES: Final = {
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONStrings": "application/json; charset=UTF-8",
    "JSONCompactStrings": "application/json; charset=UTF-8",
    "JSONColumns": "application/json; charset=UTF-8",
    "JSONColumnsWithMetadata": "application/json; charset=UTF-8",
    "JSONObjectEachRow": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "JSONLines": "application/x-ndjson; charset=UTF-8",
    "NDJSON": "application/x-ndjson; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "CSVWithNamesAndTypes": "text/csv; charset=UTF-8; header=present",
    "XML": "application/xml; charset=UTF-8",
    "HTML": "text/html; charset=UTF-8",
    "Markdown": "text/markdown; charset=UTF-8",
    "PNG": "image/png",
}
_BINARY_STARTS: Final = (
    "Native",
    "RowBinary",
    "Parquet",
    "Arrow",
    "ORC",
    "Avro",
    "Npy",
    "MsgPack",
    "BSON",
    "Protobuf",
    "CapnProto",
    "MySQLWire",
)


def content_type(output_format: str) -> str:
    """The Content-Type of an answer in `output_format`."""
    if known := _TYPES.get(output_format):
        return known
    if output_format.startswith(_BINARY_STARTS):
        return "application/octet-stream"
    if output_format.startswith(("TabSeparated", "TSV")):
        return "text/tab-separated-values; charset=UTF-8"
    if output_format.startswith("JSON"):
        return "application/x-ndjson; charset=UTF-8"
    return _TEXT


def summary(counts: Counts) -> str:
    """The value of X-ClickHouse-Summary: JSON with numbers as strings."""
    return orjson.dumps(
        {
            "read_rows": str(counts.read_rows),
            "read_bytes": str(counts.read_bytes),
            "written_rows": str(counts.written_rows),
            "written_bytes": str(counts.written_bytes),
            "total_rows_to_read": "0",
            "result_rows": str(counts.result_rows),
            "result_bytes": "0",
            "elapsed_ns": str(counts.elapsed_ns),
        },
    ).decode()


def exception_block(tag: str, text: str) -> bytes:
    """What ends a stream that broke after its first bytes: the text between marks that carry the answer's own tag."""
    message = f"{text.rstrip()}\n"
    size = len(message.encode())
    return f"\r\n__exception__\r\n{tag}\r\n{message}{size} {tag}\r\n__exception__\r\n".encode()
