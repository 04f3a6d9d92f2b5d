"""Values that are safe to store: strings bounded in bytes and cut between characters, times within their column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

TIME_MS_MAX: Final = 4_102_444_800_000
"""1 January 2100: the table's TTL counts in 32 bits of seconds, which end in 2106."""
ID_BYTES_MAX: Final = 256
"""Ids (tenant, key, promotion): low-cardinality columns; a longer one is not ours, and cutting would alias another."""
NAME_BYTES_MAX: Final = 512
URL_BYTES_MAX: Final = 2048
"""contract.md: longer short URLs are 1003."""
LONG_URL_BYTES_MAX: Final = 8192
"""What browsers and servers accept."""


def bounded(text: str, bytes_max: int) -> str:
    """`text`, cut to at most `bytes_max` bytes of UTF-8 without splitting a character. Lone surrogates become `?`."""
    if text.isascii():
        return text[:bytes_max]
    encoded = text[: bytes_max + 1].encode("utf-8", "replace")
    return encoded[:bytes_max].decode("utf-8", "ignore")


def text_of(value: object, bytes_max: int) -> str:
    """A stored text or number as a bounded string; '' for anything else."""
    if type(value) is str:
        return value if len(value) <= bytes_max and value.isascii() else bounded(value, bytes_max)
    return str(value) if type(value) in (int, float) else ""


def time_ms_of(value: object) -> int | None:
    """A time in milliseconds that the table can hold, else None."""
    return value if type(value) is int and 0 <= value <= TIME_MS_MAX else None


def following(columns: Mapping[str, object]) -> bytes:
    """Columns as JSON that goes on an object: a comma before them, no braces around them."""
    return b"," + orjson.dumps(columns)[1:-1]
