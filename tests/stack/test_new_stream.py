"""A raw topic that was made anew is another stream, and a catalog can be lost: who works on the old one stops in time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from clickledger.stack.guard import Guard
from shared.catalog import CatalogWriter, Kind
from shared.kafka import Admin
from tests.support.enrichers import EnricherStack, eventually
from tests.support.sinks import SinkBench
from tests.support.stack import Names


@pytest.fixture
async def bench(prepared_env: dict[str, str], guard: Guard, tmp_path: Path) -> AsyncIterator[SinkBench]:
    """Topics, stream and table of this test's own."""
    bench = SinkBench(guard, tmp_path, prepared_env)
    await bench.open()
    yield bench
    await bench.close()


async def test_a_sink_ends_when_its_stream_is_replaced(bench: SinkBench) -> None:
    """To it the new stream's clicks are foreign: it would drop them, and say that it is well. The next one stores them."""
    child = bench.start()
    await bench.write_new(10, [0])
    await bench.wait_stored(child)
    record = {"v": 1, "stream": "new", "partitions": bench.partitions, "start_offsets": [0] * bench.partitions}
    await CatalogWriter(bench.kafka, bench.producer).put(Kind.STREAM, bench.kafka.topic_raw, record)
    await bench.until(lambda: not child.alive, "the old stream's sink to end", child)
    assert "is now stream new" in child.tail(40)
    bench.stream, bench.next_raw = "new", dict.fromkeys(range(bench.partitions), 0)
    await bench.write_new(10, [0])
    await bench.wait_stored(bench.start())


@pytest.fixture
async def stack(kafka_bootstrap: str, names: Names, tmp_path: Path, guard: Guard) -> AsyncIterator[EnricherStack]:
    """Topics and a catalog of this test's own."""
    stack = EnricherStack(kafka_bootstrap, names, tmp_path, guard, 1)
    await stack.open()
    yield stack
    await stack.close()


async def test_an_enricher_stands_still_while_the_catalog_is_lost(stack: EnricherStack) -> None:
    """Its tenants are gone with it, so every click would be a rejected row; once restored, all are accepted."""
    child = stack.start()
    await stack.send(0, stack.clicks(0, 3))
    await stack.wait_enriched()
    async with Admin(stack.kafka) as admin:
        await admin.delete(stack.kafka.topic_catalog)

    async def is_told() -> bool:
        return "the catalog has no stream" in child.tail(40)

    async def is_made() -> bool:
        async with Admin(stack.kafka) as admin:
            return await admin.create(stack.catalog_spec)

    await eventually(is_made, [child])
    await eventually(is_told, [child])
    stack.version = -1
    await stack.send(0, stack.clicks(0, 3))
    await stack.fill_catalog()
    rows = [orjson.loads(record.value) for record in (await stack.wait_enriched())[0]]
    assert [row["status"] for row in rows] == ["accepted"] * 6
    assert child.alive
