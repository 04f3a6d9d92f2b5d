"""A sink's bench with the raw topic, so that Kafka and the table can be compared, and with damage of every kind."""

from __future__ import annotations

import time
from typing import Any

import orjson

from clickledger.audit_run import AuditReport, run_audit
from clickledger.located import Located
from shared.settings import CatalogSettings, ClickHouseSettings
from tests.support.command_line import Done, run_process
from tests.support.sinks import SinkBench

ROWS = 300
_NOW = {"mutations_sync": 2}


class AuditBench(SinkBench):
    """A sink's bench that writes the raw topic as well, so that Kafka and the table can be compared."""

    @property
    def located(self) -> Located:
        """What a command would find in this environment."""
        clickhouse = ClickHouseSettings(clickhouse_url=self.env["CLICKLEDGER_CLICKHOUSE_URL"])
        return Located(self.kafka, CatalogSettings(catalog_map_bytes=1 << 24), clickhouse, clickhouse, None)

    async def write_raw(self, partition: int, ids: list[str]) -> None:
        """Append raw records with these transaction-ids; the audit reads nothing else of them."""
        batch = self.producer.new_batch()
        now_ms = time.time_ns() // 1_000_000  # old ones could be deleted by retention at any time
        for transaction_id in ids:
            batch.append(timestamp=now_ms, key=transaction_id.encode(), value=b"{}", headers=[])
        await self.producer.send_batch(self.kafka.topic_raw, partition, batch)

    async def write_both(self, count: int, partitions: list[int] | None = None) -> None:
        """Append the next `count` clicks of each partition to both topics, the same ids in both."""
        for partition in list(self.next_raw) if partitions is None else partitions:
            first = self.next_raw[partition]
            self.next_raw[partition] += count
            records = [self.record(partition, first + number) for number in range(count)]
            await self.write_raw(partition, [record["transaction_id"] for record in records])
            await self.write(partition, records)

    async def store(self, count: int = ROWS) -> None:
        """Write clicks and let a sink store them; the sink is stopped again."""
        await self.write_both(count)
        child = self.start(CLICKLEDGER_SINK_BLOCK_ROWS_MAX="100")
        await self.wait_stored(child)
        assert child.stop() == 0, child.tail()

    async def audit(self, *, wait: bool = False, timeout_s: float = 30, check_seals: bool = False) -> AuditReport:
        """Audit as the command does."""
        return await run_audit(self.located, wait=wait, timeout_s=timeout_s, check_seals=check_seals)

    def command(self, *arguments: str) -> Done:
        """Run a command in this environment, from a test that is a coroutine itself."""
        return run_process(self.env, *arguments)

    async def change(self, what: str) -> None:
        """Alter rows behind the sink's back: `UPDATE … WHERE …`."""
        await self.clickhouse.command(f"ALTER TABLE clicks {what}", {}, _NOW)

    async def delete(self, partition: int, first: int, last: int) -> None:
        """Remove rows behind the sink's back."""
        await self.clickhouse.command(
            "ALTER TABLE clicks DELETE WHERE raw_partition = {partition:UInt16} AND raw_offset BETWEEN {first:UInt64} "
            "AND {last:UInt64}",
            {"partition": partition, "first": first, "last": last},
            _NOW,
        )

    async def insert(self, *records: dict[str, Any]) -> None:
        """Add rows behind the sink's back."""
        payload = b"\n".join(orjson.dumps({"block_at": record["received_at"], **record}) for record in records)
        settings = {"insert_deduplicate": 0, "input_format_read_datetime_number_as_raw_value": 1}
        await self.clickhouse.insert_bytes("clicks", payload, settings)
