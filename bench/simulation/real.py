"""The local stack at a fixed rate: what the model is compared with, and the figures of this machine.

Needs some 40 seconds of a quiet machine. Everything that is sent must become a row: the audit is clean at the end.
"""

from __future__ import annotations

import http.client
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final
from urllib.parse import urlsplit

from clickledger.load.clicks import SINGLE_PATH
from clickledger.stack.guard import Guard
from tests.support.clickhouse_http import ClickHouseHttp
from tests.support.full_stack import FullStack
from tests.support.pipeline import audit_is_clean, command_env, count_rows, query

WARM_UP_S: Final = 4.0
IDLE_S: Final = 5.0
BATCH_RATE: Final = 5_000.0
BATCH_S: Final = 10.0
SERVICES: Final = {"api": "api", "broker": "broker", "enricher": "enricher", "sink": "sink", "clickhouse": "clickhouse"}
PROBES: Final = 25
INSERT_ROWS: Final = 40


@dataclass(frozen=True, slots=True)
class Run:
    """What one run measured."""

    clicks: int
    freshness_ms: tuple[float, float, float]
    """p50, p99 and max of `inserted_at - received_at`"""
    cpu_us: dict[str, float]
    """of each process a click, beside what it takes with nothing to do"""
    batch_cpu_us: dict[str, float]
    """the same for clicks in batches"""
    idle_cores: dict[str, float]
    """with nothing to do"""
    ack_ms: float
    """of one click alone: from the request to its 200"""
    ask_ms: float
    insert_ms: float
    raw_bytes: float
    enriched_bytes: float
    others_cores: float
    """of the client at the low rate, and of everything with nothing to do"""
    blocks: tuple[int, int]
    """of the two rates"""


@contextmanager
def local_stack(**settings: str) -> Iterator[FullStack]:
    """A stack of its own with these environment variables, for the time of the measurement."""
    guard = Guard()
    try:
        with tempfile.TemporaryDirectory(prefix="clickledger-simulate-") as name:
            stack = FullStack(guard, Path(name), env=settings)
            try:
                yield stack
            finally:
                stack.close()
    finally:
        guard.close()


def run(rate: float, seconds: float, block_age_ms: float) -> Run:
    """Send at a rate and measure."""
    with local_stack(CLICKLEDGER_SINK_BLOCK_AGE_MS=str(round(block_age_ms))) as stack:
        alone_ms = answers_ms(stack)
        send(stack, rate, WARM_UP_S)
        audit_is_clean(stack)
        idle = idle_cores(stack)
        since_ms = time.time_ns() // 1_000_000
        client_s = children_cpu_s()
        cpu_us = cpu_us_of(stack, idle, rate, seconds)
        client_s = children_cpu_s() - client_s
        delay = "dateDiff('millisecond', received_at, inserted_at)"
        some = f"count() AS rows, quantiles(0.5, 0.99)({delay}) AS some, max({delay}) AS most"
        since = f"received_at >= fromUnixTimestamp64Milli({since_ms})"
        (found,) = query(stack, f"SELECT {some} FROM clicks WHERE {since}")  # noqa: S608 numbers of this module
        clicks, blocks = int(found["rows"]), blocks_since(stack, since_ms)
        since_ms = time.time_ns() // 1_000_000
        batch_cpu_us = cpu_us_of(stack, idle, BATCH_RATE, BATCH_S, "--batch", "100")
        ask_ms, insert_ms = table_ms(stack)
        total = count_rows(stack)
        sizes = [log_bytes(stack.data, topic) / total for topic in ("clicks.raw", "clicks.enriched")]
        return Run(
            clicks=clicks,
            freshness_ms=(float(found["some"][0]), float(found["some"][1]), float(found["most"])),
            cpu_us=cpu_us,
            batch_cpu_us=batch_cpu_us,
            idle_cores=idle,
            others_cores=client_s / seconds + sum(idle.values()),
            ack_ms=median(alone_ms),
            ask_ms=ask_ms,
            insert_ms=insert_ms,
            raw_bytes=sizes[0],
            enriched_bytes=sizes[1],
            blocks=(blocks, blocks_since(stack, since_ms)),
        )


def blocks_since(stack: FullStack, since_ms: int) -> int:
    """Inserts since a moment: a block's rows have one partition and one `block_at`."""
    since = f"received_at >= fromUnixTimestamp64Milli({since_ms})"
    (found,) = query(stack, f"SELECT uniqExact(raw_partition, block_at) AS blocks FROM clicks WHERE {since}")  # noqa: S608 a number
    return int(found["blocks"])


def idle_cores(stack: FullStack) -> dict[str, float]:
    """Processor seconds a second of each service with nothing to do."""
    before = cpu_seconds(stack)
    time.sleep(IDLE_S)
    return {name: (after - before[name]) / IDLE_S for name, after in cpu_seconds(stack).items()}


