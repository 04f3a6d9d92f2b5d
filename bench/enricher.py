"""Enricher events a second and core: as a process on a backlog, in one plain loop, and beside `user_agents.parse` for each event.

*Process*: the enricher as it runs, on core 0, with a real broker on core 1: consume, enrich, produce, commit; at the end each raw
record is one enriched record. *Loop*: Kafka apart, decode, enrich, encode, in processor time. *Memory*: of this process, over
agents and addresses that are all different.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from bench import fill
from bench.backlog import Course, enrich, fill_raw
from bench.baselines import naive_enricher
from bench.machine import rss_mb
from bench.part import Recorder, main
from bench.sink import tools
from bench.stack import Stores, stores
from enricher.enrich import Moment
from enricher.row import RawRecord, Tools
from enricher.worker import SLICE_LOOK

CHUNK = 500
REPEATED, NEW = 5, 100
"""Agents and addresses in a hundred that were never seen before."""
WARM_UP = 20_000
DIFFERENT = 1_000_000


def records(new: int, first: int = 0) -> Iterator[RawRecord]:
    """Raw records without end."""
    at_ms = fill.now_ms()
    for offset, (key, value) in enumerate(fill.raw_clicks(1, 1 << 40, first, 0, new), first):
        yield RawRecord("bench", 1, offset, key, value, at_ms)


def per_second(step: Callable[[Sequence[RawRecord]], object], source: Iterator[RawRecord], seconds: float) -> float:
    """Records a second of processor time, some at a time; making them is not counted."""
    spent, done = 0.0, 0
    while spent < seconds:
        chunk = list(itertools.islice(source, CHUNK))
        began = time.process_time()
        step(chunk)
        spent += time.process_time() - began
        done += len(chunk)
    return done / spent


def enrich_all(records: Sequence[RawRecord], own: Tools) -> None:
    """As the worker does it."""
    for first in range(0, len(records), SLICE_LOOK):
        moment = Moment(records[first].stream, records[first].partition, own, fill.now_ms())
        for record in records[first : first + SLICE_LOOK]:
            moment.enrich(record.offset, record.key, record.value, record.timestamp_ms)


def enrich_naively(records: Sequence[RawRecord]) -> None:
    """With `user_agents.parse` for each."""
    for record in records:
        naive_enricher.enrich(record.value or b"")


def loops(recorder: Recorder, seconds: float) -> dict[int, list[float]]:
    """Ours and the naive way without Kafka, in turn; the naive way's figures."""
    ours: dict[int, list[float]] = {REPEATED: [], NEW: []}
    naive: dict[int, list[float]] = {REPEATED: [], NEW: []}
    for new, some in ours.items():
        own, source = tools(), records(new)
        enrich_all(list(itertools.islice(source, WARM_UP)), own)
        for _ in range(recorder.repetitions):
            some.append(per_second(partial(enrich_all, own=own), source, seconds))
            naive[new].append(per_second(enrich_naively, source, seconds))
    for new, name in ((REPEATED, "agents 95 % repeated"), (NEW, "every agent new")):
        recorder.figure(f"naive: user_agents.parse, {name}", naive[new])
        recorder.figure(f"loop without Kafka, {name}", ours[new], naive[new])
    return naive


def process(recorder: Recorder, found: Stores, new: int, count: int) -> list[Course]:
    """The process, some times on new backlogs."""
    world = found.world(f"new{new}")
    each, courses = count // world.partitions, []
    for number in range(recorder.repetitions):
        asyncio.run(fill_raw(world, each, number * each, new))
        courses.append(enrich(world, number * each * world.partitions, (number + 1) * each * world.partitions))
    return courses


def memory(recorder: Recorder, different: int) -> None:
    """Resident memory of this process at a fifth and at the end: caches are full long before."""
    own, source = tools(), records(NEW)
    sizes = []
    for share in (different // 5, different - different // 5):
        for _ in range(0, share, CHUNK):
            enrich_all(list(itertools.islice(source, CHUNK)), own)
        sizes.append(rss_mb("self"))
    note = f"{different // 5:,} and {different:,} different agents and addresses"
    recorder.figure("memory over new agents and addresses", sizes[1:], sizes[:1], note)


def measure(recorder: Recorder) -> None:
    """Everything about the enricher."""
    naive: dict[int, list[float]] = {REPEATED: [], NEW: []}
    with recorder.attempt("loops"):
        naive = loops(recorder, recorder.scale(2.0, 0.5))
    with recorder.attempt("process"), stores() as found:
        found.pin_broker()
        for new, name, count in ((REPEATED, "agents 95 % repeated", 240_000), (NEW, "every agent new", 60_000)):
            courses = process(recorder, found, new, recorder.scale(count, count // 4))
            recorder.figure(f"process, {name}", [course.rate for course in courses], naive[new])
            recorder.figure(f"process, {name}: CPU", [course.cpu_us for course in courses])
    if recorder.is_quick:
        recorder.skip("memory over new agents and addresses", "the caches are not full at this scale")
        return
    with recorder.attempt("memory"):
        memory(recorder, DIFFERENT)


if __name__ == "__main__":
    main("enricher", measure, __doc__)
