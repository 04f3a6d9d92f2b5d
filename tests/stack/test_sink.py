"""The sink on a real broker and a real ClickHouse: every record is exactly one row, whatever happens to its processes."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from clickledger.stack.guard import Guard
from shared.catalog import CatalogWriter, Kind, promotion_key
from shared.enriched_fields import ENRICHED_FIELDS
from shared.events import encode_enriched
from shared.ids import keyed_id
from tests.support.clickhouse import LocalClickHouse
from tests.support.processes import WAIT_S
from tests.support.sinks import QUICK, SMALL, SinkBench


@pytest.fixture
async def bench(prepared_env: dict[str, str], guard: Guard, tmp_path: Path) -> AsyncIterator[SinkBench]:
    """Topics, stream and table of this test's own."""
    bench = SinkBench(guard, tmp_path, prepared_env)
    await bench.open()
    yield bench
    await bench.close()


async def test_a_backlog_becomes_exactly_its_rows(bench: SinkBench) -> None:
    """30,000 waiting records are 30,000 rows; the table says what the records said."""
    await bench.write_new(5_000)
    began = time.monotonic()
    child = bench.start()
    await bench.wait_stored(child)
    print(f"backlog: {sum(bench.next_raw.values()) / (time.monotonic() - began):,.0f} rows/s, start included")  # noqa: T201  # a figure
    columns = ", ".join(
        "toUnixTimestamp64Milli(received_at)" if field.name == "received_at" else field.name
        for field in ENRICHED_FIELDS
        if field.name in {"raw_offset", "status", "received_at", "tenant", "recipient", "user_agent", "is_bot"}
    )
    ((*values,),) = await bench.rows(columns, "raw_partition = 0 AND raw_offset = 4321")
    assert values[0] == 4321
    assert values[1] == "accepted"
    assert abs(values[2] - time.time() * 1000) < 600_000
    assert values[3:5] == ["acme", "r21"]
    parts = await bench.clickhouse.query(
        "SELECT uniqExact(toDate(block_at)), count() FROM clicks WHERE block_at > received_at"
    )
    assert parts == [(1, 0)] or parts[0][1] == 0
    assert child.stop() == 0, child.tail()


async def test_columns_are_the_records_keys(bench: SinkBench) -> None:
    """system.columns of the table, the probe and the read-back table: the keys, block_at and inserted_at."""
    wanted = [(field.name, field.clickhouse_type) for field in ENRICHED_FIELDS]
    for table in ("clicks", "clicks_probe", "clicks_readback"):
        found = await bench.clickhouse.query(
            "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {t:String} ORDER BY position",
            {"t": table},
        )
        assert [name for name, _ in found] == [name for name, _ in wanted] + ["block_at", "inserted_at"]
        assert found[: len(wanted)] == wanted


POINTS = ("before:commit:9", "after:commit:1", "before:insert:1", "after:insert:9", "after:highest:7")
"""All others are tried without processes, in tests/unit/test_sink_sweep.py."""


async def test_a_kill_at_any_point_loses_and_doubles_nothing(bench: SinkBench) -> None:
    """Killed with -9 before or after each kind of call, early or in mid-load: the next process puts it right."""
    for point in POINTS:
        await bench.write_new(700)
        await bench.died(bench.start_faulty(point, **SMALL))
    await bench.wait_stored(bench.start(**SMALL))


async def test_another_member_takes_over_within_the_session(bench: SinkBench) -> None:
    """Kill -9 in mid-load, nothing restarted: the dead member's partitions move again."""
    first, second = bench.start(**SMALL), bench.start(**SMALL)
    for _ in range(20):
        await bench.write_new(100)
        await asyncio.sleep(0.05)
    first.kill()
    killed = time.monotonic()
    await bench.write_new(300)
    await bench.wait_stored(second)
    print(f"moved on {time.monotonic() - killed:.1f} s after kill -9 (session 6 s)")  # noqa: T201  # a figure


