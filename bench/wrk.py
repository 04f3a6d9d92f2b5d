"""The load generator wrk: closed loop, many connections, no Python in the way."""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.fill import KEY, address_of, agent_of, link_of
from bench.machine import LOAD_CORE, cpu_seconds
from tests.support.api_service import BATCH, CLICKS

BODIES = 2_000
BATCH_BODIES = 50
ENDING_S = 30.0
_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
_SCRIPT = """
local bodies = {}
local at = 0
init = function()
  for line in io.lines("FILE") do
    if LINES > 1 then line = line:gsub("\\t", "\\n") end
    bodies[#bodies + 1] = wrk.format("POST", "PATH", {
      ["Authorization"] = "Bearer KEY", ["Content-Type"] = "TYPE", ["X-Request-Id"] = TRACED and tostring(#bodies) or nil }, line)
  end
end
request = function()
  at = at % #bodies + 1
  return bodies[at]
end
"""


class Load(NamedTuple):
    """One way of asking."""

    path: str
    content_type: str
    bodies: Sequence[str]
    clicks: int
    """of one request"""
    traced: bool = False
    """each request has a header field of its own, as behind a proxy that traces: no head comes twice in a row"""


class Seen(NamedTuple):
    """What wrk saw, and what the server's processes needed for it."""

    clicks_per_second: float
    p50_ms: float
    p99_ms: float
    good: int
    """clicks answered with 200"""
    bad: int
    """other answers"""
    cpu_us: float
    """processor time of the server a click"""


def clicks(links: int, count: int = BODIES, seed: int = 1) -> list[str]:
    """Bodies of clicks on links spread over all that are registered, from 200 agents."""
    rng = random.Random(seed)
    return [
        json.dumps(
            {
                "short-url": f"http://{link_of(rng.randrange(links))}",
                "user-agent": agent_of(rng.randrange(200)),
                "ip-address": address_of(rng.randrange(1 << 20)),
            }
        )
        for _ in range(count)
    ]


def single(links: int) -> Load:
    """One click a request."""
    return Load(CLICKS, "application/json", clicks(links), 1)


def batches(links: int, size: int = 100) -> Load:
    """So many clicks a request, as lines."""
    lines = clicks(links, BATCH_BODIES * size)
    return Load(
        BATCH, "application/x-ndjson", ["\t".join(lines[n : n + size]) for n in range(0, len(lines), size)], size
    )


def run(load: Load, port: int, connections: int, seconds: float, pids: Sequence[int], folder: Path) -> Seen:
    """Ask for so many seconds. `pids`: the server's processes. Raises RuntimeError with wrk's words."""
    bodies, script = folder / "bodies.txt", folder / "load.lua"
    bodies.write_text("\n".join(load.bodies) + "\n", encoding="utf-8")
    text = _SCRIPT
    filled = {"FILE": str(bodies), "LINES": str(load.clicks), "PATH": load.path, "KEY": KEY, "TYPE": load.content_type}
    filled["TRACED"] = str(load.traced).lower()
    for name, value in filled.items():
        text = text.replace(name, value)
    script.write_text(text, encoding="utf-8")
    command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", "--latency", "-s", str(script)]
    command += ["--timeout", "10s", f"-d{max(1, round(seconds))}s", f"http://127.0.0.1:{port}{load.path}"]
    before = cpu_seconds(pids)
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + ENDING_S, check=False)
    used = cpu_seconds(pids) - before
    if done.returncode:
        raise RuntimeError(f"wrk ended with {done.returncode}: {done.stdout}{done.stderr}")
    return read(done.stdout, load.clicks, used)


def read(text: str, clicks_each: int, cpu_s: float) -> Seen:
    """What wrk said, as figures. Raises RuntimeError for other words."""
    requests = int(_find(r"(\d+) requests in", text)[1])
    found = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    bad = int(found[1]) if found else 0
    good = (requests - bad) * clicks_each
    rate = float(_find(r"Requests/sec:\s+([\d.]+)", text)[1]) * clicks_each * (1 - bad / max(1, requests))
    return Seen(rate, _ms("50%", text), _ms("99%", text), good, bad, cpu_s * 1e6 / max(1, good))


def _ms(level: str, text: str) -> float:
    found = _find(rf"\n\s+{level}\s+([\d.]+)(us|ms|s|m)\b", text)
    return float(found[1]) * _MS[found[2]]


def _find(pattern: str, text: str) -> re.Match[str]:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"wrk said: {text}")
    return found