def children_cpu_s() -> float:
    """Processor seconds of the commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cpu_us_of(
    stack: FullStack, idle: Mapping[str, float], rate: float, seconds: float, *options: str
) -> dict[str, float]:
    """Microseconds of each service a click, until all are stored, less what it takes with nothing to do."""
    before, began_s = cpu_seconds(stack), time.monotonic()
    send(stack, rate, seconds, *options)
    audit_is_clean(stack)
    took_s = time.monotonic() - began_s
    spent = {name: after - before[name] - idle[name] * took_s for name, after in cpu_seconds(stack).items()}
    return {name: each / round(rate * seconds) * 1e6 for name, each in spent.items()}


def send(stack: FullStack, rate: float, seconds: float, *options: str) -> dict[str, Any]:
    """`clickledger send` at a rate; what it says."""
    command = [sys.executable, "-m", "clickledger", "send", "--rate", str(rate), "--json", *options]
    command += ["--count", str(round(rate * seconds))]
    done = subprocess.run(
        command, env=command_env(stack), capture_output=True, text=True, timeout=seconds + 60, check=False
    )
    if done.returncode:
        raise RuntimeError(f"`clickledger send` ended with {done.returncode}: {done.stdout}{done.stderr}")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def answers_ms(stack: FullStack) -> list[float]:
    """One click after the other on one connection: ms until each 200."""
    ready = stack.ready
    connection = http.client.HTTPConnection(urlsplit(ready["api"]).netloc, timeout=30)
    headers = {"Authorization": f"Bearer {ready['key']}", "Content-Type": "application/json"}
    body = json.dumps({"short-url": ready["short_url"]})
    found = []
    try:
        for _ in range(4 * PROBES):
            began_s = time.perf_counter()
            connection.request("POST", SINGLE_PATH, body, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != http.client.OK:
                raise RuntimeError(f"a click was answered {answer.status}")
            found.append((time.perf_counter() - began_s) * 1000)
    finally:
        connection.close()
    return found[PROBES:]


def table_ms(stack: FullStack) -> tuple[float, float]:
    """Medians: ms of the question for a partition's position, ms of an insert of few rows into a table like `clicks`."""
    ready = stack.ready
    server = ClickHouseHttp(ready["clickhouse_owner"])
    database = str(ready["database"])
    where = "FROM clicks WHERE stream = (SELECT any(stream) FROM clicks) AND raw_partition = 0"
    asked = [_timed(server, f"SELECT count() > 0, max(raw_offset) {where}", database) for _ in range(PROBES)]
    server.ask("CREATE TABLE clicks_simulated AS clicks", database=database)
    some = f"INSERT INTO clicks_simulated SELECT * FROM clicks LIMIT {INSERT_ROWS}"  # noqa: S608 numbers of this module
    inserted = [_timed(server, some, database) for _ in range(PROBES)]
    server.ask("DROP TABLE clicks_simulated", database=database)
    return median(asked), median(inserted)


def _timed(server: ClickHouseHttp, sql: str, database: str) -> float:
    began_s = time.perf_counter()
    answer = server.ask(sql, database=database)
    if answer.status != http.client.OK:
        raise RuntimeError(f"{sql}: {answer.text}")
    return (time.perf_counter() - began_s) * 1000


def cpu_seconds(stack: FullStack) -> dict[str, float]:
    """Processor seconds of each service until now."""
    pids = stack.ready["pids"]
    tick = os.sysconf("SC_CLK_TCK")

    def of(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / tick

    return {
        name: sum(of(pid) for pid in (pids[key] if isinstance(pids[key], list) else [pids[key]]))
        for name, key in SERVICES.items()
    }


def log_bytes(data: Path, topic: str) -> float:
    """Bytes of a topic's records on the broker's disk."""
    return float(sum(file.stat().st_size for file in data.rglob(f"{topic}-*/*.log")))


def figures_of(run: Run, api_us: float) -> dict[str, float]:
    """The model's figures that a run says, beside `api_us`, which needs full load.

    At the low rate a group has one click; in batches it has a hundred and more. Blocks and rows are told apart by their
    number in both.
    """
    clicks, batch_clicks = run.clicks, round(BATCH_RATE * BATCH_S)
    figures = {
        "api_batch_us": run.batch_cpu_us["api"],
        "api_group_us": max(0.0, run.cpu_us["api"] - api_us),
        "broker_us": run.batch_cpu_us["broker"],
        "broker_group_us": max(0.0, run.cpu_us["broker"] - run.batch_cpu_us["broker"]),
        "enricher_us": run.batch_cpu_us["enricher"],
        "enricher_group_us": max(0.0, run.cpu_us["enricher"] - run.batch_cpu_us["enricher"]),
        "ack_ms": run.ack_ms,
        "ask_ms": run.ask_ms,
        "insert_ms": run.insert_ms,
        "raw_bytes": run.raw_bytes,
        "enriched_bytes": run.enriched_bytes,
    }
    for stage in ("sink", "clickhouse"):
        alone, many = run.cpu_us[stage], run.batch_cpu_us[stage]
        block_us, row_us = fit(run.blocks[0] / clicks, alone, run.blocks[1] / batch_clicks, many)
        figures |= {f"{stage}_us": row_us, f"{stage}_block_ms": block_us / 1000}
    return {name: float(f"{value:.3g}") for name, value in figures.items()}


def fit(blocks_a: float, cost_a: float, blocks_b: float, cost_b: float) -> tuple[float, float]:
    """(cost of a block, of a row) from the cost of a row in two runs with so many blocks a row. Never below zero."""
    block = max(0.0, (cost_a - cost_b) / (blocks_a - blocks_b)) if blocks_a != blocks_b else 0.0
    return block, max(0.0, cost_b - block * blocks_b)
