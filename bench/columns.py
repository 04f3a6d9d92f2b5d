"""Bytes on disk of a stored click, by column: a large table of made-up clicks, merged, in the engine of the local stack.

The rows are made inside ClickHouse; the table by column is printed, their sum is the figure. What decides it:
recipients, short URLs, addresses and ids are different in nearly every row; 2,000 user agents, few of them frequent;
40 promotions of 5 tenants, few of them busy.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import SecretStr

from bench.part import Recorder, main
from clickledger.output import print_table
from clickledger.stack.guard import Guard
from shared.clickhouse import ClickHouse
from shared.settings import ClickHouseSettings
from sink.ddl import apply_ddl
from tests.support.clickhouse import LocalClickHouse

ROWS, QUICK_ROWS = 2_000_000, 250_000
BATCH: Final = 250_000
"""Rows of one INSERT: one part before merging."""
EVERY_MS: Final = 5
"""Between two clicks: 200 a second."""
MERGE_S: Final = 300
DATABASE: Final = "clickledger"

_ROWS: Final = """
INSERT INTO clicks
(
    v, stream, raw_partition, raw_offset, transaction_id, status, received_at, clicked_at, enriched_at, expires_at,
    block_at, tenant, key_id, source, node, catalog_version, short_url, link, promotion_id, campaign_id, deployment_id,
    link_name, recipient, long_url, sent_at, user_agent, browser, browser_version, os, os_version, device, device_brand,
    device_type, ip, ip_kind, country, asn, agent_rules, bot_rules, geo_rules
)
WITH
    sipHash64(number, 1) AS dice, sipHash64(number, 2) AS other,
    toUInt64({start:UInt64} + number * {every:UInt64}) AS at_ms,
    toUInt32(floor(40 * pow((dice % 1000) / 1000, 2))) AS promotion,
    toUInt32(floor(2000 * pow((other % 10000) / 10000, 3))) AS agent,
    substring(base58Encode(toString(dice)), 1, 6) AS short,
    concat('offer.example/', short) AS place,
    number % 6 AS part
SELECT
    1, 'f3a91c20b7d84e55', part, intDiv(number, 6),
    reinterpret(
        bitOr(bitShiftLeft(toUInt128(bitOr(toUInt64(0x8000000000000000), bitShiftRight(dice, 2))), 64),
            toUInt128(bitShiftLeft(at_ms, 16) + 0x7000 + part)), 'UUID'),
    'accepted', fromUnixTimestamp64Milli(at_ms), fromUnixTimestamp64Milli(at_ms),
    fromUnixTimestamp64Milli(at_ms + 20 + other % 60), fromUnixTimestamp64Milli(at_ms + 90 * 86400000),
    fromUnixTimestamp64Milli(intDiv(at_ms, 500) * 500), concat('tenant-', toString(promotion % 5)),
    concat('k', toString(promotion % 5)), 'api', concat('node-', toString(dice % 2)), 120000 + intDiv(number, 1000),
    concat('https://', place), place, concat('promotion-', toString(promotion)),
    concat('campaign-', toString(intDiv(promotion, 3))), concat('deployment-', toString(promotion)),
    ['offer', 'shop', 'stop'][1 + dice % 3], concat('+9198', leftPad(toString(other % 100000000), 8, '0')),
    concat('https://www.example.com/landing/', toString(promotion), '?utm_source=sms&utm_campaign=spring'),
    fromUnixTimestamp64Milli({start:UInt64} - promotion * 3600000),
    concat('Mozilla/5.0 (Linux; Android ', toString(9 + agent % 7), '; SM-', toString(sipHash64(agent) % 900 + 100),
        'B) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/', toString(100 + agent % 32), '.0.', toString(4000 + agent),
        '.', toString(agent % 150), ' Mobile Safari/537.36'),
    'Chrome Mobile', concat(toString(100 + agent % 32), '.0.', toString(4000 + agent)), 'Android',
    toString(9 + agent % 7), concat('Samsung SM-', toString(sipHash64(agent) % 900 + 100), 'B'), 'Samsung', 'phone',
    IPv4NumToString(toUInt32(sipHash64(number, 3) % 3000000000 + 16777216)), 'public', ['IN', 'US', 'DE'][1 + agent % 3],
    0, '2025-01', '2025-01', '2025-01'
