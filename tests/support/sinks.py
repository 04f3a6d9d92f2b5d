"""Sink processes on a real broker and a real ClickHouse, and what the tests ask of the table."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from pydantic import SecretStr

from clickledger.stack.guard import Guard
from shared.catalog import Catalog, CatalogFollower, Kind, followed
from shared.clickhouse import ClickHouse
from shared.enriched_fields import ENRICHED_FIELDS
from shared.events import HEADER_RAW_OFFSET, HEADER_SUSPECT, encode_enriched, encode_raw_offset
from shared.ids import uuid7_with_partition
from shared.kafka import Admin, Producer
from shared.settings import CatalogSettings, ClickHouseSettings, KafkaSettings
from sink.member import group_id
from sink.plans import decode_plan
from tests.support.full_stack import clean_env, spawn_service, start_service
from tests.support.health import health_text, metric
from tests.support.processes import WAIT_S, Child, wait_until
from tests.support.promise import promised

SMALL = {"CLICKLEDGER_SINK_BLOCK_ROWS_MAX": "200"}
QUICK = {
    **SMALL,
    "CLICKLEDGER_SINK_ANSWER_AGE_MS_MAX": "2000",
    "CLICKLEDGER_SINK_INSERT_TIMEOUT_MS": "2000",
}
"""Short bounds: what waits for the end of earlier inserts waits 4.8 s instead of 72."""
_POSITIONS = """
SELECT raw_partition, count(), uniqExact(raw_offset), max(raw_offset)
FROM clicks WHERE stream = {stream:String} GROUP BY raw_partition
"""
_ZERO = {"string": "", "integer": 0, "boolean": False, "integer?": None}


class Position(NamedTuple):
    """How one partition stands in the table."""

    rows: int
    distinct: int
    last: int


class SinkBench:
    """Topics, stream and table of one test, a producer of enriched records, and any number of sinks."""

    def __init__(self, guard: Guard, folder: Path, env: Mapping[str, str]) -> None:
        self.env = dict(env)
        self.kafka = KafkaSettings(
            kafka_bootstrap=env["CLICKLEDGER_KAFKA_BOOTSTRAP"],
            topic_raw=env["CLICKLEDGER_TOPIC_RAW"],
            topic_enriched=env["CLICKLEDGER_TOPIC_ENRICHED"],
            topic_catalog=env["CLICKLEDGER_TOPIC_CATALOG"],
        )
        self.clickhouse = ClickHouse(ClickHouseSettings(clickhouse_url=SecretStr(env["CLICKLEDGER_CLICKHOUSE_URL"])))
        self.producer = Producer(self.kafka, "test")
        self.stream = ""
        self.partitions = 0
        self.next_raw: dict[int, int] = {}
        self._guard, self._folder = guard, folder
        self._children: list[Child] = []

    async def open(self) -> None:
        """Learn the stream and connect."""
        settings = CatalogSettings(catalog_map_bytes=1 << 24)
        folder = self._folder / "catalog-test"
        follower = CatalogFollower(settings, self.kafka, folder, (Kind.STREAM,))
        async with followed(Catalog(settings, folder), follower) as catalog:
            await catalog.wait_until_current(WAIT_S)
            record = catalog.stream(self.kafka.topic_raw)
        assert record is not None
        self.stream, self.partitions = record["stream"], record["partitions"]
        self.next_raw = dict.fromkeys(range(self.partitions), 0)
        await self.producer.start()

    async def close(self) -> None:
        """End everything."""
        for child in self._children:
            if child.alive:
                child.kill()
        await self.producer.close()
        await self.clickhouse.close()

    # --- sinks

    def start(self, **settings: str) -> Child:
        """Start a sink and wait until it is ready."""
        log = self._folder / f"sink-{len(self._children)}.log"
        child = start_service(self._guard, "sink", log, {**self.env, **settings})
        self._children.append(child)
        return child

    def spawn(self, **settings: str) -> Child:
        """Start a sink and do not wait: it may never become ready."""
        log = self._folder / f"sink-{len(self._children)}.log"
        child = spawn_service(self._guard, "sink", log, {**self.env, **settings})
        self._children.append(child)
        return child

    def start_faulty(self, point: str, **settings: str) -> Child:
        """Start a sink that kills itself with -9 at a point (see sink_faults.py)."""
        log = self._folder / f"sink-{len(self._children)}.log"
        command = [sys.executable, "-m", "tests.support.sink_faults", point]
        child = Child(self._guard, command, log, {**clean_env(), **self.env, **settings})
        self._children.append(child)
        return child

    async def died(self, child: Child) -> None:
        """Wait until a faulty sink has killed itself."""
        await self.until(lambda: not child.alive, "the sink to reach its fault point", child)
        child.kill()

    # --- records

    def record(self, partition: int, raw_offset: int, **fields: Any) -> dict[str, Any]:
        """An accepted enriched record, as a mapping."""
        now_ms = time.time_ns() // 1_000_000
        made_ms = now_ms - 1
        record: dict[str, Any] = {field.name: _ZERO[field.json_type] for field in ENRICHED_FIELDS}
        return record | {
            "v": 1,
            "stream": self.stream,
            "raw_partition": partition,
            "raw_offset": raw_offset,
            "transaction_id": uuid7_with_partition(made_ms, partition, raw_offset.to_bytes(8, "big")),
            "status": "accepted",
            "received_at": made_ms,
            "clicked_at": made_ms,
            "enriched_at": now_ms,
            "expires_at": now_ms + 90 * 86_400_000,
            "tenant": "acme",
            "source": "api",
            "promotion_id": "spring",
            "recipient": f"r{raw_offset % 100}",
            "user_agent": "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36",
            **fields,
        }

    async def write(self, partition: int, records: Iterable[Mapping[str, Any]]) -> None:
        """Append enriched records as the enricher does."""
        await self.write_values(
            partition,
            [(r["raw_offset"], r["transaction_id"].encode(), encode_enriched(r), bool(r["suspect"])) for r in records],
        )

    async def write_values(self, partition: int, values: Sequence[tuple[int, bytes, bytes, bool]]) -> None:
        """Append (raw offset, key, value, suspect)."""
        batch = self.producer.new_batch()
        for raw_offset, key, value, suspect in values:
            headers = [(HEADER_RAW_OFFSET, encode_raw_offset(raw_offset))]
            headers += [(HEADER_SUSPECT, b"1")] if suspect else []
            record: dict[str, Any] = {
                "timestamp": time.time_ns() // 1_000_000,
                "key": key,
                "value": value,
                "headers": headers,
            }
            if batch.append(**record) is None:
                await self.producer.send_batch(self.kafka.topic_enriched, partition, batch)
                batch = self.producer.new_batch()
                batch.append(**record)
        if batch.record_count():
            await self.producer.send_batch(self.kafka.topic_enriched, partition, batch)

    async def write_new(self, count: int, partitions: Iterable[int] | None = None) -> None:
        """Append the next `count` records to each partition."""
        for partition in self.next_raw if partitions is None else partitions:
            first = self.next_raw[partition]
            self.next_raw[partition] += count
            await self.write(partition, [self.record(partition, first + n) for n in range(count)])

    # --- the table

    async def stored(self) -> dict[int, Position]:
        """How each partition stands."""
        rows = await self.clickhouse.query(_POSITIONS, {"stream": self.stream})
        return {partition: Position(*position) for partition, *position in rows}

    async def rows(self, columns: str, where: str = "1") -> list[tuple[Any, ...]]:
        """Rows in order of position."""
        return await self.clickhouse.query(
            f"SELECT {columns} FROM clicks WHERE stream = {{stream:String}} AND {where} ORDER BY raw_partition, raw_offset",
            {"stream": self.stream},
        )

    async def wait_stored(self, child: Child | None = None) -> None:
        """Wait until every record written has its row; then each must have exactly one."""

        async def is_complete() -> bool:
            stored = await self.stored()
            return all((p in stored and stored[p].last >= last - 1) or last == 0 for p, last in self.next_raw.items())

        await self.until_async(is_complete, "all rows", child)
        await self.assert_exact()

    async def assert_exact(self) -> None:
        """Rows = distinct positions = highest + 1, for each partition."""
        for partition, position in (await self.stored()).items():
            exact = position.rows == position.distinct == position.last + 1 == self.next_raw[partition]
            promised(exact, f"partition {partition}: {position}, {self.next_raw[partition]} written")

    async def until(self, ready: Callable[[], bool], what: str, child: Child | None = None) -> None:
        """Wait until `ready()`."""

        async def answer() -> bool:
            return ready()

        await self.until_async(answer, what, child)

    async def until_async(self, ready: Callable[[], Any], what: str, child: Child | None = None) -> None:
        """Wait until `await ready()`."""
        deadline = time.monotonic() + WAIT_S
        while not await ready():
            tail = child.tail() if child else "".join(c.tail(8) for c in self._children)
            assert time.monotonic() < deadline, f"waited {WAIT_S} s for {what}\n{await self.stored()}\n{tail}"
            await asyncio.sleep(0.1)

    def reasons(self, child: Child) -> list[str]:
        """Why a sink says it is not ready."""
        text = health_text(self._data, "sink", child.pid, "/readyz")
        found: list[str] = orjson.loads(text or '{"reasons":["no answer"]}')["reasons"]
        return found

    def metric(self, child: Child, name: str) -> float:
        """The sum of all metrics of a sink whose text begins so; 0 while it does not answer."""
        return metric(self._data, "sink", child.pid, name)

    async def until_planned(self, child: Child) -> None:
        """Wait until a sink has registered a block: it is at hand until ClickHouse has it."""
        async with Admin(self.kafka) as admin:
            group = group_id(self.stream, f"{self.clickhouse.database}.clicks")

            async def is_planned() -> bool:
                committed = await admin.committed(group, self.kafka.topic_enriched, sorted(self.next_raw))
                plans = [decode_plan(at.metadata) for at in committed.values() if at is not None]
                return any(plan is not None and plan.raw_last > plan.raw_before for plan in plans)

            deadline = time.monotonic() + WAIT_S
            while not await is_planned():
                assert time.monotonic() < deadline, f"waited {WAIT_S} s for a plan\n{child.tail()}"
                await asyncio.sleep(0.1)

    @property
    def _data(self) -> Path:
        return Path(self.env["CLICKLEDGER_DATA"])


__all__ = ["SinkBench", "wait_until"]
