"""What is simulated: machines, load and what goes wrong; and when something that failed lets work end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SESSION_S: Final = 6.0
"""Until the partitions of a killed member go to others."""
ELECTION_S: Final = 3.0
"""Until partitions of a lost broker have another leader that clients know: seen in the fault tests with three brokers."""
COHORTS_MAX: Final = 400_000
"""Groups of clicks of one moment; each costs some tens of microseconds of simulation."""


class Part(StrEnum):
    """What can fail."""

    BROKER = "broker"
    NODE = "node"
    """a ClickHouse node; as shipped all shards stand still with it"""
    SHARD = "shard"
    """a ClickHouse shard alone"""
    ENRICHER = "enricher"
    SINK = "sink"


@dataclass(frozen=True, slots=True)
class Fault:
    """`part` number `index` fails at `at_s` for `for_s` seconds."""

    part: Part
    index: int
    at_s: float
    for_s: float

    @property
    def until_s(self) -> float:
        """When work goes on."""
        return self.at_s + self.for_s


_FAULT: Final = re.compile(r"(\w+):(\d+)@(\d+(?:\.\d+)?)(?:\+(\d+(?:\.\d+)?))?")


def parse_fault(text: str) -> Fault:
    """`broker:0@20`, `shard:1@20+30`: number, second, and how long where that is not a property of the system.

    Raises ValueError.
    """
    match = _FAULT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not PART:NUMBER@SECOND or PART:NUMBER@SECOND+SECONDS")
    part = Part(match[1])
    fixed_s = {Part.BROKER: ELECTION_S, Part.ENRICHER: SESSION_S, Part.SINK: SESSION_S}.get(part)
    if fixed_s is None and match[4] is None:
        raise ValueError(f"{text!r} does not say for how long: add +SECONDS")
    return Fault(part, int(match[2]), float(match[3]), float(match[4]) if match[4] else float(fixed_s or 0))


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run."""

    rate: float = 500.0
    """clicks a second"""
    seconds: float = 60.0
    partitions: int = 6
    apis: int = 1
    enrichers: int = 1
    sinks: int = 1
    brokers: int = 1
    broker_cores: int = 1
    shards: int = 1
    clickhouse_cores: int = 2
    """that insert at the same time, in each shard"""
    host_cores: int = 0
    """cores that all processes share, as on one machine; 0: each has its own"""
    others_cores: float = 0.0
    """of these, taken by what is not of the pipeline"""
    batches: bool = False
    """clicks come in batches of 100"""
    poisson: bool = True
    """else evenly"""
    burst: float = 1.0
    """1 to 2: the rate is this many times its mean for ten seconds, then correspondingly less for ten"""
    hot_share: float = 0.0
    """of the traffic, in one tenant"""
    pinned: bool = False
    """each tenant's clicks in a partition of its own: what Clickledger does not do"""
    block_rows_max: int = 10_000
    block_age_ms: float = 500.0
    inserts_per_second: float = 20.0
    inserts_at_once: int = 3
    fetch_clicks_max: int = 5_000
    tick_ms: float = 5.0
    seed: int = 1
    faults: tuple[Fault, ...] = ()

    @property
    def tick_s(self) -> float:
        """How long arrivals are gathered; longer where the run would be too large otherwise."""
        cohorts_per_tick = self.apis * (2 if self.hot_share else 1)
        return max(self.tick_ms / 1000, self.seconds * cohorts_per_tick / COHORTS_MAX)

    @property
    def age_limit_s(self) -> float:
        """The sink's rule: a block's age limit grows with the partitions, so that inserts stay within their budget."""
        return max(self.block_age_ms / 1000, self.partitions / self.inserts_per_second)


def ends_at(start_s: float, service_s: float, outages: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(begin, end) of work that begins at `start_s` at the earliest; what an outage interrupts is done again after it.

    `outages`: (from, until), in order, not overlapping.
    """
    for begin_s, until_s in outages:
        if start_s < until_s and start_s + service_s > begin_s:
            start_s = until_s
    return start_s, start_s + service_s


def outages(faults: Sequence[Fault], part: Part, index: int) -> list[tuple[float, float]]:
    """When one of the parts does nothing."""
    return sorted((fault.at_s, fault.until_s) for fault in faults if fault.part is part and fault.index == index)
