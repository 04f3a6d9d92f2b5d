"""Every row of the results: its part, its unit, its target and what its ratio is to. Parts name rows by these names."""

from __future__ import annotations

from bench.rows import Spec, Target


def _least(limit: float) -> Target:
    return Target(">=", limit)


def _most(limit: float) -> Target:
    return Target("<=", limit)


def _times(limit: float) -> Target:
    return Target(">=", limit, is_ratio=True)


def _at_most_times(limit: float) -> Target:
    return Target("<=", limit, is_ratio=True)


_CPU = "us of CPU a click"

API = (
    Spec("api", "bare ASGI, 64 connections", "requests/s"),
    Spec("api", "bare fast lane, 64 connections", "requests/s"),
    Spec("api", "bare fast lane, 512 connections", "requests/s"),
    Spec("api", "tutorial, 64 connections", "clicks/s"),
    Spec("api", "tutorial, 512 connections", "clicks/s"),
    Spec("api", "tutorial: CPU", _CPU),
    Spec("api", "single click, 64 connections", "clicks/s", _times(10), "tutorial"),
    Spec("api", "single click, 512 connections", "clicks/s", _times(10), "tutorial"),
    Spec("api", "single click, 64 connections: of the lane", "clicks/s", _times(0.6), "bare fast lane"),
    Spec("api", "single click, 512 connections: of the lane", "clicks/s", _times(0.6), "bare fast lane"),
    Spec("api", "single click: CPU", _CPU, None, "tutorial"),
    Spec("api", "single click, 64 connections, heads all different", "clicks/s"),
    Spec("api", "single click, heads all different: CPU", _CPU, None, "heads that come again"),
    Spec("api", "fixed rate below 80 % load: p50", "ms"),
    Spec("api", "fixed rate below 80 % load: p99", "ms"),
    Spec("api", "fixed rate below 80 % load: p99 beyond 2 x p50", "ms", _most(5)),
    Spec("api", "1 connection: p50", "ms", _most(1.0)),
    Spec("api", "1 connection: p99", "ms"),
)
BATCH = (
    Spec("batch", "batches of 100", "clicks/s", _least(150_000)),
    Spec("batch", "batches of 100: CPU", _CPU),
    Spec("batch", "1 worker: CPU", _CPU),
    Spec("batch", "2 workers: CPU", _CPU, _at_most_times(1.15), "1 worker"),
    Spec("batch", "2 workers, 512 connections: CPU", _CPU, ratio_to="1 worker, 512 connections"),
    Spec("batch", "memory with all links: Pss", "MB", _most(150)),
    Spec("batch", "memory after more clicks: Pss", "MB", _at_most_times(1.1), "before them"),
)
ENRICHER = (
    Spec("enricher", "process, agents 95 % repeated", "events/s", _least(40_000), "naive without Kafka"),
    Spec("enricher", "process, agents 95 % repeated: CPU", "us of CPU an event"),
    Spec("enricher", "process, every agent new", "events/s", _least(8_000), "naive without Kafka"),
    Spec("enricher", "process, every agent new: CPU", "us of CPU an event"),
    Spec("enricher", "loop without Kafka, agents 95 % repeated", "events/s", None, "naive"),
    Spec("enricher", "loop without Kafka, every agent new", "events/s", None, "naive"),
    Spec("enricher", "naive: user_agents.parse, agents 95 % repeated", "events/s"),
    Spec("enricher", "naive: user_agents.parse, every agent new", "events/s"),
    Spec("enricher", "memory over new agents and addresses", "MB", _at_most_times(1.1), "a fifth of them"),
)
SINK = (
    Spec("sink", "backlog, exactly once", "rows/s", _times(0.8), "ClickHouse's own ingest"),
    Spec("sink", "ClickHouse's own ingest of the same blocks", "rows/s"),
    Spec("sink", "backlog, exactly once, both cores for all", "rows/s", None, "ClickHouse's own ingest"),
    Spec("sink", "ClickHouse's own ingest of the same blocks, both cores for all", "rows/s"),
    Spec("sink", "naive: rows as lists, client.insert", "rows/s", None, "ClickHouse's own ingest"),
    Spec("sink", "CPU of the sink", "us of CPU a row", _most(5)),
    Spec("sink", "CPU of ClickHouse", "us of CPU a row", None, "its own ingest"),
    Spec("sink", "memory, peak", "MB", _most(300)),
    Spec("sink", "parts per block", "parts", _most(1)),
)
FRESHNESS = (
    Spec("freshness", "200 to visible in SQL: p50", "s", _most(0.6)),
    Spec("freshness", "200 to visible in SQL: p99", "s", _most(1.5)),
    Spec("freshness", "200 to an event of the stream: p50", "s"),
    Spec("freshness", "200 to an event of the stream: p99", "s", _most(0.3)),
    Spec("freshness", "rate that was held", "clicks/s"),
)
PROCESSES = ("API", "broker", "enricher", "sink", "ClickHouse")
END_TO_END = (
    *(Spec("endtoend", f"single: {name}", "CPU-s a million clicks") for name in (*PROCESSES, "all")),
    *(Spec("endtoend", f"batches of 100: {name}", "CPU-s a million clicks") for name in (*PROCESSES, "all")),
    Spec("endtoend", "a billion clicks a month, single", "cores"),
    Spec("endtoend", "a billion clicks a month, batches of 100", "cores"),
)
GROWTH = (
    Spec("growth", "API: 10 x the links", "clicks/s", _times(0.9), "a tenth of the links"),
    Spec("growth", "API: 60 partitions", "clicks/s", _times(0.9), "6 partitions"),
    Spec("growth", "enricher: 60 partitions", "events/s", _times(0.9), "6 partitions"),
    Spec("growth", "sink: 60 partitions", "rows/s", _times(0.9), "6 partitions"),
    Spec("growth", "sink: 10 x the stored rows", "rows/s", _times(0.9), "a tenth of the rows"),
    Spec("growth", "stored rows", "rows"),
    Spec("growth", "bytes a stored row", "bytes"),
    Spec("growth", "audit over them", "s", _most(10)),
    Spec("growth", "report of one promotion in a month", "ms", _most(300)),
    Spec("growth", "report of one promotion, without uniques", "ms"),
    Spec("growth", "report of every promotion, without uniques", "ms"),
)
COLUMNS = (Spec("columns", "bytes of a stored click", "bytes", _most(110)),)
START = (
    Spec("start", "clickledger up, warm, all links", "s", _most(10)),
    *(
        Spec("start", f"{name}: killed until it serves again", "s", _most(2))
        for name in ("API", "enricher", "sink", "reporting")
    ),
)
BACKLOG = tuple(
    spec
    for name, unit in (("enricher", "events/s"), ("sink", "rows/s"))
    for spec in (
        Spec("backlog", f"{name}: rate", unit),
        Spec("backlog", f"{name}: CPU", f"us of CPU {'an event' if name == 'enricher' else 'a row'}"),
        Spec("backlog", f"{name}: second half", unit, _times(0.9), "first half"),
        Spec("backlog", f"{name}: memory at the end", "MB", _at_most_times(1.1), "at a third"),
        Spec("backlog", f"{name}: rebalances", "times", _most(0)),
    )
)
TAKEOVER = tuple(
    Spec("takeover", f"{name} killed: its partitions move", "s", _most(10)) for name in ("enricher", "sink")
)
KAFKA = (
    Spec("kafka", "aiokafka, produce", "records/s"),
    Spec("kafka", "aiokafka, produce: CPU", "us of CPU a record"),
    Spec("kafka", "aiokafka, consume", "records/s"),
    Spec("kafka", "aiokafka, consume: CPU", "us of CPU a record"),
)

SPECS = (
    *API,
    *BATCH,
    *ENRICHER,
    *SINK,
    *FRESHNESS,
    *END_TO_END,
    *GROWTH,
    *COLUMNS,
    *START,
    *BACKLOG,
    *TAKEOVER,
    *KAFKA,
)
"""In the order of the results."""


def specs_of(part: str) -> list[Spec]:
    """The rows of one part."""
    return [spec for spec in SPECS if spec.part == part]
