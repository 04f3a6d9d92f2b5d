"""The simulation: events in the order of their time, clicks in cohorts of one moment, queues as the processes have them.

API processes take cohorts one after the other and append groups to a partition, the next group to the next partition. A
broker works on what it leads. An enricher takes all that waits in one of its partitions, and never two groups of one
partition at once. A sink cuts a block when it is due by rows or age, one at a time in each partition, a few at once in
each process, into the partition's shard. What is lost with a process is done again by whoever has the partition next.
Deterministic: the only chance is the arrivals', from the seed.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from bench.simulation.figures import Figures
from bench.simulation.scenario import Part, Scenario, ends_at, outages

SAMPLE_S: Final = 0.1
ROUNDING: Final = 1e-9


class Cohort(NamedTuple):
    """Clicks of one moment and one tenant."""

    arrived_s: float
    clicks: int
    is_hot: bool


class Stored(NamedTuple):
    """A cohort that became rows."""

    cohort: Cohort
    inserted_s: float
    """when the insert began"""
    stored_s: float


@dataclass(slots=True)
class Lane:
    """A partition at one stage: what waits, and whether a group of it is under way."""

    waiting: deque[tuple[float, Cohort]] = field(default_factory=deque)
    """(since, cohort)"""
    clicks: int = 0
    is_busy: bool = False

    def put(self, now_s: float, cohorts: Sequence[Cohort]) -> None:
        """Append."""
        self.waiting.extend((now_s, cohort) for cohort in cohorts)
        self.clicks += sum(cohort.clicks for cohort in cohorts)

    def next_clicks(self, clicks_max: int) -> int:
        """How many clicks `take` would take."""
        count = 0
        for _, cohort in self.waiting:
            if count and count + cohort.clicks > clicks_max:
                break
            count += cohort.clicks
        return count

    def take(self, clicks_max: int) -> list[Cohort]:
        """The first cohorts, at least one, together at most so many clicks."""
        taken: list[Cohort] = []
        count = 0
        while self.waiting and (not taken or count + self.waiting[0][1].clicks <= clicks_max):
            cohort = self.waiting.popleft()[1]
            taken.append(cohort)
            count += cohort.clicks
        self.clicks -= count
        return taken


@dataclass(slots=True)
class Outcome:
    """What happened."""

    arrived: int = 0
    stored: list[Stored] = field(default_factory=list)
    busy_s: dict[str, float] = field(default_factory=dict)
    """processor seconds of each stage"""
    lag: list[tuple[float, int, int]] = field(default_factory=list)
    """(second, clicks not yet enriched, clicks enriched and not yet stored)"""
    blocks: int = 0
    ended_s: float = 0.0


class Simulation:
    """One run; `run` returns its outcome."""

    def __init__(self, scenario: Scenario, figures: Figures) -> None:
        self.scenario, self.figures = scenario, figures
        self.outcome = Outcome(busy_s=dict.fromkeys(("api", "broker", "enricher", "sink", "clickhouse"), 0.0))
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self._random = random.Random(scenario.seed)  # arrivals, not secrets
        self._raw = [Lane() for _ in range(scenario.partitions)]
        self._enriched = [Lane() for _ in range(scenario.partitions)]
        self._api_free_s = [0.0] * scenario.apis
        self._api_next = [number % scenario.partitions for number in range(scenario.apis)]
        self._broker_free_s = [0.0] * scenario.brokers
        self._worker_free_s = {Part.ENRICHER: [0.0] * scenario.enrichers, Part.SINK: [0.0] * scenario.sinks}
        self._ready: list[deque[int]] = [deque() for _ in range(scenario.enrichers)]
        self._stranded: list[int] = []
        """Partitions of a dead enricher that nobody has yet."""
        self._inserting = [0] * scenario.sinks
        self._sink_outages = [sink_outages(scenario, partition) for partition in range(scenario.partitions)]
        self._cores_free_s = [[0.0] * scenario.clickhouse_cores for _ in range(scenario.shards)]
        self._host_free_s = [0.0] * scenario.host_cores
        self._enriched_clicks = 0
        self._stored_clicks = 0

    def run(self) -> Outcome:
        """Until every click is a row."""
        self._at(0.0, self._arrive, 0)
        self._at(0.0, self._sample)
        for fault in self.scenario.faults:
            self._at(fault.until_s, self._resume)
        while self._events:
            now_s, _, what, arguments = heapq.heappop(self._events)
            self.outcome.ended_s = now_s
            what(now_s, *arguments)
        return self.outcome

    def _at(self, at_s: float, what: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (at_s, next(self._numbers), what, arguments))

    def _work(self, stage: str, ready_s: float, service_s: float) -> tuple[float, float]:
        """(begin, end) of a stage's work that may begin at `ready_s`; where a machine is shared, when it has a core."""
        self.outcome.busy_s[stage] += service_s
        cores = self._host_free_s
        begin_s = max(ready_s, cores[0]) if cores else ready_s
        if cores:
            heapq.heapreplace(cores, begin_s + service_s)
        return begin_s, begin_s + service_s

    # --- arrivals and the API

    def _arrive(self, now_s: float, tick: int) -> None:
        """The clicks of one tick, shared evenly by the API processes."""
        scenario = self.scenario
        if scenario.host_cores:
            heapq.heapreplace(
                self._host_free_s, max(now_s, self._host_free_s[0]) + scenario.tick_s * scenario.others_cores
            )
        mean = self._rate(now_s) * scenario.tick_s / scenario.apis
        for api in range(scenario.apis):
            hot = self._count(tick, mean * scenario.hot_share)
            others = self._count(tick, mean * (1 - scenario.hot_share))
            groups = 1
            for clicks, is_hot in ((hot, True), (others, False)):
                if clicks:
                    self._accept(api, Cohort(now_s, clicks, is_hot), groups)
                    groups = 0  # the next cohort travels in the same group
            self._api_next[api] = (self._api_next[api] + 1) % scenario.partitions
        if (tick + 1) * scenario.tick_s < scenario.seconds:
            self._at((tick + 1) * scenario.tick_s, self._arrive, tick + 1)

    def _rate(self, now_s: float) -> float:
        burst = self.scenario.burst
        return self.scenario.rate * (burst if now_s % 20 < 10 else 2 - burst)

    def _count(self, tick: int, mean: float) -> int:
        if self.scenario.poisson:
            return poisson(self._random, mean)
        return math.floor((tick + 1) * mean + ROUNDING) - math.floor(tick * mean + ROUNDING)

    def _accept(self, api: int, cohort: Cohort, groups: int) -> None:
        """One process works on one cohort after the other; the groups of a tick go to the same partition."""
        figures, scenario = self.figures, self.scenario
        self.outcome.arrived += cohort.clicks
        click_us = figures.api_batch_us if scenario.batches else figures.api_us
        service_s = (cohort.clicks * click_us + groups * figures.api_group_us) / 1e6
        self._api_free_s[api] = self._work("api", max(self._api_free_s[api], cohort.arrived_s), service_s)[1]
        if scenario.pinned:
            partition = 0 if cohort.is_hot else 1 + self._api_next[api] % max(1, scenario.partitions - 1)
        else:
            partition = self._api_next[api]
        broker_us = cohort.clicks * figures.broker_us + groups * figures.broker_group_us
        appended_s = self._append(partition, self._api_free_s[api], broker_us / 1e6)
        self._at(appended_s + figures.enricher_fetch_ms / 1000, self._raw_appended, partition, [cohort])

    def _append(self, partition: int, now_s: float, service_s: float) -> float:
        """When a group is acknowledged: its leader works on it, and while there is no leader it waits (in a spool)."""
        scenario = self.scenario
        leader = partition % scenario.brokers
        down = outages(scenario.faults, Part.BROKER, leader)
        if down and scenario.brokers > 1 and now_s >= down[0][1]:
            leader, down = (leader + 1) % scenario.brokers, []  # led by another from the election on
        start_s = max(now_s, self._broker_free_s[leader])
        begin_s, end_s = ends_at(start_s, service_s / scenario.broker_cores, down)
        if begin_s == start_s:
            end_s = self._work("broker", start_s, service_s)[0] + service_s / scenario.broker_cores
        else:
            self.outcome.busy_s["broker"] += service_s
        if begin_s == start_s or scenario.brokers == 1:
            self._broker_free_s[leader] = end_s
        return end_s + self.figures.ack_ms / 1000

    # --- the enricher

    def _raw_appended(self, now_s: float, partition: int, cohorts: list[Cohort]) -> None:
        lane = self._raw[partition]
        is_first = not lane.waiting
        lane.put(now_s, cohorts)
        if is_first and not lane.is_busy:
            self._offer(now_s, partition)

    def _offer(self, now_s: float, partition: int) -> None:
        """The partition has records and no group under way: its enricher comes to it in turn."""
        process = self._owner(Part.ENRICHER, partition, now_s)
        self._ready[process].append(partition)
        if len(self._ready[process]) == 1:
            self._at(max(now_s, self._worker_free_s[Part.ENRICHER][process]), self._enrich, process)

    def _enrich(self, now_s: float, process: int) -> None:
        """Work on the next partition of the process; while its owner is dead the partition waits for `_resume`."""
        scenario, ready = self.scenario, self._ready[process]
        if not ready:
            return
        lane = self._raw[ready[0]]
        down = outages(scenario.faults, Part.ENRICHER, ready[0] % scenario.enrichers)
        clicks = lane.next_clicks(scenario.fetch_clicks_max)
        service_s = (clicks * self.figures.enricher_us + self.figures.enricher_group_us) / 1e6
        begin_s, end_s = ends_at(now_s, service_s, down)
        partition = ready.popleft()
        if begin_s == now_s:
            lane.is_busy = True
            cohorts = lane.take(scenario.fetch_clicks_max)
            end_s = self._work("enricher", now_s, service_s)[1]
            self._worker_free_s[Part.ENRICHER][process] = end_s
            self._at(self._append(partition, end_s, 0.0), self._enriched_appended, partition, cohorts)
        else:
            self._stranded.append(partition)
        if ready:
            self._at(max(now_s, self._worker_free_s[Part.ENRICHER][process]), self._enrich, process)

    def _enriched_appended(self, now_s: float, partition: int, cohorts: list[Cohort]) -> None:
        lane = self._raw[partition]
        lane.is_busy = False
        self._enriched_clicks += sum(cohort.clicks for cohort in cohorts)
        if lane.waiting:
            self._offer(now_s, partition)
        self._at(now_s + self.figures.sink_fetch_ms / 1000, self._fetched, partition, cohorts)

    # --- the sink

    def _fetched(self, now_s: float, partition: int, cohorts: list[Cohort]) -> None:
        lane = self._enriched[partition]
        if not lane.waiting:
            self._at(now_s + self.scenario.age_limit_s, self._look, partition)
        lane.put(now_s, cohorts)
        self._look(now_s, partition)

    def _is_due(self, now_s: float, partition: int) -> bool:
        lane = self._enriched[partition]
        if not lane.waiting or lane.is_busy:
            return False
        is_old = now_s >= lane.waiting[0][0] + self.scenario.age_limit_s - ROUNDING
        return is_old or lane.clicks >= self.scenario.block_rows_max

    def _look(self, now_s: float, partition: int) -> None:
        """Store a block of the partition if one is due, the process has a place, and nothing is about to fail."""
        process = self._owner(Part.SINK, partition, now_s)
        if self._inserting[process] >= self.scenario.inserts_at_once or not self._is_due(now_s, partition):
            return
        figures, lane = self.figures, self._enriched[partition]
        rows = lane.next_clicks(self.scenario.block_rows_max)
        own_s = (rows * figures.sink_us / 1e3 + figures.sink_block_ms) / 1e3
        start_s = max(now_s, self._worker_free_s[Part.SINK][process])
        asked_s = own_s + figures.ask_ms / 1e3
        if ends_at(now_s, start_s - now_s + asked_s + self._insert_s(rows), self._sink_outages[partition])[0] != now_s:
            return  # it would fail; `_resume` looks again
        lane.is_busy = True
        self._inserting[process] += 1
        cohorts = lane.take(self.scenario.block_rows_max)
        ready_s = self._worker_free_s[Part.SINK][process] = self._work("sink", start_s, own_s)[1]
        self._at(ready_s + figures.ask_ms / 1e3, self._insert, process, partition, cohorts)

    def _insert_s(self, rows: int) -> float:
        """Processor seconds of ClickHouse for a block."""
        return (rows * self.figures.clickhouse_us / 1e3 + self.figures.clickhouse_block_ms) / 1e3

    def _insert(self, now_s: float, process: int, partition: int, cohorts: list[Cohort]) -> None:
        """A block goes into the table: a core of the shard works on it."""
        work_s = self._insert_s(sum(cohort.clicks for cohort in cohorts))
        cores = self._cores_free_s[partition % self.scenario.shards]
        begin_s, end_s = self._work("clickhouse", max(now_s, cores[0]), work_s)
        heapq.heapreplace(cores, end_s)
        stored_s = max(end_s, begin_s + self.figures.insert_ms / 1e3)
        self._at(stored_s, self._inserted, process, partition, begin_s, cohorts)

    def _inserted(self, now_s: float, process: int, partition: int, inserted_s: float, cohorts: list[Cohort]) -> None:
        self.outcome.stored += (Stored(cohort, inserted_s, now_s) for cohort in cohorts)
        self.outcome.blocks += 1
        self._stored_clicks += sum(cohort.clicks for cohort in cohorts)
        self._inserting[process] -= 1
        lane = self._enriched[partition]
        lane.is_busy = False
        if lane.waiting:
            self._at(max(now_s, lane.waiting[0][0] + self.scenario.age_limit_s), self._look, partition)
        due = [other for other in range(self.scenario.partitions) if self._is_due(now_s, other)]
        for other in sorted(due, key=lambda each: self._enriched[each].waiting[0][0]):
            if self._owner(Part.SINK, other, now_s) == process:
                self._look(now_s, other)

    # --- who owns what, and how much waits

    def _owner(self, part: Part, partition: int, now_s: float) -> int:
        """The process of the partition; after its death another, if there is one."""
        processes = len(self._worker_free_s[part])
        process = partition % processes
        down = outages(self.scenario.faults, part, process)
        is_gone = bool(down) and processes > 1 and now_s >= down[0][1]
        return (process + 1 + (partition // processes) % (processes - 1)) % processes if is_gone else process

    def _resume(self, now_s: float) -> None:
        """Something that failed is there again, or its work has another owner."""
        stranded, self._stranded = self._stranded, []
        for partition in stranded:
            self._offer(now_s, partition)
        for partition in range(self.scenario.partitions):
            self._look(now_s, partition)

    def _sample(self, now_s: float) -> None:
        not_stored = self._enriched_clicks - self._stored_clicks
        self.outcome.lag.append((now_s, self.outcome.arrived - self._enriched_clicks, not_stored))
        if self._events:
            self._at(now_s + SAMPLE_S, self._sample)


def sink_outages(scenario: Scenario, partition: int) -> list[tuple[float, float]]:
    """When no block of the partition can be stored."""
    sink = outages(scenario.faults, Part.SINK, partition % scenario.sinks)
    shard = outages(scenario.faults, Part.SHARD, partition % scenario.shards)
    nodes = [(fault.at_s, fault.until_s) for fault in scenario.faults if fault.part is Part.NODE]
    return sorted([*sink, *shard, *nodes])


def poisson(chance: random.Random, mean: float) -> int:
    """A number of events: Knuth's product below 30, the normal distribution above."""
    if mean > 30:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    limit, count, product = math.exp(-mean), 0, chance.random()
    while product > limit:
        count += 1
        product *= chance.random()
    return count
