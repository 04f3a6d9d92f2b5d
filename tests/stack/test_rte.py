"""The event stream over HTTP: exact across reconnects, deaths and copies; bounded, filtered, and honest about its end."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from clickledger.stack.guard import Guard
from shared.catalog import Entry, Kind
from tests.support.brokers import LocalBrokers
from tests.support.catalog import key_record
from tests.support.enrichers import now_ms
from tests.support.processes import WAIT_S
from tests.support.streaming import Event, StreamStack, connections_to, resident_bytes
from tests.support.topics import delete_records, end_offsets
from tools.schemas import enriched_schema, event_schema


@pytest.fixture
async def stack(kafka_bootstrap: str, names: Any, tmp_path: Path, guard: Guard) -> AsyncIterator[StreamStack]:
    """Three partitions and a reporting process."""
    stack = StreamStack(kafka_bootstrap, names, tmp_path, guard)
    try:
        await stack.open()
        yield stack
    finally:
        await stack.close()


def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """One that looks at formats, too."""
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())


async def eventually(condition: Callable[[], bool]) -> None:
    """Ask again until it is so; fails after a generous bound."""
    async with asyncio.timeout(WAIT_S):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.1)


def exactly_once(stack: StreamStack, found: list[Event]) -> None:
    """Every click of every partition, in order, none twice."""
    for partition, end in enumerate(stack.written):
        assert [place[1] for place in (event.place for event in found) if place[0] == partition] == list(range(end))


async def test_no_click_is_missed_or_repeated(stack: StreamStack) -> None:
    """Clients that break off at random points and resume, while records are written again and reporting is killed."""
    randomly = random.Random(7)
    found: list[Event] = []
    last_id = ""
    turn = 0
    while turn < 24 or len(found) < sum(stack.written):
        turn += 1
        for partition in range(stack.partitions if turn < 24 else 0):
            await stack.write(partition, randomly.randint(0, 60))
            end = stack.written[partition]
            if randomly.random() < 0.5:  # what an enricher that was killed before its commit leaves
                await stack.write_enriched(partition, range(randomly.randint(0, end), end))
        if turn in (8, 16):
            assert stack.reporting is not None
            stack.reporting.kill()
            await stack.start_reporting()
        left = sum(stack.written) - len(found)
        async with stack.client("" if last_id else "?from=earliest", after=last_id) as events:
            assert events.status == 200, events.body
            found += await events.clicks(left if turn >= 24 else randomly.randint(0, left), may_be_slow=True)
            last_id = events.last_id or last_id
    exactly_once(stack, found)


async def test_filters_tenants_and_envelope(stack: StreamStack) -> None:
    """What is asked for, nothing of another tenant, each a valid CloudEvent; positions pass over what is not shown."""
    await stack.write(0, 3, tenant="rival", promotion_id="theirs")
    await stack.write(0, 2, promotion_id="spring")
    await stack.write(0, 2, promotion_id="summer", is_bot=True, bot_reason="crawler")
    await stack.write(0, 1, promotion_id="", status="rejected", reason="unknown_link", link="", suspect=False)
    cases = {
        "": [3, 4, 5, 6, 7],
        "&status=rejected": [7],
        "&status=rejected&status=accepted&bots=no": [3, 4, 7],
        "&promotion_id=summer": [5, 6],
        "&promotion_id=theirs&promotion_id=spring": [3, 4],
        "&bots=yes": [5, 6],
        "&link=shortdomain/dsltrack/employee/j460A8&bots=no": [3, 4],
    }
    schema = validator(event_schema())
    for query, wanted in cases.items():
        async with stack.client(f"?from=earliest{query}") as events:
            found = await events.clicks(len(wanted))
        assert [event.place for event in found] == [(0, raw_offset) for raw_offset in wanted], query
        for event in found:
            schema.validate(event.data)
            assert event.data["source"] == "/clickledger/tenants/acme"
            assert event.id == f"{stack.stream}.{event.place[1] + 1}.0.0"
    async with stack.client("?from=earliest&promotion_id=nought") as events:
        async for block in events.blocks():  # a heartbeat's position is behind everything that was passed over
            if block.id == f"{stack.stream}.8.0.0":
                break
    async with stack.client("?from=earliest", tenant="rival") as events:
        assert [event.place[1] for event in await events.clicks(3)] == [0, 1, 2]


async def test_where_a_stream_begins(stack: StreamStack) -> None:
    """The end, the beginning, a time, a position in the query or in the header; a position that is gone is 410."""
    now = now_ms()
    await stack.write(0, 5, time_ms=now - 1_000)
    await stack.write(0, 5)
    async with stack.client("?from=earliest") as events:
        await events.clicks(10)  # the hub has them
    async with stack.client() as events, stack.client("?from=latest") as named:
        await stack.write(1, 1)
        for client in (events, named):
            assert (await client.clicks(1))[0].place == (1, 0)
    async with stack.client(f"?from={now}") as events:
        assert {event.place for event in await events.clicks(6)} == {(1, 0), *((0, n) for n in range(5, 10))}
    for options in (
        {"query": f"?after={stack.stream}.9.1.0"},
        {"query": f"?last_event_id={stack.stream}.9.1.0&from=earliest"},
        {"query": "?from=earliest&after=nonsense", "after": f"{stack.stream}.9.1"},
    ):
        async with stack.client(**options) as events:
            assert (await events.clicks(1))[0].place == (0, 9)
    await delete_records(stack.kafka, stack.kafka.topic_enriched, 0, 4)
    assert stack.reporting is not None
    stack.reporting.kill()  # the ring still holds what Kafka forgot
    await stack.start_reporting()
    for position, why in {
        f"{stack.stream}.3.0.0": "no longer in Kafka",
        f"{stack.stream}.99.0.0": "beyond the end",
        f"{stack.stream}.1.1.1.1": "4 partitions",
        "other.9.0.0": "stream other",
    }.items():
        async with stack.client(after=position) as events:
            assert (events.status, events.body["code"]) == (410, "410")
            assert why in events.body["description"]
            earliest = events.body["earliest"]
        async with stack.client(after=earliest) as events:
            assert (await events.clicks(1))[0].place in {(0, 4), (1, 0)}


async def test_what_no_stream_can_give_is_refused(stack: StreamStack) -> None:
    """A status that no event has is 400 and says why; HTTP/1.0, which has no chunks, is 505 as at /v1/edr."""
    for query in ("?status=duplicate", "?status=accepted&status=duplicate"):
        async with stack.client(query) as events:
            assert events.status == 400
            assert "duplicate is found when a click is stored" in events.body["description"]
    async with stack.client(version="1.0") as events:
        assert events.status == 505
        assert "transfer-encoding" not in events.headers


def send_buffer_bytes() -> int:
    """What this system lets a socket hold at most of what its client has not taken."""
    return int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text(encoding="ascii").split()[2])


async def test_a_slow_client_is_closed_and_resumes(stack: StreamStack) -> None:
    """It is told why, holds nothing meanwhile but its socket's buffers, and gets the rest exactly once."""
    await stack.write(0, 1)
    async with stack.client("?from=earliest", receive_bytes=4_096, limit=4_096) as events:
        found = await events.clicks(1)
        for _ in range(6 + send_buffer_bytes() // 500_000):  # 600 kB each: more than sockets, transport and ring hold
            await stack.write(0, 500)
        async with stack.client(after=f"{stack.stream}.{stack.written[0] - 1}.0.0") as other:
            await other.clicks(1)  # the hub has read all of it
        rest, closed = await events.until_closed()
        last_id = events.last_id
    assert closed["reason"] == "slow"
    assert closed["position"] == last_id
    found += rest
    async with stack.client(after=last_id) as events:
        found += await events.clicks(stack.written[0] - len(found))
    exactly_once(stack, found)
    assert stack.counted('clickledger_reporting_rte_closed_total{reason="slow"}') == 1


async def test_a_stop_ends_streams(stack: StreamStack) -> None:
    """Within its bound, with a reason, and the process ends well."""
    assert stack.reporting is not None
    async with stack.client() as events:
        stack.reporting.process.terminate()
        assert (await events.until_closed())[1]["reason"] == "stopping"
    assert await asyncio.to_thread(stack.reporting.process.wait, 60) == 0


@pytest.mark.parametrize("end", ["revoked", "expired"])
async def test_a_key_that_no_longer_holds_gets_nothing_more(
    kafka_bootstrap: str, names: Any, tmp_path: Path, guard: Guard, end: str
) -> None:
    """Within a second of its end, long before the next heartbeat, with clicks or without; other keys' streams go on."""
    stack = StreamStack(kafka_bootstrap, names, tmp_path, guard, CLICKLEDGER_REPORTING_RTE_HEARTBEAT_MS="60000")
    try:
        await stack.open()
        async with (
            stack.client() as other,
            stack.client(tenant="rival") as idle,
            stack.client("?from=earliest", tenant="rival") as busy,
        ):
            await stack.write(0, 1, tenant="rival", recipient="before")
            await busy.clicks(1)
            record = key_record(stack.keys["rival"], key_id="k-rival", tenant="rival", grants=["reports"])
            if end == "revoked":
                record["revoked"] = True
            else:
                record["secrets"][0]["expires_at"] = now_ms() + 1_000
            await stack.writer.put_many([Entry(Kind.KEY, "k-rival", record)])
            await asyncio.sleep(3)
            await stack.write(0, 1, tenant="rival", recipient="after")
            for events in (idle, busy):
                found, closed = await events.until_closed()
                assert closed["reason"] == "key"
                assert not [event for event in found if event.data["data"]["recipient"] == "after"]
            await stack.write(0, 1)
            assert len(await other.clicks(1)) == 1
    finally:
        await stack.close()


async def test_a_gap_stands_and_a_refill_goes_on(stack: StreamStack) -> None:
    """A record that is missing in Kafka is waited for and never jumped over; the other partitions go on."""
    async with stack.client() as events:
        await stack.write(0, 3)
        await stack.write_enriched(0, range(5, 8))
        await stack.write(1, 3)
        assert {event.place for event in await events.clicks(6)} == {(p, n) for p in (0, 1) for n in range(3)}
        async for block in events.blocks():
            if "missing" in block.comment:
                break
        await stack.write_enriched(0, range(3, 8))
        assert [event.place for event in await events.clicks(5)] == [(0, n) for n in range(3, 8)]


async def test_five_hundred_clients_on_one_reader(
    kafka_bootstrap: str, names: Any, tmp_path: Path, guard: Guard
) -> None:
    """Each gets every click; memory stays bounded with clients that do not read; more are refused, reports are not."""
    bounds = {f"CLICKLEDGER_REPORTING_RTE_{name}CLIENTS_MAX": "500" for name in ("", "TENANT_")}
    stack = StreamStack(kafka_bootstrap, names, tmp_path, guard, **bounds)
    try:
        await stack.open()
        assert stack.reporting is not None
        await eventually(lambda: stack.counted("clickledger_reporting_rte_clients") == 0)
        before = resident_bytes(stack.reporting.pid)
        broker = int(kafka_bootstrap.rpartition(":")[2])
        connections = connections_to(stack.reporting.pid, broker)
        async with contextlib.AsyncExitStack() as opened:
            clients = [
                await opened.enter_async_context(stack.client(f"?bots={('any', 'no')[n % 2]}", receive_bytes=65_536))
                for n in range(500)
            ]
            assert {client.status for client in clients} == {200}
            async with stack.client() as refused:
                assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            for _ in range(4):
                await stack.write(0, 50)
            reading = clients[:400]
            for found in await asyncio.gather(*(client.clicks(200) for client in reading)):
                assert [event.place[1] for event in found] == list(range(200))
            assert stack.counted("clickledger_reporting_rte_clients") == 500
            assert stack.counted("clickledger_reporting_rte_catchups") == 0, "nobody has a reader of its own"
            assert 0 < connections_to(stack.reporting.pid, broker) <= connections, "one reader serves them all"
            assert resident_bytes(stack.reporting.pid) - before < 150 << 20
        await eventually(lambda: stack.counted("clickledger_reporting_rte_clients") == 0)
    finally:
        await stack.close()


async def test_without_clickhouse_streams_go_on(stack: StreamStack) -> None:
    """This stack has none: readiness says so, in a metric too; the process lives, and streams are given and go on."""

    def answer(path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=WAIT_S)
        try:
            connection.request("GET", path)
            found = connection.getresponse()
            return found.status, found.read().decode()
        finally:
            connection.close()

    await eventually(lambda: "no answer from ClickHouse" in answer("/readyz")[1])
    assert answer("/readyz")[0] == 503
    assert stack.counted('clickledger_ready{service="reporting"}') == 0
    assert answer("/livez")[0] == 200
    async with stack.client() as events:
        await stack.write(0, 5)
        exactly_once(stack, await events.clicks(5))


async def test_a_silent_kafka_is_told(names: Any, tmp_path: Path, guard: Guard) -> None:
    """While the broker is frozen a stream says so and a new one is 503; then it goes on without a loss."""
    brokers = LocalBrokers(guard, tmp_path / "kafka")
    stack = StreamStack(brokers.bootstrap, names, tmp_path, guard)
    try:
        await stack.open()
        async with stack.client() as events:
            await stack.write(0, 5)
            found = await events.clicks(5)
            os.kill(brokers.pid(), signal.SIGSTOP)
            async for block in events.blocks():
                if "does not answer" in block.comment:
                    break
            async with stack.client() as refused:
                assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            os.kill(brokers.pid(), signal.SIGCONT)
            async for block in events.blocks():
                if block.comment == "alive":
                    break
            await stack.write(0, 5)
            exactly_once(stack, found + await events.clicks(5))
    finally:
        os.kill(brokers.pid(), signal.SIGCONT)
        await stack.close()
        brokers.close()


async def test_a_killed_enricher_repeats_nothing(stack: StreamStack) -> None:
    """The real one, killed in mid-load again and again: its copies are dropped, every click is one valid event."""
    schema, enriched = validator(event_schema()), validator(enriched_schema())
    async with stack.client("?from=earliest") as events:
        found: list[Event] = []
        for _ in range(3):
            child = stack.start(CLICKLEDGER_ENRICHER_HEALTH_PORT="0")
            for partition in range(stack.partitions):
                await stack.send(partition, stack.clicks(partition, 400))
                stack.written[partition] += 400
            found += await events.clicks(100)
            child.kill()
        child = stack.start()
        found += await events.clicks(sum(stack.written) - len(found))
    exactly_once(stack, found)
    for event in found[:50]:
        schema.validate(event.data)
    for records in (await stack.enriched()).values():
        for record in records[:50]:
            enriched.validate(orjson.loads(record.value))
    assert child.stop() == 0
    await clicks_behind_expired_ones(stack)


async def clicks_behind_expired_ones(stack: StreamStack) -> None:
    """Clicks that are not enriched yet when reporting starts, on a partition whose records have all expired, are seen."""
    for partition, end in (await end_offsets(stack.kafka, stack.kafka.topic_enriched)).items():
        await delete_records(stack.kafka, stack.kafka.topic_enriched, partition, end)
    assert stack.reporting is not None
    stack.reporting.kill()
    first = stack.written[1]
    await stack.send(1, stack.clicks(1, 50))
    await stack.start_reporting()
    async with stack.client() as events:
        stack.start()
        assert [event.place for event in await events.clicks(50)] == [(1, first + n) for n in range(50)]
