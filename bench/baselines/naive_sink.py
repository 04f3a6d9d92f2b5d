"""A sink as a tutorial writes it: decode each record, rows as Python lists, `client.insert`, commit by itself. No guarantee.

`python -m bench.baselines.naive_sink ROWS SECONDS`: prints the rows that it stored and the seconds as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from datetime import UTC, datetime
from typing import Any

import clickhouse_connect
import orjson
from aiokafka import AIOKafkaConsumer

BATCH_ROWS = 10_000
_TIMES = ("received_at", "clicked_at", "enriched_at", "expires_at", "sent_at", "block_at")


def row_of(value: bytes) -> dict[str, Any]:
    """One record as a row."""
    record: dict[str, Any] = orjson.loads(value)
    record["block_at"] = record["received_at"]
    for name in _TIMES:
        if record[name] is not None:
            record[name] = datetime.fromtimestamp(record[name] / 1000, UTC)
    return record


async def main(wanted: int, seconds_max: float) -> None:
    """Consume, decode, insert."""
    client = clickhouse_connect.get_client(dsn=os.environ["CLICKLEDGER_CLICKHOUSE_URL"])
    consumer = AIOKafkaConsumer(
        os.environ["CLICKLEDGER_TOPIC_ENRICHED"],
        bootstrap_servers=os.environ["CLICKLEDGER_KAFKA_BOOTSTRAP"],
        group_id="naive",
        auto_offset_reset="earliest",
    )
    await consumer.start()
    rows: list[list[Any]] = []
    names: list[str] = []
    stored, began = 0, 0.0
    while stored < wanted and not (began and time.monotonic() - began > seconds_max):
        for records in (await consumer.getmany(timeout_ms=500, max_records=BATCH_ROWS)).values():
            began = began or time.monotonic()
            for record in records:
                row = row_of(record.value)
                names = names or list(row)
                rows.append([row[name] for name in names])
        if len(rows) >= min(BATCH_ROWS, wanted - stored):
            client.insert("clicks_naive", rows, column_names=names)
            stored += len(rows)
            rows = []
    print(json.dumps({"rows": stored, "seconds": time.monotonic() - began}))
    await consumer.stop()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
