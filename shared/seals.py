"""Seals: verified ranges of raw offsets, so that rows may expire and audits need not start at the beginning.

A seal says that each raw offset of a range was exactly one row (or lay in an accepted gap) and what the rows were: their
number and two sums of row hashes. Seals of a partition are a chain: each begins where the one before it ended. They are
written once (version 1), by whoever owns the partition; only an erasure writes a further version. The table keeps them
for ever; the rows may go. docs/adr/0014 argues why. Parameters are filled on the server.

The sums do not depend on the order of rows. A row's hash covers its position, so neither exchanged values nor a second
copy cancel out; the sum is taken modulo 2^256 of SHA-256 over the row's bytes in the format RowBinary, both standards
that can be computed elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from shared.clickhouse import ClickHouse

COLUMNS: Final[Mapping[int, tuple[str, ...]]] = {
    1: (
        *("v", "stream", "raw_partition", "raw_offset", "transaction_id", "status", "reason", "suspect", "replay_of"),
        *("received_at", "clicked_at", "clicked_at_ignored", "enriched_at", "expires_at", "tenant", "key_id", "source"),
        *("node", "catalog_version", "short_url", "link", "promotion_id", "campaign_id", "deployment_id", "link_name"),
        *("recipient", "long_url", "sent_at", "user_agent", "browser", "browser_version", "os", "os_version", "device"),
        *("device_brand", "device_type", "resolution", "is_bot", "bot_reason", "ip", "ip_kind", "country", "region"),
        *("city", "asn", "agent_rules", "bot_rules", "geo_rules", "click_digest", "raw", "block_at", "inserted_at"),
    )
}
"""The hashed columns in order, by version: a column that is added later makes a new version, and old seals stay valid."""
COLUMNS_VERSION: Final = max(COLUMNS)

PERSONAL: Final[Mapping[str, str]] = {
    "recipient": "''",
    "short_url": "''",
    "link": "''",
    "long_url": "''",
    "user_agent": "''",
    "ip": "''",
    "region": "''",
    "city": "''",
    "asn": "0",
    "click_digest": "''",
    "raw": "''",
}
"""What tells who clicked, and what an erasure writes instead. The second hash leaves these columns out.

`click_digest` goes because a digest of a known body can be guessed, region, city and network because they are the
address in other words. Time, promotion, country and kind of device stay.
"""

EXPIRES_AT: Final = "greatest(toDateTime(expires_at), toDateTime(inserted_at) + INTERVAL 7 DAY)"
"""When TTL may delete a row, as the table's definition has it: a week after its insert at the earliest."""
ROWS_PER_BLOCK_MAX: Final = 100_000
"""Largest block that a sink can be set to."""
BLOCKS_MAX: Final = 20_000
"""Blocks that are looked at for one seal."""

LAST: Final = """
SELECT count(), max(raw_last)
FROM seals
WHERE stream = {stream:String} AND raw_partition = {partition:UInt16}
"""
BLOCKS: Final = """
WITH (
    SELECT min(raw_offset)
    FROM clicks
    WHERE stream = {stream:String} AND raw_partition = {partition:UInt16} AND raw_offset > {after:Int64}
) AS lowest
SELECT toUnixTimestamp64Milli(now64(3)), min(raw_offset), max(raw_offset), count(), toUnixTimestamp64Milli(inserted_at)
FROM clicks
WHERE stream = {stream:String} AND raw_partition = {partition:UInt16}
    AND raw_offset > {after:Int64} AND raw_offset <= lowest + {span:UInt64}
GROUP BY inserted_at
ORDER BY min(raw_offset)
LIMIT {limit:UInt32}
"""
"""The first blocks behind a raw offset. Rows of one block, and of no other of its partition, share `inserted_at`."""


class StoredBlock(NamedTuple):
    """A block as the table shows it."""

    first: int
    """lowest raw offset"""
    last: int
    """highest raw offset"""
    rows: int
    inserted_at_ms: int


def due_range(blocks: Sequence[StoredBlock], *, now_ms: int, every_ms: int, age_ms: int, rows_max: int) -> int | None:
    """The raw offset with which the next seal ends; None while none is due. `blocks` are in order of raw offsets.

    Pure, and the same for every caller at any later time: whole blocks whose inserts fall into one slot of `every_ms`
    (slots are counted from the epoch), up to `rows_max` rows but at least one block, when the slot has been over for
    `age_ms` or is filled. All times are the server's.
    """
    if not blocks:
        return None
    slot_end_ms = (blocks[0].inserted_at_ms // every_ms + 1) * every_ms
    is_complete = now_ms >= slot_end_ms + age_ms
    taken: list[StoredBlock] = []
    rows = 0
    for block in blocks:
        if block.inserted_at_ms >= slot_end_ms or (taken and rows + block.rows > rows_max):
            is_complete = True
            break
        taken.append(block)
        rows += block.rows
    is_aged = all(block.inserted_at_ms <= now_ms - age_ms for block in taken)
    return max(block.last for block in taken) if is_complete and is_aged else None


async def last_sealed(clickhouse: ClickHouse, stream: str, partition: int) -> int | None:
    """The last raw offset that is sealed, None when none is. Raises as ClickHouse does."""
    ((seals, last),) = await clickhouse.query(LAST, {"stream": stream, "partition": partition})
    return int(last) if seals else None


async def first_blocks(
    clickhouse: ClickHouse, stream: str, partition: int, after: int, rows_max: int, settings: Mapping[str, Any]
) -> tuple[int, list[StoredBlock]]:
    """The server's time (ms; 0 when there is no block) and the first blocks behind raw offset `after`."""
    params = {
        "stream": stream,
        "partition": partition,
        "after": after,
        "span": rows_max + ROWS_PER_BLOCK_MAX,
        "limit": BLOCKS_MAX,
    }
    rows = await clickhouse.query(BLOCKS, params, settings)
    return (int(rows[0][0]) if rows else 0), [StoredBlock(*map(int, row[1:])) for row in rows]