async def test_members_join_and_leave_under_load(bench: SinkBench) -> None:
    """Rebalances in mid-load, graceful and not."""
    writing = True

    async def write() -> None:
        while writing:
            await bench.write_new(150)
            await asyncio.sleep(0.1)

    task = asyncio.ensure_future(write())
    first = bench.start(**SMALL)
    second = bench.start(**SMALL)
    await asyncio.sleep(1)
    assert second.stop() == 0, second.tail()
    third = bench.start(**SMALL)
    await asyncio.sleep(2)
    first.kill()
    await asyncio.sleep(2)
    writing = False
    await task
    await bench.wait_stored(third)


async def test_a_stopped_member_that_wakes_up_is_turned_away(bench: SinkBench) -> None:
    """SIGSTOP beyond the session, in mid-load: its partitions move, and its late inserts change nothing."""
    first, second = bench.start(**SMALL), bench.start(**SMALL)
    for _ in range(10):
        await bench.write_new(200)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        await bench.write_new(500)
        await bench.wait_stored(second)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    await bench.write_new(500)
    await bench.wait_stored(second)
    assert first.alive


async def test_copies_written_by_two_enrichers_are_dropped(bench: SinkBench) -> None:
    """Interleaved runs that each start where all lower offsets are written: the first copies make the rows."""
    rng = random.Random(7)
    position = {0: 0, 1: 0}
    while position[0] < 3_000:
        writer = rng.randrange(2)
        start = min(position[writer], max(position.values()))
        if rng.random() < 0.1:
            start = rng.randrange(start + 1)
        count = rng.randrange(1, 150)
        await bench.write(0, [bench.record(0, start + n, node=f"w{writer}") for n in range(count)])
        position[writer] = start + count
    bench.next_raw[0] = max(position.values())
    await bench.wait_stored(bench.start(**SMALL))


async def test_a_gap_stops_its_partition_until_it_is_refilled(bench: SinkBench) -> None:
    """The partition stands still with an alarm, the others go on; the missing records heal it when they come."""
    child = bench.start(**SMALL)
    await bench.write_new(100)
    lost = [bench.record(0, 100 + n) for n in range(50)]
    behind = [bench.record(0, 150 + n) for n in range(50)]
    await bench.write(0, behind)
    await bench.write_new(100, [1, 2])
    await bench.until(lambda: any("raw offsets 100 to 149" in r for r in bench.reasons(child)), "the alarm", child)

    async def others_go_on() -> bool:
        stored = await bench.stored()
        return [stored[p].last for p in range(3) if p in stored] == [99, 199, 199]

    await bench.until_async(others_go_on, "what stands before the gap, and the other partitions", child)
    await bench.write(0, lost + behind)
    bench.next_raw[0] = 200
    await bench.wait_stored(child)
    await bench.until(lambda: not bench.reasons(child), "readiness", child)


async def test_an_accepted_gap_is_passed(bench: SinkBench) -> None:
    """A row in `gaps` lets the partition go on behind the loss, after a restart too."""
    child = bench.start(**SMALL)
    await bench.write_new(100)
    await bench.write(0, [bench.record(0, 150 + n) for n in range(50)])
    await bench.until(lambda: any("raw offsets 100 to 149" in r for r in bench.reasons(child)), "the alarm", child)
    await bench.clickhouse.command(
        f"INSERT INTO gaps (stream, raw_partition, raw_first, raw_last, accepted_by, reason) "
        f"VALUES ('{bench.stream}', 0, 100, 149, 'test', 'lost')"
    )

    async def is_passed() -> bool:
        stored = await bench.stored()
        return 0 in stored and stored[0].last == 199

    await bench.until_async(is_passed, "the rows behind the gap", child)
    child.kill()
    await bench.write(0, [bench.record(0, 200 + n) for n in range(10)])
    again = bench.start(**SMALL)

    async def goes_on() -> bool:
        position = (await bench.stored())[0]
        return position.last == 209 and position.rows == position.distinct == 160

    await bench.until_async(goes_on, "rows after a restart", again)


