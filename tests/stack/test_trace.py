"""What is told of one click at each step of its way, on a real broker and a real table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clickledger.stack.guard import Guard
from reporting.kafka_search import Limits
from reporting.tracing import State, Trace, delays, trace
from shared.errors import TransientError
from shared.events import Source, encode_raw, raw_origin
from shared.ids import keyed_id, partition_of, uuid7_with_partition
from shared.settings import KafkaSettings
from tests.support.pipeline import now_ms
from tests.support.sinks import SinkBench

LIMITS = Limits(1_000, 20_000)
NOWHERE = KafkaSettings(kafka_bootstrap="127.0.0.1:9", kafka_request_timeout_ms=500)


class Tracing(SinkBench):
    """Writes clicks step by step and asks about them."""

    async def write_raw(self, transaction_id: str, partition: int = 0) -> int:
        """A raw record as the API writes it; its offset."""
        value = encode_raw(
            transaction_id=transaction_id.encode(),
            received_at_ms=now_ms(),
            origin=raw_origin("acme", "k1", "node-1", Source.API),
            suspect=False,
            clicked_at_ignored=False,
            catalog_version=1,
            link=b'{"link":"go.example/a","promotion_id":"p1","recipient":"r1"}',
            click=b'{"short-url":"http://go.example/a"}',
        )
        record = (transaction_id.encode(), value, now_ms())
        return await self.producer.send(
            self.kafka.topic_raw, partition, key=record[0], value=record[1], timestamp_ms=record[2]
        )

    async def ask(self, transaction_id: str, tenant: str = "acme", kafka: KafkaSettings | None = None) -> Trace:
        """What is known."""
        return await trace(self.clickhouse, kafka or self.kafka, LIMITS, tenant, transaction_id)


@pytest.fixture
async def bench(prepared_env: dict[str, str], guard: Guard, tmp_path: Path) -> AsyncIterator[Tracing]:
    """Topics, stream and table of this test's own."""
    bench = Tracing(guard, tmp_path, prepared_env)
    await bench.open()
    yield bench
    await bench.close()


async def test_a_click_at_each_step(bench: Tracing) -> None:
    """Unknown, in Kafka, enriched, a row, a row with a duplicate; for another tenant it never exists."""
    plain = uuid7_with_partition(now_ms(), 0, bytes(8))
    keyed = keyed_id("acme", "key-1", bench.partitions)
    for transaction_id, partition in ((plain, 0), (keyed, partition_of(keyed))):
        assert (await bench.ask(transaction_id)).state is State.UNKNOWN
        offset = await bench.write_raw(transaction_id, partition)
        found = await bench.ask(transaction_id)
        (copy,) = found.copies
        assert (found.state, found.note) == (State.IN_FLIGHT, "")
        assert (copy["raw_partition"], copy["raw_offset"], copy["node"]) == (partition, offset, "node-1")
        assert (copy["recipient"], copy["enriched_at"], copy["enriched_offset"]) == ("r1", None, None)
        assert delays(copy, copy["received_at"] + 5) == {"to_enriched_ms": 5, "to_stored_ms": None, "total_ms": 5}

        record = bench.record(partition, offset, transaction_id=transaction_id, browser="Chrome", suspect=True)
        await bench.write(partition, [record])
        (copy,) = (await bench.ask(transaction_id)).copies
        assert (copy["status"], copy["browser"], copy["enriched_offset"]) == ("accepted", "Chrome", offset)
        assert copy["inserted_at"] is None

        assert await bench.write_raw(transaction_id, partition) == offset + 1
        await bench.write(partition, [record | {"raw_offset": offset + 1}])
        bench.next_raw[partition] = offset + 2
    child = bench.start()
    await bench.wait_stored(child)
    for transaction_id in (plain, keyed):
        found = await bench.ask(transaction_id)
        first, second = found.copies
        assert (found.state, found.note, first["status"], second["status"]) == (
            State.STORED,
            "",
            "accepted",
            "duplicate",
        )
        assert (first["enriched_offset"], first["bot_reason"]) == (first["raw_offset"], "")
        assert delays(first, 0)["total_ms"] == first["inserted_at"] - first["received_at"]
        assert (await bench.ask(transaction_id, "other")).state is State.UNKNOWN
        assert (await bench.ask(transaction_id, "")).copies == found.copies
        without_kafka = await bench.ask(transaction_id, kafka=NOWHERE)
        assert (without_kafka.state, without_kafka.copies[0]["enriched_offset"]) == (State.STORED, None)
        assert "Kafka does not answer" in without_kafka.note


async def test_what_cannot_be_told(bench: Tracing) -> None:
    """Another tenant's click on its way, a record that is no click, and a partition that is not there are unknown.

    Without Kafka nothing is said of what is no row; how far was looked is said.
    """
    theirs, nonsense = (uuid7_with_partition(now_ms(), 0, bytes([n] * 8)) for n in (1, 2))
    await bench.write_raw(theirs)
    await bench.producer.send(bench.kafka.topic_raw, 0, key=nonsense.encode(), value=b"{", timestamp_ms=now_ms())
    far = uuid7_with_partition(now_ms(), 4095, bytes(8))
    for transaction_id in (theirs, nonsense, far):
        found = await bench.ask(transaction_id, "other")
        assert (found.state, found.copies) == (State.UNKNOWN, ())
        assert "all records" in found.note
    assert (await bench.ask(theirs)).state is State.IN_FLIGHT
    with pytest.raises(TransientError):
        await bench.ask(theirs, kafka=NOWHERE)

    late = keyed_id("acme", "late", 1)
    for number in range(3):
        await bench.write_raw(uuid7_with_partition(now_ms(), 0, bytes([3 + number] * 8)))
    found = await trace(bench.clickhouse, bench.kafka, Limits(2, 20_000), "acme", late)
    assert "the last 2" in found.note
