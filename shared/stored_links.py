"""A link as the local copy keeps it: its terms in a head of fixed form, then the record's bytes as they were written. Pure.

Whether a click on a link counts is asked once a click, a record is written once: so what that takes is read out of the
JSON when the record is stored (docs/adr/0038). The head is never a part of what is given away: a record is sliced off it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, NewType

import orjson

StoredLink = NewType("StoredLink", bytes)
"""`_TIMES`, the tenant in UTF-8, the record. Where no tenant stands, the record is to be decoded."""

_TIMES: Final = struct.Struct(">Bqq")
"""Where the record begins, start and end."""
NEVER: Final = 2**63 - 1
"""The end of a link that does not end."""
DISABLED: Final = -(2**63)
"""The end of a link that is disabled: it was over before every click."""
_UNTOLD: Final = _TIMES.pack(_TIMES.size, 0, DISABLED)
"""The head of a link whose terms do not fit: it says of no click that it counts."""


class Terms(NamedTuple):
    """Whose clicks on a link count, and when."""

    tenant: str
    start_ms: int
    """From here the tenant's retention runs: `sent_at`, else the registration."""
    end_ms: int
    """The first moment at which a click does not count any more."""


def terms_of(record: Mapping[str, Any]) -> Terms:
    """The terms of a link's record. Raises KeyError for one without tenant or start."""
    start, end = record.get("sent_at"), record.get("expires_at")
    if record.get("disabled"):
        end = DISABLED
    return Terms(record["tenant"], record["registered_at"] if start is None else start, NEVER if end is None else end)


def store_link(raw: bytes, record: Mapping[str, Any]) -> StoredLink:
    """A record behind the head for its terms; `record` is what `raw` holds."""
    try:
        tenant, start_ms, end_ms = terms_of(record)
        name = tenant.encode()
        head = _TIMES.pack(_TIMES.size + len(name), start_ms, end_ms) + name
    except (KeyError, AttributeError, struct.error):  # no tenant, no text, no whole number of 64 bits: not our form
        head = _UNTOLD
    return StoredLink(head + raw)


def record_of(stored: StoredLink) -> bytes:
    """The record, byte for byte."""
    return stored[stored[0] :]


def read_terms(stored: StoredLink) -> Terms:
    """The terms of a stored link, from its head or, where that does not tell, its record. Raises as `terms_of`."""
    begin = stored[0]
    if begin == _TIMES.size:
        return terms_of(orjson.loads(record_of(stored)))
    _, start_ms, end_ms = _TIMES.unpack_from(stored)
    return tuple.__new__(
        Terms, (stored[_TIMES.size : begin].decode(), start_ms, end_ms)
    )  # cheaper than calling the class


def is_of(stored: StoredLink, tenant: bytes) -> bool:
    """Whether a link is the tenant's (UTF-8), by its head or, where that does not tell, its record."""
    begin = stored[0]
    if begin == _TIMES.size:
        return bool(orjson.loads(record_of(stored)).get("tenant") == tenant.decode())
    return stored[_TIMES.size : begin] == tenant


def records_in_time(links: Sequence[StoredLink], tenant: str, now_ms: int, retention_ms: int) -> list[bytes] | None:
    """The links' records when each head says that a click of the tenant's now counts, else None. At least one link.

    Links that were sent out together have the same head, so each head is looked at once.
    """
    name, times = tenant.encode(), _TIMES.size
    begin = times + len(name)
    head = links[0][:begin]
    heads, records = {head}, [link.removeprefix(head) for link in links]
    if sum(map(len, records)) + begin * len(links) != sum(map(len, links)):
        heads, records = {link[:begin] for link in links}, [link[begin:] for link in links]
    for head in heads:
        begins, start_ms, end_ms = _TIMES.unpack_from(head)
        if begins != begin or head[times:] != name or now_ms >= end_ms or now_ms > start_ms + retention_ms:
            return None
    return records
