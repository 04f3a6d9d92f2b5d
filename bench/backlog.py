"""Three million records behind: enricher, then sink, catch up; rate, memory and rebalances on the way.

The enricher stands on core 0 and the broker on core 1; the sink and ClickHouse have both. At the end every raw record is one
enriched record and one row.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from bench import fill
from bench.machine import SERVER_CORE, cpu_seconds, rss_mb
from bench.part import Recorder, main
from bench.stack import World, stores
from shared.kafka import Producer
from tests.support.pipeline import assignments
from tests.support.processes import Child
from tests.support.stack import execute

RECORDS, QUICK_RECORDS = 3_000_000, 120_000
SPREAD = 10_000_000
"""Between the first clicks of two partitions, so that new agents are new everywhere."""
POLL_S = 0.2
"""A look costs ClickHouse 5 ms."""
STALL_S = 60.0
"""Without progress for so long it is broken."""


class Sample(NamedTuple):
    """A look at a process on its way."""

    at_s: float
    done: int
    mb: float
    cpu_s: float


class Course(NamedTuple):
    """How a process worked a backlog off: looks at it, from the first progress on."""

    samples: list[Sample]
    rebalances: int

    @property
    def rate(self) -> float:
        """Records a second."""
        return _rate(self.samples)

    @property
    def cpu_us(self) -> float:
        """Processor time a record."""
        first, last = self.samples[0], self.samples[-1]
        return (last.cpu_s - first.cpu_s) / max(1, last.done - first.done) * 1e6

    @property
    def halves(self) -> tuple[float, float]:
        """The rate of the first and of the second half."""
        middle = (self.samples[0].done + self.samples[-1].done) / 2
        at = next(number for number, sample in enumerate(self.samples) if sample.done >= middle)
        return _rate(self.samples[: at + 1]), _rate(self.samples[at:])

    def mb_at(self, share: float) -> float:
        """Resident memory when so much was done."""
        wanted = self.samples[0].done + share * (self.samples[-1].done - self.samples[0].done)
        return next(sample.mb for sample in self.samples if sample.done >= wanted)


def _rate(samples: list[Sample]) -> float:
    first, last = samples[0], samples[-1]
    return (last.done - first.done) / max(1e-3, last.at_s - first.at_s)


def work_off(child: Child, progress: Callable[[], int], before: int, total: int) -> Course:
    """Look until `progress()`, which was `before`, is `total`. Raises TimeoutError when it stands still."""
    samples: list[Sample] = []
    looked_at, moved_at, last = time.monotonic(), time.monotonic(), before
    while last < total:
        done, now = progress(), time.monotonic()
        if done >= total and not samples:  # all of it between two looks
            samples.append(Sample(looked_at, last, rss_mb(child.pid), cpu_seconds(child.pid)))
        looked_at = now
        if done > last:
            moved_at, last = now, done
            samples.append(Sample(now, done, rss_mb(child.pid), cpu_seconds(child.pid)))
        if now - moved_at > STALL_S or not child.alive:
            raise TimeoutError(f"{done} of {total} records, none for {STALL_S:.0f} s\n{child.tail()}")
        is_near = total - done <= (total - before) // 20
        time.sleep(POLL_S / 10 if is_near else POLL_S)  # the end is to be seen exactly
    return Course(samples, len(assignments(child)) - 1)


async def fill_raw(world: World, each: int, first: int = 0, new: int = 5) -> None:
    """Append `each` records to every partition of the raw topic, which has `first` of them; `new`: see `fill.raw_clicks`."""
    version = await fill.put_tenant(world.kafka)
    producer = Producer(world.kafka, "bench")
    await producer.start()
    try:
        for partition in range(world.partitions):
            pairs = fill.raw_clicks(partition, each, first + partition * SPREAD, version, new)
            await fill.append(world.kafka, world.kafka.topic_raw, partition, pairs, producer)
    finally:
        await producer.close()


def stored_rows(world: World) -> int:
    """All rows of the table, which the server knows without reading any: to be asked often, it must cost little."""
    return int(execute(world.env["CLICKLEDGER_CLICKHOUSE_URL"], "SELECT count() FROM clicks"))


def check_rows(world: World, total: int) -> None:
    """Every record is one row."""
    sql = "SELECT count(), uniqExact(raw_partition, raw_offset) FROM clicks WHERE stream != 'bench'"
    found = execute(world.env["CLICKLEDGER_CLICKHOUSE_URL"], sql).split()
    if found != [str(total), str(total)]:
        raise RuntimeError(f"{total} records, rows and different positions: {found}")


def enrich(world: World, before: int, total: int) -> Course:
    """The enricher on what is behind."""
    child = world.start("enricher", SERVER_CORE)
    try:
        with world.counting(world.kafka.topic_enriched) as count:
            course = work_off(child, count, before, total)
    finally:
        child.stop()
    if (made := world.records(world.kafka.topic_enriched)) != total:
        raise RuntimeError(f"{total} raw records, {made} enriched ones")
    return course


def store(world: World, before: int, total: int) -> Course:
    """The sink on what is behind."""
    others = stored_rows(world) - before
    child = world.start("sink")
    try:
        course = work_off(child, lambda: stored_rows(world) - others, before, total)
    finally:
        child.stop()
    check_rows(world, total)
    return course


def show(recorder: Recorder, name: str, course: Course, total: int) -> None:
    """The rows of one service."""
    recorder.figure(f"{name}: rate", [course.rate], note=f"{total:,} records behind")
    recorder.figure(f"{name}: CPU", [course.cpu_us])
    first, second = course.halves
    recorder.figure(f"{name}: second half", [second], [first])
    recorder.figure(f"{name}: memory at the end", [course.mb_at(1.0)], [course.mb_at(1 / 3)])
    recorder.figure(f"{name}: rebalances", [course.rebalances])


def measure(recorder: Recorder) -> None:
    """Enricher, then sink."""
    with stores() as found:
        found.pin_broker()
        world = found.world("backlog")
        each = recorder.scale(RECORDS, QUICK_RECORDS) // world.partitions
        total = each * world.partitions
        asyncio.run(fill_raw(world, each))
        show(recorder, "enricher", enrich(world, 0, total), total)
        show(recorder, "sink", store(world, 0, total), total)


if __name__ == "__main__":
    main("backlog", measure, __doc__)
