"""Reports over many rows: how long a query takes and how many rows it reads, with the projection and without it.

The rows are made inside ClickHouse, a day of a month at a time, and are gone at the end: about 30 bytes each on the disk.
All are of one tenant and one month, spread over promotions of equal size, and one promotion has a tenth of all.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import orjson
from pydantic import SecretStr

from bench.machine import cpu_seconds
from clickledger.output import print_table
from clickledger.stack.guard import Guard
from reporting.dimensions import By
from reporting.figures import Question, query_of
from reporting.periods import Period
from shared.clickhouse import ClickHouse
from shared.settings import ClickHouseSettings
from sink.ddl import apply_ddl
from tests.support.clickhouse import LocalClickHouse

DAYS: Final = 30
MONTH: Final = datetime(2026, 9, 1, tzinfo=UTC)
RUNS: Final = 5
_INSERT: Final = """
INSERT INTO clicks (v, stream, raw_partition, raw_offset, transaction_id, status, received_at, clicked_at, enriched_at,
    expires_at, tenant, source, link, promotion_id, campaign_id, recipient, browser, os, device, country, is_bot, block_at)
SELECT 1, 'bench', number % 6, intDiv(number, 6), reinterpretAsUUID(toUInt128(number)),
    if(cityHash64(number, 1) % 50 = 0, 'duplicate', 'accepted'), at, at, at, toDateTime64('2090-01-01', 3, 'UTC'), 'acme', 'api',
    concat('go.example/', who), promotion, concat('c', toString(cityHash64(promotion) % 10)),
    if(cityHash64(number, 3) % 20 = 0, '', who),
    ['Chrome', 'Safari', 'Firefox', ''][1 + cityHash64(number, 4) % 4], ['iOS', 'Android', ''][1 + cityHash64(number, 5) % 3],
    concat('device ', toString(cityHash64(number, 6) % 200)), ['IN', 'US', 'DE', ''][1 + cityHash64(number, 8) % 4],
    cityHash64(number, 9) % 10 = 0, toDateTime64({day:String}, 3, 'UTC')
FROM
(
    SELECT number, toDateTime64({day:String}, 3, 'UTC') + toIntervalMillisecond(intDiv((number - {first:UInt64}) * 86400000, {count:UInt64})) AS at,
        if(cityHash64(number, 7) % 10 = 0, 'big', concat('p', toString(cityHash64(number, 10) % {promotions:UInt64}))) AS promotion,
        concat('r', toString(cityHash64(number, 2) % {recipients:UInt64})) AS who
    FROM numbers({first:UInt64}, {count:UInt64})
)
"""

_ONE_PART: Final = {"max_insert_threads": 1, "min_insert_block_size_rows": 1 << 32, "min_insert_block_size_bytes": 0}


class Asked(NamedTuple):
    """One report."""

    name: str
    by: tuple[By, ...]
    promotion: str = ""
    is_unique: bool = True
    zone: str = "Asia/Kathmandu"

    @property
    def question(self) -> Question:
        """As the reports ask it."""
        period = Period(MONTH, MONTH + timedelta(days=DAYS), ZoneInfo(self.zone))
        return Question(
            "acme", period, self.by, {"promotion_id": self.promotion} if self.promotion else {}, self.is_unique
        )


REPORTS: Final = (
    Asked("one promotion, by day, without uniques", (By.PROMOTION, By.DAY), "p1", is_unique=False),
    Asked("one promotion, by day", (By.PROMOTION, By.DAY), "p1"),
    Asked("one promotion, in all", (By.PROMOTION,), "p1"),
    Asked("one promotion, by browser", (By.BROWSER,), "p1"),
    Asked("the big promotion, by day, without uniques", (By.DAY,), "big", is_unique=False),
    Asked("the big promotion, by day", (By.DAY,), "big"),
    Asked("every promotion, without uniques", (By.PROMOTION,), is_unique=False),
)


class Figure(NamedTuple):
    """Of one query."""

    rows_read: int
    ms: float
    cpu_ms: float
    """of all cores: half of it, on two, is what a quiet machine takes"""


async def fill(clickhouse: ClickHouse, rows: int, promotions: int) -> None:
    """Make the rows: each day in one part, as after its merges (sink/ddl/0010)."""
    for day in range(DAYS):
        begin, end = (rows * bound // DAYS for bound in (day, day + 1))
        params = {
            "day": f"{MONTH + timedelta(days=day):%Y-%m-%d %H:%M:%S}",
            "first": begin,
            "count": end - begin,
            "promotions": promotions,
            "recipients": max(1, rows // 10),
        }
        await clickhouse.command(_INSERT, params, _ONE_PART)


async def measure(clickhouse: ClickHouse, server: int, asked: Asked, *, by_projection: bool) -> Figure:
    """The median of some runs after one that warms up, and the rows that each reads."""
    sql, params = query_of(asked.question)
    times, spent, found = [], 0.0, {}
    for number in range(RUNS + 1):
        spent = cpu_seconds(server) if number == 1 else spent
        began = time.monotonic()
        found = orjson.loads(
            await clickhouse.raw_query(sql, "JSON", params, {"optimize_use_projections": int(by_projection)})
        )
        times.append((time.monotonic() - began) * 1000)
    return Figure(
        found["statistics"]["rows_read"], statistics.median(times[1:]), (cpu_seconds(server) - spent) / RUNS * 1000
    )


def show(rows: Sequence[tuple[Asked, Figure, Figure]]) -> None:
    """Print the table; the ratio is of times."""
    print_table(
        ("report", "rows read", "ms", "CPU ms", "rows without", "ms without", "CPU without", "CPU ratio"),
        [
            (
                asked.name,
                *(f"{a.rows_read:,}", round(a.ms), round(a.cpu_ms)),
                *(f"{b.rows_read:,}", round(b.ms), round(b.cpu_ms), f"{b.cpu_ms / max(1, a.cpu_ms):.1f}"),
            )
            for asked, a, b in rows
        ],
    )


async def run(url: str, server: int, rows: int, promotions: int) -> None:
    """Fill, measure, print."""
    settings = ClickHouseSettings(clickhouse_url=SecretStr(f"{url}/reports"), clickhouse_query_timeout_ms=600_000)
    async with ClickHouse(settings) as clickhouse:
        await apply_ddl(clickhouse, "reports")
        began = time.monotonic()
        await fill(clickhouse, rows, promotions)
        ((stored, size),) = await clickhouse.query(
            "SELECT sum(rows), sum(bytes_on_disk) FROM system.parts WHERE active AND table = 'clicks' AND database = 'reports'"
        )
        text = f"{stored:,} rows in {time.monotonic() - began:.0f} s, {size / stored:.0f} bytes each on the disk"
        print(f"{text}; {promotions:,} promotions and a big one", flush=True)
        found = []
        for asked in REPORTS:
            used = await measure(clickhouse, server, asked, by_projection=True)
            found.append((asked, used, await measure(clickhouse, server, asked, by_projection=False)))
        show(found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000_000, help="rows of the month (default 100,000,000: 3 GB)")
    parser.add_argument("--promotions", type=int, default=90, help="promotions of equal size (default 90)")
    given = parser.parse_args()
    rows = max(DAYS, min(200_000_000, given.rows))
    guard = Guard()
    with tempfile.TemporaryDirectory(prefix="clickledger-bench-") as name:
        server = LocalClickHouse(guard, Path(name))
        try:
            asyncio.run(run(server.url, server.pid, rows, max(1, given.promotions)))
        finally:
            server.close()
            guard.close()


if __name__ == "__main__":
    main()
