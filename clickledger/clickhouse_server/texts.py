"""Texts inside SQL."""


def quoted(text: str) -> str:
    """`text` as a string literal of ClickHouse."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
