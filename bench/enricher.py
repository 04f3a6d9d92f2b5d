"""Enricher events per second and core: warm caches, cold agents, and what a tutorial does (`user_agents.parse`).

Run: .venv/bin/python -m bench.enricher [--seconds 2] [--records 200000] [--different 1000000]. *Loop*: Kafka apart, decode,
enrich, encode in one plain loop. *Process*: the enricher as it runs, on a backlog in a real broker: consume, enrich,
produce, commit; every raw record is then checked to be enriched exactly once and in order. *Memory*: what a million
different agents and addresses leave behind. Figures depend on the machine; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import orjson
import user_agents

from bench.machine import cpu_seconds
from clickledger.output import print_table
from clickledger.stack.guard import Guard
from enricher.addresses import AddressBook
from enricher.agents import load_agent_parser
from enricher.directory import Directory
from enricher.enrich import enrich
from enricher.places import COUNTRY_FILE, PlaceFiles
from enricher.row import RawRecord, Tools
from shared.events import Source, encode_raw, raw_origin
from shared.ids import uuid7_with_partition
from shared.kafka import Reader
from tests.support.brokers import LocalBrokers
from tests.support.enrichers import CALM, EnricherStack, offset_of
from tests.support.processes import Child
from tests.support.stack import Names

CHUNK = 500
PARTITIONS = 6
POOL = 2_000
"""Agents and addresses that come again and again in the mixed traffic."""
POLL_S = 0.02
WAIT_S = 300.0
AGENT = (
    "Mozilla/5.0 (Linux; Android 14; Pixel {}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/12{}.0.{}.144 "
    "Mobile Safari/537.36"
)


class OneCampaign:
    """A catalog with one tenant and one promotion."""

    version = 0

    def tenant(self, _tenant: str) -> dict[str, object]:
        """The tenant."""
        return {"retention_days": 90, "privacy": "store"}

    def promotion(self, _tenant: str, _promotion: str) -> dict[str, object]:
        """The promotion."""
        return {"campaign_id": "c1", "deployment_id": "d1"}


def agents(different: int) -> list[str]:
    """So many different agents of phones."""
    return [AGENT.format(n % 9, n % 7, 1000 + n) for n in range(different)]


def raw_records(agent: str, address: str, now_ms: int, offset: int) -> RawRecord:
    """A raw record as the API writes it."""
    link = {
        "v": 1,
        "tenant": "acme",
        "link": "shortdomain/dsltrack/employee/j460A8",
        "promotion_id": "spring",
        "recipient": "+15550001",
        "link_name": "offer",
        "long_url": "https://example.com/landing?utm_source=sms",
        "sent_at": now_ms - 1000,
    }
    click = {"short-url": "http://shortdomain/dsltrack/employee/j460A8", "user-agent": agent, "ip-address": address}
    transaction_id = uuid7_with_partition(now_ms, 1, os.urandom(8)).encode()
    value = encode_raw(
        transaction_id=transaction_id,
        received_at_ms=now_ms,
        origin=raw_origin("acme", "k1", "node-1", Source.API),
        suspect=False,
        clicked_at_ignored=False,
        catalog_version=0,
        link=orjson.dumps(link),
        click=orjson.dumps(click),
    )
    return RawRecord("bench", 1, offset, transaction_id, value, now_ms)


def clicks(different_agents: int, now_ms: int) -> Iterator[RawRecord]:
    """Clicks without end, from so many agents."""
    known = agents(different_agents)
    for n in itertools.count():
        address = f"203.{n % 199}.{n % different_agents % 250}.211"
        yield raw_records(known[n % different_agents], address, now_ms, n)


def mixed_clicks(new_in_a_hundred: int, now_ms: int) -> Iterator[RawRecord]:
    """Clicks without end; so many of a hundred come from an agent and an address that were never seen before."""
    for n in itertools.count():
        which = n + POOL if n % 100 < new_in_a_hundred else n % POOL
        address = f"{101 + which // 62_500 % 60}.{which // 250 % 250}.{which % 250}.7"
        yield raw_records(AGENT.format(which % 9, which % 7, 1000 + which), address, now_ms, n)


def tools() -> Tools:
    """What the steps of the enricher use, with cold caches."""
    return Tools(load_agent_parser(), AddressBook(PlaceFiles([COUNTRY_FILE])), Directory(OneCampaign()))


def per_second(step: Callable[[RawRecord], object], records: Iterator[RawRecord], seconds: float) -> float:
    """Steps per second of processor time; making the records is not counted."""
    spent, done = 0.0, 0
    while spent < seconds:
        chunk = list(itertools.islice(records, CHUNK))
        if not chunk:
            break
        began = time.process_time()
        for record in chunk:
            step(record)
        spent += time.process_time() - began
        done += len(chunk)
    return done / spent


def tutorial(record: RawRecord) -> bytes:
    """What a tutorial writes: `user_agents.parse` and a few fields, no checks, no bots' list, no country.

    ua-parser from 1.0.1 on remembers 2,000 parsed agents by itself, so few agents cost it little.
    """
    raw = orjson.loads(record.value or b"")
    agent = user_agents.parse(raw["click"]["user-agent"])
    row = {**raw["link"], "browser": agent.browser.family, "os": agent.os.family, "device": agent.device.family}
    return orjson.dumps({**row, "is_bot": agent.is_bot, "ip": raw["click"]["ip-address"]})


class Figure(NamedTuple):
    """One measurement of the process. CPU in processor seconds of the enricher per million records."""

    name: str
    per_second: float
    cpu_per_million: float
    resident_mb: float


async def write_backlog(stack: EnricherStack, source: Iterator[RawRecord], records: int) -> None:
    """Fill the raw topic, the same number into each partition."""
    for partition in range(PARTITIONS):
        some = itertools.islice(source, records // PARTITIONS)
        while values := [record.value for record in itertools.islice(some, CHUNK)]:
            await stack.send(partition, values)


async def wait_enriched(reader: Reader, records: int, child: Child, deadline: float) -> int:
    """Wait for so many records in the enriched topic; how many there are. Raises TimeoutError."""
    while True:
        done = sum((await reader.end_offsets(range(PARTITIONS))).values())
        if done >= records:
            return done
        if time.monotonic() > deadline or not child.alive:
            raise TimeoutError(f"{done} of {records} records\n{child.tail()}")
        await asyncio.sleep(POLL_S)


async def catch_up(stack: EnricherStack, name: str, records: int) -> Figure:
    """The enricher process on the backlog, from its first enriched record to its last."""
    reader = Reader(stack.kafka, stack.kafka.topic_enriched, client_id="bench")
    await reader.start()
    child = stack.start(**CALM)
    deadline = time.monotonic() + WAIT_S
    try:
        before = await wait_enriched(reader, 1, child, deadline)
        began, own = time.monotonic(), cpu_seconds(child.pid)
        await wait_enriched(reader, records, child, deadline)
        seconds, spent = time.monotonic() - began, cpu_seconds(child.pid) - own
        resident_mb = resident_bytes(child.pid) / 1e6
    finally:
        await reader.close()
    await asyncio.to_thread(child.stop)
    return Figure(name, (records - before) / seconds, spent / (records - before) * 1e6, resident_mb)


async def check_exact(stack: EnricherStack, records: int) -> None:
    """Every raw record was enriched once, in order."""
    for partition, found in (await stack.enriched()).items():
        offsets = [offset_of(record) for record in found]
        assert offsets == list(range(records // PARTITIONS)), f"partition {partition} is not exact"


async def measure_process(bootstrap: str, folder: Path, guard: Guard, name: str, new: int, records: int) -> Figure:
    """One figure of the process; `new` of a hundred agents and addresses were never seen before."""
    records -= records % PARTITIONS
    stack = EnricherStack(bootstrap, Names(f"bench{new}"), folder, guard, PARTITIONS)
    await stack.open()
    try:
        await write_backlog(stack, mixed_clicks(new, time.time_ns() // 1_000_000), records)
        figure = await catch_up(stack, name, records)
        await check_exact(stack, records)
    finally:
        await stack.close()
    return figure


def measure_processes(records: int) -> list[Figure]:
    """The process on a real broker: repeated and new agents."""
    guard = Guard()
    try:
        with tempfile.TemporaryDirectory(prefix="clickledger-bench-") as name:
            folder = Path(name)
            brokers = LocalBrokers(guard, folder / "kafka")
            try:
                cases = (("95 % repeated agents and addresses", 5), ("every agent and address new", 100))
                figures = []
                for case, new in cases:
                    own = folder / f"new-{new}"
                    own.mkdir()
                    figures.append(asyncio.run(measure_process(brokers.bootstrap, own, guard, case, new, records)))
                return figures
            finally:
                brokers.close()
    finally:
        guard.close()


def resident_bytes(pid: int | str = "self") -> int:
    """Resident memory of a process; Linux only, elsewhere 0."""
    status = Path(f"/proc/{pid}/status")
    found = (
        re.search(r"^VmRSS:\s*(\d+) kB", status.read_text(encoding="ascii"), re.MULTILINE) if status.exists() else None
    )
    return int(found[1]) * 1024 if found else 0


def memory_after(different: int, every: int) -> list[tuple[int, float]]:
    """Resident MB of this process after each `every` of so many different agents and addresses."""
    step, now_ms = tools(), time.time_ns() // 1_000_000
    source = mixed_clicks(100, now_ms)
    found = [(0, resident_bytes() / 1e6)]
    for done in range(every, different + 1, every):
        for record in itertools.islice(source, every):
            enrich(record, step, now_ms)
        found.append((done, resident_bytes() / 1e6))
    return found


def measure_loops(seconds: float) -> dict[str, float]:
    """Events per second of processor time, without Kafka."""
    now_ms = time.time_ns() // 1_000_000
    warm, cold = tools(), tools()
    for record in itertools.islice(clicks(200, now_ms), 40_000):
        enrich(record, warm, now_ms)
    return {
        "warm caches (200 agents)": per_second(lambda r: enrich(r, warm, now_ms), clicks(200, now_ms), seconds),
        "cold: every agent new": per_second(lambda r: enrich(r, cold, now_ms), clicks(200_000, now_ms), seconds),
        "tutorial, 200 agents": per_second(tutorial, clicks(200, now_ms), seconds),
        "tutorial, every agent new": per_second(tutorial, clicks(200_000, now_ms), seconds),
    }


def main() -> None:
    """Print the figures."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--seconds", type=float, default=2.0, help="processor seconds per figure of the loop")
    arguments.add_argument("--records", type=int, default=0, help="backlog of the process (200,000); 0: no such table")
    arguments.add_argument("--different", type=int, default=0, help="agents of the memory table (1,000,000); 0: none")
    given = arguments.parse_args()
    figures = measure_loops(given.seconds)
    baseline = figures["tutorial, every agent new"]
    print_table(
        ("enricher", "events/s", "us/event", "ratio"),
        [(name, round(figure), f"{1e6 / figure:.1f}", f"{figure / baseline:.1f}") for name, figure in figures.items()],
    )
    if given.records:
        print_table(
            ("process, backlog", "records/s", "CPU-s/million", "ratio", "resident MB"),
            [
                (name, round(rate), f"{cpu:.1f}", f"{rate / baseline:.1f}", round(memory))
                for name, rate, cpu, memory in measure_processes(given.records)
            ],
        )
    if given.different:
        steps = memory_after(given.different, max(1, given.different // 5))
        print_table(("different agents and addresses", "resident MB"), [(count, round(mb)) for count, mb in steps])


if __name__ == "__main__":
    main()