async def test_a_row_that_cannot_be_stored_is_found_and_kept(bench: SinkBench) -> None:
    """Wrong types, broken JSON and a time out of range become malformed rows in their place, bytes and all."""
    good = [bench.record(0, n) for n in range(500)]
    values = [(r["raw_offset"], r["transaction_id"].encode(), encode_enriched(r), False) for r in good]
    bad_uuid = encode_enriched(good[123] | {"transaction_id": "not a uuid"})
    bad_type = encode_enriched(good[377] | {"asn": "many"})
    broken = b'{"v":1,"stream":'
    for raw_offset, value in ((123, bad_uuid), (377, bad_type), (400, broken)):
        values[raw_offset] = (raw_offset, values[raw_offset][1], value, False)
    await bench.write_values(0, values)
    bench.next_raw[0] = 500
    await bench.wait_stored(bench.start())
    rows = await bench.rows("raw_offset, status, reason, raw", "status != 'accepted'")
    assert rows == [
        (123, "malformed", "not_storable", bad_uuid.decode()),
        (377, "malformed", "not_storable", bad_type.decode()),
        (400, "malformed", "not_storable", broken.decode()),
    ]


async def test_records_that_are_not_ours_make_no_row(bench: SinkBench) -> None:
    """Another stream's record, and bytes without any position, are dropped; the rows stay exact."""
    await bench.write(0, [bench.record(0, n) for n in range(10)])
    await bench.write(0, [bench.record(0, 10) | {"stream": "another"}])
    await bench.producer.send(bench.kafka.topic_enriched, 0, key=b"x", value=b"hello", timestamp_ms=1)
    await bench.producer.send(
        bench.kafka.topic_enriched, 0, key=b"x", value=orjson.dumps(bench.record(0, 10)), timestamp_ms=1
    )
    await bench.write(0, [bench.record(0, 11)])
    bench.next_raw[0] = 12
    await bench.wait_stored(bench.start())


async def test_second_copies_become_duplicates_in_either_order(bench: SinkBench) -> None:
    """In one block, in two blocks and after a restart; original first or replay first; a reused key is named so."""

    def copy_of(record: dict[str, Any], raw_offset: int, **fields: Any) -> dict[str, Any]:
        return record | {"raw_offset": raw_offset} | fields

    plain = [bench.record(0, n) for n in range(6)]
    key = keyed_id("acme", "order-1", 6)
    keyed = bench.record(0, 6, transaction_id=key, suspect=True, click_digest="aa")
    same = copy_of(keyed, 7)
    other = copy_of(keyed, 8, click_digest="bb")
    await bench.write(0, [*plain, keyed, same, other, copy_of(plain[0], 9, suspect=True, source="spool")])
    first = [bench.record(0, 10, suspect=True, source="spool"), bench.record(0, 11, suspect=True, source="spool")]
    await bench.write(0, [*first, copy_of(first[0], 12, suspect=False)])
    bench.next_raw[0] = 13
    child = bench.start()
    await bench.wait_stored(child)
    await bench.write(0, [copy_of(plain[1], 13, suspect=True, source="spool"), copy_of(keyed, 14)])
    bench.next_raw[0] = 15
    await bench.wait_stored(child)
    child.kill()
    await bench.write(
        0, [copy_of(first[1], 15, suspect=False), copy_of(plain[2], 16, suspect=True), bench.record(0, 17)]
    )
    bench.next_raw[0] = 18
    await bench.wait_stored(bench.start())
    rows = await bench.rows("raw_offset, toString(reason)", "status = 'duplicate'")
    assert dict(rows) == {
        7: "idempotency_key_repeated",
        8: "idempotency_key_reused",
        9: "replayed",
        12: "replayed",
        13: "replayed",
        14: "idempotency_key_repeated",
        15: "replayed",
        16: "replayed",
    }
    ids = await bench.clickhouse.query(
        "SELECT uniqExact(transaction_id), count() FROM clicks WHERE status = 'accepted'"
    )
    assert ids == [(10, 10)]


