"""A raw topic that was made anew is another stream: whoever works on the old one ends, and starts again with the new."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clickledger.stack.guard import Guard
from shared.catalog import CatalogWriter, Kind
from tests.support.sinks import SinkBench


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
