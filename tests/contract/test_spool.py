"""The spool on a real broker: a 200 while Kafka is away, and exactly one copy that counts when it is back."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import orjson

from clickledger.audit_spools import SpoolProblem, judge_spools
from clickledger.directory import read_catalog
from clickledger.spools import inspect, inspect_all
from ingest_api.spool_folder import segment_files
from shared.catalog import Kind
from shared.events import Source, decode_raw, is_suspect
from shared.settings import CatalogSettings
from tests.support.api_service import ApiService
from tests.support.brokers import LocalBrokers
from tests.support.catalog import EXAMPLE_BODY
from tests.support.processes import WAIT_S
from tests.support.wall_clock import WallClock

MakeApi = Callable[..., ApiService]
QUICK = {"kafka_request_timeout_ms": "1000", "api_spool_heard_ms": "500", "api_start_patience_ms": "500"}
HALF_AN_HOUR_S = 1_800.0
UNKNOWN_LINK = b'{"short-url":"http://s.example/not-registered"}'


async def started(make_api: MakeApi, **settings: str) -> ApiService:
    """A prepared and running service."""
    api = make_api(**(QUICK | settings))
    await api.prepare()
    api.start()
    return api


async def click(api: ApiService) -> str:
    """One click that must be accepted; its id."""
    reply = await asyncio.to_thread(api.click)
    assert reply.status == 200, reply
    return str(reply.json["transaction-id"])


async def clicks(api: ApiService, count: int) -> list[str]:
    """Clicks one after the other, all accepted; their ids."""
    return [await click(api) for _ in range(count)]


def spool(api: ApiService, slot: int = 0) -> Path:
    """A spool's folder."""
    return api.folder / "data" / "api" / "spool" / str(slot)