async def test_a_lost_part_whose_token_is_remembered_is_stored_again(
    bench: SinkBench, clickhouse_server: LocalClickHouse, stack_folder: Path
) -> None:
    """The newest part's folder vanishes while ClickHouse is down; its token refuses the block, `#1` stores it."""
    child = bench.start(**QUICK)
    await bench.write_new(100, [0])
    await bench.wait_stored(child)
    await bench.write_new(100, [0])
    await bench.wait_stored(child)
    child.kill()
    parts = await bench.clickhouse.query(
        "SELECT path FROM system.parts WHERE database = currentDatabase() AND table = 'clicks' AND active "
        "ORDER BY max_block_number DESC LIMIT 1"
    )
    clickhouse_server.kill()
    lost = Path(parts[0][0])
    assert stack_folder in lost.parents, lost
    shutil.rmtree(lost)
    clickhouse_server.start()
    await bench.wait_stored(bench.start(**QUICK))


async def test_a_start_is_refused_where_rows_could_double_unnoticed(bench: SinkBench) -> None:
    """A deduplication window that is too small is named, and the sink stores nothing until it is mended."""
    await bench.clickhouse.command("ALTER TABLE clicks MODIFY SETTING non_replicated_deduplication_window = 1000")
    await bench.write_new(10, [0])
    child = bench.start_faulty("before:commit:0")
    await bench.until(lambda: "non_replicated_deduplication_window" in child.tail(40), "the refusal", child)
    assert await bench.stored() == {}
    await bench.clickhouse.command("ALTER TABLE clicks MODIFY SETTING non_replicated_deduplication_window = 100000")
    await bench.wait_stored(child)


async def test_promotions_that_are_deleted_while_no_sink_runs(bench: SinkBench) -> None:
    """The next one notices; their names and times stay, those of others too."""
    writer = CatalogWriter(bench.kafka, bench.producer)
    record = {"v": 1, "tenant": "acme", "name": "Spring", "sent": 100, "delivered": None, "sent_at": 1_764_000_000_123}
    for name in ("gone", "kept"):
        await writer.put(Kind.PROMOTION, promotion_key("acme", name), record | {"promotion_id": name})
    await writer.put(Kind.TENANT, "left", {"v": 1, "tenant": "left", "zone": "Europe/Berlin"})

    async def until(gone: int) -> list[tuple[Any, ...]]:
        async with asyncio.timeout(WAIT_S):
            while True:
                found = await bench.clickhouse.query(
                    "SELECT promotion_id, is_deleted, name, sent, delivered, toUnixTimestamp64Milli(sent_at) "
                    "FROM promotions FINAL ORDER BY promotion_id"
                )
                tenants = await bench.clickhouse.query("SELECT tenant, is_deleted, zone FROM tenants FINAL")
                if len([*found, *tenants]) == 3 and sum(row[1] for row in [*found, *tenants]) == gone:
                    return [*found, *tenants]
                await asyncio.sleep(0.1)

    child = bench.start()
    assert [row[0] for row in await until(0)] == ["gone", "kept", "left"]
    assert child.stop() == 0, child.tail()
    await writer.put(Kind.PROMOTION, promotion_key("acme", "gone"), None)
    await writer.put(Kind.TENANT, "left", None)
    child = bench.start()
    assert await until(2) == [
        ("gone", True, "Spring", 100, None, 1_764_000_000_123),
        ("kept", False, "Spring", 100, None, 1_764_000_000_123),
        ("left", True, "Europe/Berlin"),
    ]
    assert child.stop() == 0, child.tail()
