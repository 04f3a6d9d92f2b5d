"""How many machines a rate needs, from what a click costs. Pure: the table of docs/scaling.md is its output."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from bench.simulation.figures import Figures

RATES: Final = (1_000, 10_000, 100_000, 1_000_000)
FULL: Final = 0.6
"""Of a core's time at most: the rest is for peaks, catching up and the work of a lost neighbour."""
REPLICAS: Final = 3
"""Copies of a record in Kafka."""
CLICKHOUSE_REPLICAS: Final = 2
BROKER_CORES: Final = 8
BROKER_MBIT: Final = 5_000
"""Half of a card for 10 Gbit/s: reading again after a failure comes on top."""
CLICKHOUSE_CORES: Final = 16
NODE_TB: Final = 20
"""Disk of a broker or a ClickHouse node."""
BLOCK_ROWS: Final = 10_000
BLOCK_AGE_S: Final = 0.5
INSERTS_PER_S: Final = 20
DAY_S: Final = 86_400
DAYS: Final = 90
KAFKA_DAYS: Final = 7
PARTITIONS_MIN: Final = 6
PARTITIONS_MAX: Final = 4_096
FOLLOWER_SHARE: Final = 0.3
"""A follower's work on a record beside the leader's: it fetches and appends, and answers no client. An assumption."""
MERGE_REPLICA_SHARE: Final = 0.5
"""A replica's work on a row beside the inserting one's: it fetches the part and merges on its own. An assumption."""


class Size(NamedTuple):
    """What a rate of clicks needs."""

    rate: int
    api_cores: int
    broker_cores: int
    brokers: int
    partitions: int
    enrichers: int
    sinks: int
    blocks: float
    """inserts a second, all shards: full blocks, or those that are due by age within the default budget"""
    clickhouse_cores: int
    shards: int
    clickhouse_nodes: int
    network_mbit: float
    """into and out of one broker: all copies and both readers"""
    kafka_disk_tb: float
    clickhouse_disk_tb: float


def size(rate: int, figures: Figures, *, batches: bool = False) -> Size:
    """Whole machines for `rate` clicks a second."""
    api_us = figures.api_batch_us if batches else figures.api_us
    enrichers, sinks = _cores(rate * figures.enricher_us), _cores(rate * figures.sink_us)
    blocks = max(rate / BLOCK_ROWS, min(INSERTS_PER_S, partitions(max(enrichers, sinks)) / BLOCK_AGE_S))
    sinks = max(sinks, _cores(rate * figures.sink_us + 1_000 * blocks * figures.sink_block_ms))
    inserting_us = rate * figures.clickhouse_us + 1_000 * blocks * figures.clickhouse_block_ms
    broker_cores = _cores(rate * figures.broker_us * (1 + FOLLOWER_SHARE * (REPLICAS - 1)))
    clickhouse_cores = _cores(inserting_us * (1 + MERGE_REPLICA_SHARE * (CLICKHOUSE_REPLICAS - 1)))
    record_bytes = figures.raw_bytes + figures.enriched_bytes
    network_mbit = rate * record_bytes * 2 * REPLICAS * 8 / 1e6
    kafka_tb = rate * record_bytes * REPLICAS * KAFKA_DAYS * DAY_S / 1e12
    clickhouse_tb = rate * figures.row_bytes * CLICKHOUSE_REPLICAS * DAYS * DAY_S / 1e12
    brokers = max(REPLICAS, *map(_whole, (broker_cores / BROKER_CORES, network_mbit / BROKER_MBIT, kafka_tb / NODE_TB)))
    nodes = max(clickhouse_cores / CLICKHOUSE_CORES, clickhouse_tb / NODE_TB)
    shards = _whole(nodes / CLICKHOUSE_REPLICAS)
    return Size(
        rate=rate,
        api_cores=_cores(rate * api_us),
        broker_cores=broker_cores,
        brokers=brokers,
        partitions=partitions(max(enrichers, sinks, shards)),
        enrichers=enrichers,
        sinks=sinks,
        blocks=blocks,
        clickhouse_cores=clickhouse_cores,
        shards=shards,
        clickhouse_nodes=shards * CLICKHOUSE_REPLICAS,
        network_mbit=network_mbit / brokers,
        kafka_disk_tb=kafka_tb,
        clickhouse_disk_tb=clickhouse_tb,
    )


def partitions(processes: int) -> int:
    """So many that each process and shard has several, and their number may double."""
    return min(PARTITIONS_MAX, max(PARTITIONS_MIN, 4 * processes if processes > 1 else 0))


def _cores(us_per_second: float) -> int:
    """Whole cores that are busy for `FULL` of their time at most."""
    return _whole(us_per_second / 1e6 / FULL)


def _whole(number: float) -> int:
    return max(1, math.ceil(number))


ROWS: Final = (
    ("API, cores = processes", "api_cores"),
    ("brokers, cores", "broker_cores"),
    (f"brokers of {BROKER_CORES} cores, {NODE_TB} TB, {REPLICAS} copies", "brokers"),
    ("partitions", "partitions"),
    ("enrichers, cores = processes", "enrichers"),
    ("sinks, cores = processes", "sinks"),
    ("blocks a second", "blocks"),
    ("ClickHouse, cores", "clickhouse_cores"),
    (f"ClickHouse shards, {CLICKHOUSE_REPLICAS} replicas each", "shards"),
    (f"ClickHouse nodes of {CLICKHOUSE_CORES} cores, {NODE_TB} TB", "clickhouse_nodes"),
    ("network of a broker, Mbit/s", "network_mbit"),
    (f"Kafka, TB for {KAFKA_DAYS} days", "kafka_disk_tb"),
    (f"ClickHouse, TB for {DAYS} days", "clickhouse_disk_tb"),
)


def table(figures: Figures) -> str:
    """Markdown: a column for each rate, single clicks; where batches need less, their figure in brackets."""
    single, batches = ([size(rate, figures, batches=many) for rate in RATES] for many in (False, True))
    lines = [f"| clicks/s | {' | '.join(f'{rate:,}' for rate in RATES)} |", f"|---|{'---|' * len(RATES)}"]
    for title, name in ROWS:
        cells = []
        for one, many in zip(single, batches, strict=True):
            alone, together = _number(getattr(one, name)), _number(getattr(many, name))
            cells.append(alone if alone == together else f"{alone} ({together})")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figures_table(figures: Figures, sources: dict[str, str]) -> str:
    """Markdown: each figure that tables and simulation were made with."""
    lines = ["| figure | value | measured by |", "|---|---|---|"]
    lines += [f"| `{name}` | {getattr(figures, name):g} | {source} |" for name, source in sources.items()]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"