FROM numbers({first:UInt64}, {count:UInt64})
"""

_COLUMNS: Final = """
SELECT column, any(compression_codec), sum(column_data_compressed_bytes) / sum(rows)
FROM system.parts_columns
LEFT JOIN (SELECT name, compression_codec FROM system.columns WHERE database = {database:String} AND table = {table:String})
    AS known ON known.name = column
WHERE database = {database:String} AND table = {table:String} AND active
GROUP BY column
ORDER BY 3 DESC, column
"""

_WHOLE: Final = """
SELECT sum(bytes_on_disk) / sum(rows), sum(secondary_indices_compressed_bytes) / sum(rows),
    (SELECT sum(bytes_on_disk) FROM system.projection_parts WHERE database = {database:String} AND table = {table:String} AND active)
        / sum(rows)
FROM system.parts
WHERE database = {database:String} AND table = {table:String} AND active
"""


class Size(NamedTuple):
    """Bytes a row of one column, or of what stands beside the columns."""

    name: str
    codec: str
    bytes_per_row: float


async def fill(clickhouse: ClickHouse, rows: int) -> None:
    """Make the rows, then merge each partition into one part."""
    start_ms = time.time_ns() // 1_000_000
    for first in range(0, rows, BATCH):
        params = {"start": start_ms, "every": EVERY_MS, "first": first, "count": min(BATCH, rows - first)}
        await clickhouse.command(_ROWS, params)
    await clickhouse.command("OPTIMIZE TABLE clicks FINAL", settings={"max_execution_time": MERGE_S})


async def sizes(clickhouse: ClickHouse, table: str) -> list[Size]:
    """By column, the largest first; then indexes, projections, the rest, all."""
    params = {"database": clickhouse.database, "table": table}
    columns = [Size(*row) for row in await clickhouse.query(_COLUMNS, params)]
    ((whole, indexes, projections),) = await clickhouse.query(_WHOLE, params)
    data = sum(size.bytes_per_row for size in columns)
    return [
        *columns,
        Size("(skipping indexes)", "", indexes),
        Size("(projections)", "", projections),
        Size("(marks, primary key)", "", whole - data - indexes - projections),
        Size("all", "", whole),
    ]


def show(found: Sequence[Size]) -> None:
    """Print the table."""
    print_table(
        ("column", "codec", "bytes a row"), [(size.name, size.codec, f"{size.bytes_per_row:.2f}") for size in found]
    )


async def table(url: str, rows: int) -> list[Size]:
    """Make the table, fill it, measure it."""
    settings = ClickHouseSettings(
        clickhouse_url=SecretStr(f"{url}/{DATABASE}"), clickhouse_query_timeout_ms=MERGE_S * 1000
    )
    async with ClickHouse(settings) as clickhouse:
        await apply_ddl(clickhouse, DATABASE)
        await fill(clickhouse, rows)
        return await sizes(clickhouse, "clicks")


def measure(recorder: Recorder) -> None:
    """Make the rows, print the table, record their sum."""
    rows = recorder.scale(ROWS, QUICK_ROWS)
    guard = Guard()
    try:
        with tempfile.TemporaryDirectory(prefix="clickledger-bench-") as name:
            server = LocalClickHouse(guard, Path(name))
            try:
                found = asyncio.run(table(server.url, rows))
            finally:
                server.close()
    finally:
        guard.close()
    show(found)
    recorder.figure("bytes of a stored click", [found[-1].bytes_per_row], note=f"{rows:,} rows, merged")


if __name__ == "__main__":
    main("columns", measure, __doc__)
