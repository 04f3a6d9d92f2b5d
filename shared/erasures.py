"""The records of erasures, as far as sealers must heed them: while one is under way, nothing is sealed.

An erasure overwrites rows; a seal whose rows are read meanwhile would be wrong. So each says what it is about to do
*before* it looks for the other: the sealer announces the range and then asks for unfinished erasures; the erasure records
itself and then waits until every announcement has become a seal or is too old to become one. Whoever comes second sees
the first. docs/adr/0014.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

import orjson

from shared.clickhouse import ClickHouse

FRESH_S: Final = 30.0
"""How old its announcement may be when a seal's insert starts, by a clock that runs while the process is stopped."""
INSERT_S: Final = 10.0
"""How long that insert may run, at the client and at the server."""
SETTLE_S: Final = 1.2 * (FRESH_S + INSERT_S)
"""After this an announced seal is there or never will be."""

UNFINISHED: Final = """
SELECT toString(id)
FROM erasures FINAL
WHERE step < {done:UInt8}
ORDER BY recorded_at
"""
ANNOUNCED: Final = """
SELECT count()
FROM
(
    SELECT id, any((stream, raw_partition, raw_first)) AS place
    FROM seals_announced
    WHERE announced_at > now64(3) - toIntervalMillisecond({settle_ms:UInt32})
    GROUP BY id
    HAVING NOT max(is_over)
)
WHERE place NOT IN (SELECT stream, raw_partition, raw_first FROM seals)
"""


class Step(IntEnum):
    """How far an erasure is."""

    BEGUN = 1
    VERIFIED = 2
    """the seals were whole before; rows may be overwritten from here on"""
    DONE = 3
    GIVEN_UP = 4
    """before anything was changed"""


async def unfinished(clickhouse: ClickHouse) -> list[str]:
    """The ids of erasures that are under way, or were cut off. Raises as ClickHouse does."""
    return [erasure for (erasure,) in await clickhouse.query(UNFINISHED, {"done": int(Step.DONE)})]


class Announcement(NamedTuple):
    """What a sealer is about to read: a range of a partition from raw offset `first` on."""

    id: str
    stream: str
    partition: int
    first: int
    who: str


async def announce(clickhouse: ClickHouse, announcement: Announcement, *, is_over: bool = False) -> None:
    """Say that a range is about to be read and sealed, or (`is_over`) that it is not. Raises as ClickHouse does."""
    names = ("id", "stream", "raw_partition", "raw_first", "announced_by", "is_over")
    row = dict(zip(names, (*announcement, is_over), strict=True))
    await clickhouse.insert_bytes("seals_announced", orjson.dumps(row), {"async_insert": 0})


async def announced(clickhouse: ClickHouse) -> int:
    """How many announced ranges may still become seals. Raises as ClickHouse does."""
    ((count,),) = await clickhouse.query(ANNOUNCED, {"settle_ms": round(SETTLE_S * 1000)})
    return int(count)
