"""Shares of clicks, seen click by click."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ingest_api.share import Share


class OneClick(NamedTuple):
    """A click of a share, with what it has from it."""

    partition: int
    key: bytes
    value: bytes
    timestamp_ms: int
    suspect: bool


def clicks_of(shares: Iterable[Share]) -> list[OneClick]:
    """Every click, in order; a share's columns must be equally long, and not empty."""
    found = []
    for share in shares:
        assert len(share.keys) == len(share.values) == len(share.places) > 0
        found += [
            OneClick(share.partition, key, value, share.timestamp_ms, share.suspect)
            for key, value in zip(share.keys, share.values, strict=True)
        ]
    return found


def share_of(values: Sequence[bytes], partition: int = 0, timestamp_ms: int = 1) -> Share:
    """A share of these raw records."""
    keys = [b"k%035d" % number for number in range(len(values))]
    return Share(partition, timestamp_ms, suspect=False, keys=keys, values=values, places=range(len(values)))
