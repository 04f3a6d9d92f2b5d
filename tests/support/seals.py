"""A bench whose sinks seal at once, and whose rows can be made to expire."""

from __future__ import annotations

from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import DeleteGroupsRequest

from clickledger.audit import Problem
from shared.seals import Seal, breaks, chain
from sink.member import group_id
from tests.support.audits import AuditBench

SEAL_AT_ONCE = {
    "CLICKLEDGER_SINK_BLOCK_ROWS_MAX": "20",
    "CLICKLEDGER_SINK_SEAL_EVERY_MS": "300",
    "CLICKLEDGER_SINK_SEAL_AGE_MS": "300",
    "CLICKLEDGER_SINK_SEAL_ROWS_MAX": "40",
}
_PAST_S = 1_700_000_000


class SealBench(AuditBench):
    """A bench whose sinks seal within a second."""

    async def sealed(self) -> list[Seal]:
        """Wait until every row is sealed; the chain."""

        async def is_sealed() -> bool:
            last = {seal.partition: seal.last for seal in await chain(self.clickhouse, self.stream)}
            return all(last.get(partition, -1) == end - 1 for partition, end in self.next_raw.items())

        await self.until_async(is_sealed, "all rows to be sealed")
        assert not await breaks(self.clickhouse, self.stream, {}, 1)
        return await chain(self.clickhouse, self.stream)

    async def store_and_seal(self, count: int = 100) -> list[Seal]:
        """Write clicks to both topics, let a sink store and seal them; the sink is stopped again."""
        await self.write_both(count)
        child = self.start(**SEAL_AT_ONCE)
        await self.wait_stored(child)
        seals = await self.sealed()
        assert child.stop() == 0, child.tail()
        return seals

    async def problems(self, *, check_seals: bool) -> dict[tuple[int, Problem], int]:
        """What an audit finds."""
        report = await self.audit(check_seals=check_seals)
        return {(finding.partition, finding.problem): finding.size for finding in report.current.findings}

    async def is_last(self, raw_offset: int) -> bool:
        """Whether each partition has this row."""
        return len(await self.rows("raw_partition", f"raw_offset = {raw_offset}")) == self.partitions

    async def lose_group(self) -> None:
        """Delete the sinks' group, which the broker does when no member is left."""
        client = AIOKafkaAdminClient(bootstrap_servers=self.kafka.kafka_bootstrap)
        await client.start()
        try:
            group = group_id(self.stream, f"{self.clickhouse.database}.clicks")
            coordinator = await client.find_coordinator(group)

            async def is_deleted() -> bool:
                answer: Any = await client._send_request_to_node(coordinator, DeleteGroupsRequest([group]))
                return all(code == 0 for _, code in answer.results)

            await self.until_async(is_deleted, "the group to be empty")
        finally:
            await client.close()

    async def expire(self, where: str) -> None:
        """Make rows, and what their seals know of them, old enough, and have TTL delete them."""
        await self.clickhouse.command(
            f"ALTER TABLE seals UPDATE expires_first = toDateTime({_PAST_S}) WHERE 1", {}, {"mutations_sync": 2}
        )
        past = f"toDateTime64({_PAST_S}, 3)"
        await self.change(f"UPDATE enriched_at = {past}, expires_at = {past}, inserted_at = {past} WHERE {where}")
        await self.clickhouse.command("OPTIMIZE TABLE clicks FINAL")
        assert await self.rows("raw_offset", where) == []
