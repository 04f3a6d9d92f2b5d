"""Requests per second of the click API beside a bare ASGI handler and the tutorial's way, on a real broker.

Run: .venv/bin/python -m bench.api [--seconds 4]. Needs wrk. The server is pinned to core 0, load and broker to core 1.
Figures depend on the machine and on what else runs there; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from clickledger.stack.guard import Guard
from clickledger.stack.ports import free_ports
from tests.support.api_service import BATCH, CLICKS, ApiService
from tests.support.brokers import LocalBrokers
from tests.support.catalog import EXAMPLE_BODY, EXAMPLE_URL
from tests.support.full_stack import clean_env
from tests.support.processes import Child, accepts, wait_until
from tests.support.stack import Names

SERVER_CORE, LOAD_CORE = "0", "1"
WARM_UP_SECONDS = 2
LINES = 100
KEY = "bench-secret"
RATE_LIMIT = 16_777_215


class Load(NamedTuple):
    """One way of asking."""

    path: str
    body: bytes
    content_type: str
    clicks: int


SINGLE = Load(CLICKS, EXAMPLE_BODY, "application/json", 1)
LINE = json.dumps({"short-url": EXAMPLE_URL, "user-agent": "Mozilla/5.0", "ip-address": "203.199.178.211"}).encode()
MANY = Load(BATCH, b"\n".join([LINE] * LINES), "application/x-ndjson", LINES)


class Figures(NamedTuple):
    """What wrk saw."""

    requests: float
    p50: str
    p99: str
    bad: int
    cpu_us: float
    """Processor time of the server per request: the figure that a busy machine spoils least."""


def wrk(pid: int, port: int, load: Load, connections: int, seconds: float, folder: Path) -> Figures:
    """Run wrk once, after a short warm-up."""
    script = folder / "load.lua"
    fields = {"Authorization": f"Bearer {KEY}", "Content-Type": load.content_type}
    headers = "".join(f'wrk.headers["{name}"] = "{text}"\n' for name, text in fields.items())
    script.write_text(f'wrk.method = "POST"\nwrk.body = [==[{load.body.decode()}]==]\n{headers}', encoding="utf-8")
    url = f"http://127.0.0.1:{port}{load.path}"
    command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", "--latency", "-s", str(script)]
    subprocess.run([*command, f"-d{WARM_UP_SECONDS}s", url], check=True, capture_output=True)
    before = cpu_seconds(pid)
    text = subprocess.run([*command, f"-d{seconds:g}s", url], check=True, capture_output=True, text=True).stdout
    used = cpu_seconds(pid) - before
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return Figures(
        float(_find(r"Requests/sec:\s+([\d.]+)", text)),
        _find(r"\n\s+50%\s+(\S+)", text),
        _find(r"\n\s+99%\s+(\S+)", text),
        int(bad[1]) if bad else 0,
        used * 1e6 / int(_find(r"(\d+) requests in", text)),
    )


def cpu_seconds(pid: int) -> float:
    """Processor time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"wrk said: {text}")
    return found[1]


@contextmanager
def pinned(guard: Guard, command: Sequence[str], env: dict[str, str], folder: Path, port: int) -> Iterator[int]:
    """A server on its core; its process id."""
    child = Child(guard, ["taskset", "-c", SERVER_CORE, *command], folder / "server.log", env)
    try:
        wait_until(lambda: accepts(port), child, command[2])
        yield child.pid
    finally:
        child.stop()


def pin(pid: int, core: str) -> None:
    """Keep all threads of a running process on one core."""
    command = ["taskset", "-acp", core, str(pid)]
    subprocess.run(command, check=True, capture_output=True)


def asgi_command(application: str, port: int) -> list[str]:
    """The same server settings for every baseline."""
    options = ["--no-access-log", "--log-level", "warning", "--loop", "uvloop", "--http", "httptools"]
    return [sys.executable, "-m", "uvicorn", application, "--port", str(port), *options]


def rows(guard: Guard, brokers: LocalBrokers, folder: Path, seconds: float) -> Iterator[tuple[str, int, Load, Figures]]:
    """Every measurement, one after the other: (name, connections, load, figures)."""
    service = ApiService(brokers.bootstrap, Names("bench"), folder, guard)
    asyncio.run(service.prepare())
    asyncio.run(service.put([service.key_entry("bench", KEY, rate_limit=RATE_LIMIT)]))
    kafka = {"CLICKLEDGER_KAFKA_BOOTSTRAP": brokers.bootstrap, "CLICKLEDGER_TOPIC_RAW": service.kafka.topic_raw}
    env = clean_env() | kafka
    port = free_ports(1)[0]
    baselines = {
        "bare ASGI, no Kafka, no checks": asgi_command("bench.baselines.bare_asgi:app", port),
        "bare fast lane, no Kafka, no checks": [sys.executable, "-m", "bench.baselines.bare_lane", str(port)],
        "tutorial: FastAPI, pydantic, send_and_wait": asgi_command("bench.baselines.tutorial_api:app", port),
    }
    for name, command in baselines.items():
        with pinned(guard, command, env, folder, port) as pid:
            yield name, 64, SINGLE, wrk(pid, port, SINGLE, 64, seconds, folder)
    service.start()
    try:
        assert service.child is not None
        pin(service.child.pid, SERVER_CORE)
        for connections, load in ((64, SINGLE), (1, SINGLE), (16, MANY)):
            name = "clickledger" if load is SINGLE else f"clickledger, batches of {load.clicks}"
            yield name, connections, load, wrk(service.child.pid, service.port, load, connections, seconds, folder)
    finally:
        service.stop()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement (default 4)")
    seconds = max(1.0, min(60.0, parser.parse_args().seconds))
    if shutil.which("wrk") is None or (os.cpu_count() or 1) < 2:
        raise SystemExit("bench.api needs wrk (apt install wrk) and two cores")
    print(
        f"{'':44}{'conns':>6}{'requests/s':>12}{'clicks/s':>10}{'p50':>10}{'p99':>10}{'ratio':>7}{'cpu us/click':>14}{'bad':>5}"
    )
    guard = Guard()
    try:
        with tempfile.TemporaryDirectory() as name:
            brokers = LocalBrokers(guard, Path(name) / "kafka")
            pin(brokers.pid(), LOAD_CORE)
            try:
                _print(rows(guard, brokers, Path(name), seconds))
            finally:
                brokers.close()
    finally:
        guard.close()


def _print(measured: Iterator[tuple[str, int, Load, Figures]]) -> None:
    bare = 0.0
    for name, connections, load, found in measured:
        bare = bare or found.requests
        clicks = found.requests * load.clicks
        print(
            f"{name:44}{connections:6}{found.requests:12,.0f}{clicks:10,.0f}{found.p50:>10}{found.p99:>10}"
            f"{clicks / bare:7.2f}{found.cpu_us / load.clicks:14.1f}{found.bad:5}",
            flush=True,
        )


if __name__ == "__main__":
    main()
