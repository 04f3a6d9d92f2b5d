"""Strings that are safe to store: bounded in bytes, cut between characters."""

from __future__ import annotations


def bounded(text: str, bytes_max: int) -> str:
    """`text`, cut to at most `bytes_max` bytes of UTF-8 without splitting a character. Lone surrogates become `?`."""
    if text.isascii():
        return text[:bytes_max]
    encoded = text[: bytes_max + 1].encode("utf-8", "replace")
    return encoded[:bytes_max].decode("utf-8", "ignore")
