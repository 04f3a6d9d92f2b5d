"""What an outcome says: freshness a minute, lag, recovery, how busy each stage was. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from bench.simulation.engine import Outcome, Stored
from bench.simulation.scenario import Fault, Scenario

PERIOD_S: Final = 60.0
RECOVERED: Final = 1.05
"""Lag over its greatest before the fault, at which all is as it was."""


class Freshness(NamedTuple):
    """From a click's arrival until its row is there, in seconds."""

    clicks: int
    p50_s: float
    p99_s: float
    max_s: float


class Use(NamedTuple):
    """How busy the processes of a stage were."""

    stage: str
    servers: int
    share: float
    """of the time; above 1 the queue before it grows without end"""


def freshness(stored: Iterable[Stored], *, until_insert: bool = False) -> Freshness:
    """Percentiles over clicks; zeros for none. `until_insert`: to the begin of the insert, as the column `inserted_at`."""
    delays = sorted(
        ((each.inserted_s if until_insert else each.stored_s) - each.cohort.arrived_s, each.cohort.clicks)
        for each in stored
    )
    clicks = sum(count for _, count in delays)
    if not clicks:
        return Freshness(0, 0.0, 0.0, 0.0)
    return Freshness(clicks, _level(delays, clicks, 0.5), _level(delays, clicks, 0.99), delays[-1][0])


def _level(delays: Sequence[tuple[float, int]], clicks: int, level: float) -> float:
    rest = math.ceil(level * clicks)
    for delay_s, count in delays:
        rest -= count
        if rest <= 0:
            return delay_s
    return delays[-1][0]


def by_minute(outcome: Outcome, *, is_hot: bool | None = None) -> list[tuple[int, Freshness]]:
    """Each minute of arrival; of one side of the hot tenant only, if asked so."""
    minutes: dict[int, list[Stored]] = {}
    for each in outcome.stored:
        if is_hot is None or each.cohort.is_hot == is_hot:
            minutes.setdefault(int(each.cohort.arrived_s // PERIOD_S), []).append(each)
    return [(minute, freshness(minutes[minute])) for minute in sorted(minutes)]


def servers(scenario: Scenario) -> dict[str, int]:
    """Cores that each stage may use: a process of ours uses one."""
    return {
        "api": scenario.apis,
        "broker": scenario.brokers * scenario.broker_cores,
        "enricher": scenario.enrichers,
        "sink": scenario.sinks,
        "clickhouse": scenario.shards * scenario.clickhouse_cores,
    }


def uses(outcome: Outcome, scenario: Scenario) -> list[Use]:
    """The busiest stage first: it is the bottleneck."""
    found = [
        Use(stage, count, outcome.busy_s[stage] / (count * scenario.seconds))
        for stage, count in servers(scenario).items()
    ]
    return sorted(found, key=lambda use: -use.share)


def recovery_s(outcome: Outcome, fault: Fault) -> float | None:
    """Seconds from the fault's end until no more clicks wait than before it began; None: not within the run."""
    before = max((raw + enriched for at_s, raw, enriched in outcome.lag if at_s < fault.at_s), default=0)
    after = (
        at_s for at_s, raw, enriched in outcome.lag if at_s >= fault.until_s and raw + enriched <= RECOVERED * before
    )
    found = next(after, None)
    return None if found is None else found - fault.until_s
