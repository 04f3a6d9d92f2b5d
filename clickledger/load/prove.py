"""Compares a verified run's books with the table, slice by slice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from clickledger.load.verify import Ledger, Mismatches, StoredRow, pattern
from shared.clickhouse import ClickHouse
from shared.errors import TransientError

_POLL_S: Final = 0.3
_EARLIER_MS: Final = 300_000
"""How much the API's clock may be behind ours: rows are looked for from so long before the run."""

_STORED: Final = """
SELECT uniqExact(transaction_id)
FROM clicks
WHERE received_at >= fromUnixTimestamp64Milli({since:Int64}) AND short_url LIKE {mark:String}
"""

_SLICE: Final = """
SELECT toString(transaction_id) AS id, countIf(status = 'accepted'), countIf(status = 'duplicate'),
    countIf(status NOT IN ('accepted', 'duplicate'))
FROM clicks
WHERE received_at >= fromUnixTimestamp64Milli({since:Int64}) AND short_url LIKE {mark:String}
    AND right(toString(transaction_id), 2) BETWEEN {first:String} AND {last:String}
GROUP BY id
"""


async def wait_until_stored(
    clickhouse: ClickHouse,
    run: str,
    ids: int,
    *,
    started_ms: int,
    timeout_s: float,
    quiet_s: float = 3.0,
    spools_hold: Callable[[], Awaitable[bool]] | None = None,
) -> None:
    """Wait until the table has at least `ids` distinct ids of the run, or nothing new came for `timeout_s`.

    After that many ids are there, waits until no more came for `quiet_s` and no spool holds clicks (`spools_hold()`): a
    row too many must have its chance to be seen. Raises nothing for rows that stay away, the comparison will name them, and nothing for a ClickHouse that is
    away for less than `timeout_s`.
    """
    last_change, found = time.monotonic(), -1
    while True:
        try:
            ((now_found,),) = await clickhouse.query(_STORED, _params(run, started_ms))
        except TransientError:
            if time.monotonic() - last_change >= timeout_s:
                raise
            await asyncio.sleep(_POLL_S)
            continue
        if now_found != found:
            last_change, found = time.monotonic(), now_found
        still_s = time.monotonic() - last_change
        if still_s >= timeout_s:
            return
        if found >= ids and still_s >= quiet_s and (spools_hold is None or not await spools_hold()):
            return
        await asyncio.sleep(_POLL_S)


async def compare(
    clickhouse: ClickHouse, run: str, ledger: Ledger, *, started_ms: int, on_slice: Callable[[int], None] | None = None
) -> Mismatches:
    """Compare every answered id with the rows of the run, about 20,000 ids at a time. Raises as ClickHouse does."""
    found = Mismatches()
    for first, last, answered in ledger.slices():
        params = {**_params(run, started_ms), "first": first, "last": last}
        rows = await _query(clickhouse, params)
        found.compare(answered, (StoredRow(*row) for row in rows))
        if on_slice is not None:
            on_slice(len(answered))
    return found


async def _query(clickhouse: ClickHouse, params: dict[str, object]) -> list[tuple[str, int, int, int]]:
    for tries_left in (2, 1, 0):
        try:
            rows = await clickhouse.query(_SLICE, params)
        except TransientError:
            if not tries_left:
                raise
            await asyncio.sleep(_POLL_S)
        else:
            return [(str(row[0]), int(row[1]), int(row[2]), int(row[3])) for row in rows]
    raise AssertionError("the last try returns or raises")


def _params(run: str, started_ms: int) -> dict[str, object]:
    return {"since": started_ms - _EARLIER_MS, "mark": pattern(run)}