def metric(api: ApiService, name: str) -> float:
    """The sum of a metric over its labels."""
    text = api.request("GET", "/metrics", port=api.health_port()).body.decode()
    return sum(float(found) for found in re.findall(rf"^clickledger_api_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


async def until_replayed(api: ApiService) -> None:
    """Wait until no folder of the machine holds a click; the segments of a live process are deleted when it is sent."""
    await api.until(lambda: not any(segment_files(folder) for folder in spool(api).parent.iterdir()))


async def copies(api: ApiService, answered: Iterable[str]) -> dict[str, list[bool]]:
    """For each id in the raw topic, whether each of its records is suspect.

    Checks that every answered id is there, that a replayed copy says that it is one, and that at most one does not.
    """
    found: dict[str, list[bool]] = {}
    for record in await api.raw_records():
        raw = decode_raw(record.value)
        assert raw.transaction_id == (record.key or b"").decode()
        assert raw.origin.suspect == is_suspect(record.headers) == (raw.origin.source is Source.SPOOL)
        assert raw.received_at_ms == record.timestamp
        found.setdefault(raw.transaction_id, []).append(raw.origin.suspect)
    assert set(answered) <= set(found)
    assert all(suspects.count(False) <= 1 for suspects in found.values())
    return found


async def registered(api: ApiService) -> list[str]:
    """The ids of the spools in the catalog."""
    async with read_catalog(api.kafka, CatalogSettings(), (Kind.SPOOL,)) as catalog:
        return [name for name, _ in catalog.scan(Kind.SPOOL)]


async def heard_at(api: ApiService) -> float:
    """The latest sign of life of any spool, in seconds since the epoch; 0 without one."""
    async with read_catalog(api.kafka, CatalogSettings(), (Kind.SPOOL,)) as catalog:
        return max((orjson.loads(record)["heard_at"] / 1000 for _, record in catalog.scan(Kind.SPOOL)), default=0.0)


async def test_frozen_broker(make_api: MakeApi, brokers: LocalBrokers) -> None:
    """A broker that stands still: the first click waits for the bound, the others do not; all are 200 and in Kafka."""
    api = await started(make_api)
    before = await click(api)
    os.kill(brokers.pid(), signal.SIGSTOP)
    try:
        spooled = await clicks(api, 20)
        assert api.get("/readyz").status == 200
        await api.until(lambda: metric(api, "spool_clicks") == len(spooled))
        assert metric(api, "spool_bytes") > 0
    finally:
        os.kill(brokers.pid(), signal.SIGCONT)
    await until_replayed(api)
    await api.until(lambda: metric(api, "spool_clicks") == 0)
    after = await click(api)
    found = await copies(api, [before, *spooled, after])
    assert found[before] == found[after] == [False]
    assert all(True in found[each] for each in spooled)
    assert metric(api, "producers_replaced_total") >= 1
    assert metric(api, "replayed_clicks_total") >= len(spooled)


async def test_killed_and_stopped_while_the_broker_is_frozen(make_api: MakeApi, brokers: LocalBrokers) -> None:
    """Clicks lie in the killed processes' sockets and in their spools; who comes next publishes them. A stop is orderly."""
    api = await started(make_api, api_workers="2")
    assert api.child is not None
    await click(api)
    os.kill(brokers.pid(), signal.SIGSTOP)
    try:
        answered = await clicks(api, 5)
        api.child.kill()
        api.start_unready()
        answered += await clicks(api, 5)
        assert await asyncio.to_thread(api.stop) == 0
        assert sum(report.clicks for report in inspect_all(spool(api).parent)) == len(answered)
        api.start_unready()
        answered += await clicks(api, 5)
    finally:
        os.kill(brokers.pid(), signal.SIGCONT)
    await until_replayed(api)
    found = await copies(api, answered)
    assert all(True in found[each] for each in answered)


async def test_kafka_is_away(make_api: MakeApi, brokers: LocalBrokers) -> None:
    """While no broker runs: a process starts from its last catalog, two workers spool, a small spool fills up.

    When Kafka is back all is published, by fewer workers than before, and the catalog knows no spool that is gone.
    """
    late, full = await started(make_api), await started(make_api, api_spool_bytes_max="65536")
    pair = await started(make_api, api_workers="2")
    assert late.child is not None
    assert pair.child is not None
    late.child.kill()
    heard = late.folder / "data" / "api" / "catalog" / "heard"
    os.utime(heard, (0, heard.stat().st_mtime - 60))
    brokers.kill(1)
    try:
        late.start_unready()
        of_late = await clicks(late, 5)
        stale = await asyncio.to_thread(late.click, UNKNOWN_LINK)
        assert (stale.status, stale.code, stale.headers["retry-after"]) == (500, "500", "1")
        of_pair: list[str] = []
        while not (segment_files(spool(pair, 0)) and segment_files(spool(pair, 1))):
            of_pair += await clicks(pair, 5)
        pair.child.kill()
        of_full = await _fill(full)
        assert full.get("/readyz").status == 503
        assert "CLICKLEDGER_API_SPOOL_BYTES_MAX" in full.get("/readyz").json["description"]
        await full.until(lambda: metric(full, "spool_blocked") == 1)
    finally:
        brokers.start(1)
    pair._env["CLICKLEDGER_API_WORKERS"] = "1"
    pair.start_unready()
    for api, answered in ((late, of_late), (full, of_full), (pair, of_pair)):
        await api.until(lambda api=api: api.get("/readyz").status == 200)
        await until_replayed(api)
        assert set(await copies(api, answered)) == set(answered)
    await full.until(lambda: metric(full, "spool_blocked") == 0)
    names: list[str] = []
    async with asyncio.timeout(WAIT_S):
        while len(names) != 1:  # the second worker's is taken back by the first
            names = await registered(pair)
    assert re.search(r"/0-[0-9a-f]{8}$", names[0])
    assert await asyncio.to_thread(pair.stop) == 0
    assert await registered(pair) == []


async def _fill(api: ApiService) -> list[str]:
    """Click until the spool is full, which must be a 500 with Retry-After; the accepted ids."""
    answered: list[str] = []
    while True:
        reply = await asyncio.to_thread(api.click)
        if reply.status != 200:
            assert (reply.status, reply.code, reply.headers["retry-after"]) == (500, "500", "1")
            assert 50 < len(answered) < 65_536 / len(EXAMPLE_BODY)
            return answered
        answered.append(str(reply.json["transaction-id"]))


async def test_killed_while_replaying_and_damage(make_api: MakeApi, brokers: LocalBrokers) -> None:
    """Killed again and again while it publishes: nothing is left out. Damaged frames are set aside and reported."""
    api = await started(make_api)
    assert api.child is not None
    os.kill(brokers.pid(), signal.SIGSTOP)
    try:
        answered = await clicks(api, 60)
        api.child.kill()
    finally:
        os.kill(brokers.pid(), signal.SIGCONT)
    (segment,) = segment_files(spool(api))
    content = bytearray(segment.read_bytes())
    chooser = random.Random(5)
    at = chooser.randrange(len(content) // 3, len(content) // 2)
    content[at : at + 10] = chooser.randbytes(10)
    segment.write_bytes(content + b"\xffCL1")
    found = inspect(spool(api))
    assert (found.torn, found.damaged) == (1, 1)
    assert len(answered) - found.clicks in (1, 2)
    for _ in range(3):
        api.start_unready()
        await asyncio.sleep(chooser.random())
        api.child.kill()
    api.start()
    await until_replayed(api)
    known = {raw.transaction_id for raw in (decode_raw(record.value) for record in await api.raw_records())}
    assert len(set(answered) - known) in (0, 1, 2)
    assert inspect(spool(api)).set_aside == 1
    await api.until(lambda: metric(api, "spool_set_aside_files") == 1)


async def test_restart_is_heard_of_again(make_api: MakeApi) -> None:
    """A killed process's registration stays; its successor has the same name, and an orderly stop takes it back."""
    api = await started(make_api)
    assert api.child is not None
    async with asyncio.timeout(WAIT_S):
        while not (before := await registered(api)):
            await asyncio.sleep(0.1)
    api.child.kill()
    assert await registered(api) == before
    api.start()
    async with asyncio.timeout(WAIT_S):
        while await registered(api) != before:
            await asyncio.sleep(0.1)
    assert await asyncio.to_thread(api.stop) == 0
    assert await registered(api) == []


async def test_two_machines_of_one_name(make_api: MakeApi, brokers: LocalBrokers) -> None:
    """Each has a record of its own: what lies on the disk of one that is gone stays in the audit, whatever the other says."""
    gone = await started(make_api)
    assert gone.child is not None
    topics = ("topic_raw", "topic_enriched", "topic_catalog")
    other = make_api(**QUICK, **{topic: getattr(gone.kafka, topic) for topic in topics})
    other.start()
    async with asyncio.timeout(WAIT_S):
        while len(before := set(await registered(gone))) != 2:
            await asyncio.sleep(0.1)
    assert len({name.rpartition("-")[0] for name in before}) == 1
    gone.child.kill()
    alone_at = time.time()
    async with asyncio.timeout(WAIT_S):
        while await heard_at(gone) < alone_at + 0.5:
            await asyncio.sleep(0.1)
    assert set(await registered(gone)) == before
    assert await asyncio.to_thread(other.stop) == 0
    [left] = await registered(gone)
    async with read_catalog(gone.kafka, CatalogSettings(), (Kind.SPOOL,)) as catalog:
        records = [orjson.loads(record) for _, record in catalog.scan(Kind.SPOOL)]
    [finding] = judge_spools(records, time.time_ns() // 1_000_000 + 100_000, 60_000)
    assert (finding.spool, finding.problem) == (left, SpoolProblem.SILENT)
    assert str(spool(gone)) in finding.detail


async def test_a_clock_that_is_set_back_does_not_silence_a_spool(make_api: MakeApi, tmp_path: Path) -> None:
    """Its record is renewed after the clock was set ahead, and goes on being renewed when it is set right."""
    api, clock = make_api(**QUICK), WallClock(tmp_path / "clock")
    api.go_by(clock)
    await api.prepare()
    api.start()

    async def until_heard_ahead(*, is_ahead: bool) -> None:
        async with asyncio.timeout(WAIT_S):
            while (await heard_at(api) > time.time() + HALF_AN_HOUR_S / 2) != is_ahead:
                await asyncio.sleep(0.1)

    for ahead_s in (HALF_AN_HOUR_S, 0):
        clock.set(ahead_s)
        await until_heard_ahead(is_ahead=bool(ahead_s))
