"""Records as the enricher writes them one after the other: taken many at once, column by column.

What is asked of each is what `Intake` asks of a record that it looks at by itself; here for all together, in few steps whatever
their number. One that is anything else, and all are looked at one by one: so these rules only say what is surely a row.
"""

from __future__ import annotations

import operator
import struct
from array import array
from collections.abc import Sequence
from typing import Final, Protocol

import orjson

from shared.events import HEADER_RAW_OFFSET, HEADER_SUSPECT
from sink.rows import Run

_SUSPECT: Final = (HEADER_SUSPECT, b"1")
_HEADER_BYTES: Final = 8
_BRACE: Final = ord("}")


class EnrichedRecord(Protocol):
    """What is read of a Kafka record. `timestamp` in ms."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


def ordinary_run(records: Sequence[EnrichedRecord], prefix: bytes, raw_first: int, position: int) -> Run | None:
    """The rows of records that have the raw offsets from `raw_first` on, one each; None when any is not wholly ordinary.

    Ordinary: a Kafka offset behind the one before and at `position` or behind it; the raw offset in the first header and, behind
    `prefix`, in the first bytes of the value, which ends like an object.
    """
    raws = range(raw_first, raw_first + len(records))
    values = [record.value or b"" for record in records]
    headers = [record.headers for record in records]
    offsets = [record.offset for record in records]
    if not (
        all(values)
        and all(headers)
        and offsets[0] >= position
        and all(map(operator.lt, offsets, offsets[1:]))
        and _begin(values, prefix, raws)
        and {value[-1] for value in values} == {_BRACE}
        and _are_numbered([header[0] for header in headers], raws)
    ):
        return None
    suspects = set()
    if max(map(len, headers)) > 1:
        suspects = {raw for raw, header in zip(raws, headers, strict=True) if _SUSPECT in header}
    return Run(
        raw_first,
        array("q", offsets),
        array("q", [record.timestamp for record in records]),
        [record.key or b"" for record in records],
        values,
        suspects,
        set(),
    )


def _begin(values: Sequence[bytes], prefix: bytes, raws: range) -> bool:
    """Whether each value begins with `prefix`, its raw offset and a comma; all raw offsets have equally many digits.

    Pieces that are no longer than expected, and together what is expected, are each what is expected.
    """
    digits = len(str(raws[0]))
    if len(str(raws[-1])) != digits:
        return False
    end = len(prefix) + digits + 1
    numbers = orjson.dumps(list(raws))[1:-1]
    return b"".join([value[:end] for value in values]) == b"%b%b," % (prefix, numbers.replace(b",", b"," + prefix))


def _are_numbered(headers: Sequence[tuple[str, bytes]], raws: range) -> bool:
    """Whether each header is the raw offset's, in their order."""
    names, numbers = zip(*headers, strict=True)
    return (
        names.count(HEADER_RAW_OFFSET) == len(raws)
        and all(numbers)  # a header may be null
        and set(map(len, numbers)) == {_HEADER_BYTES}
        and b"".join(numbers) == struct.pack(f">{len(raws)}Q", *raws)
    )
