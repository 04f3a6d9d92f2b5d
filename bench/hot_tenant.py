"""A small tenant's latency alone, and beside a tenant that sends nine tenths of the traffic, through the whole local stack.

Run: .venv/bin/python -m bench.hot_tenant [--rate 2000] [--seconds 8]. The last run floods: the large tenant sends as fast as answers
come, far beyond its rate limit. Latency is from when a click was due, not from when it could be sent.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from bench.simulation.real import local_stack
from clickledger.output import print_table
from tests.support.full_stack import FullStack
from tests.support.pipeline import audit_is_clean, command_env, succeed

SHARE: Final = 0.9
LEAD_S: Final = 1.5
"""How long the large tenant sends before the small one begins, and after it has ended."""
Row: TypeAlias = tuple[str, ...]
URL: Final = "http://go.example/{tenant}"


class Keys(NamedTuple):
    """Of the two tenants."""

    small: str
    large: str


def tenant(stack: FullStack, name: str, rate_limit: int) -> str:
    """Make a tenant with one link; its key."""
    succeed(stack, "tenants", "create", name, "--rate-limit", str(rate_limit))
    admin, key = (
        succeed(stack, "keys", "create", "--tenant", name, "--grants", grant).strip()
        for grant in ("admin", "shortlinkclicks")
    )
    links = Path(stack.folder) / f"{name}.csv"
    links.write_text(f"short_url,promotion_id\n{URL.format(tenant=name)},p\n", encoding="utf-8")
    succeed(stack, "links", "load", str(links), "--wait", "--key", admin)
    return key


def sending(
    stack: FullStack, name: str, key: str, rate: float, seconds: float, connections: int
) -> subprocess.Popen[str]:
    """Begin to send. Rate 0: as fast as answers come."""
    command = [sys.executable, "-m", "clickledger", "send", "--json", "--key", key, "--rate", str(rate)]
    command += ["--count", "0", "--duration", str(seconds), "--connections", str(connections)]
    command += ["--short-url", URL.format(tenant=name)]
    return subprocess.Popen(command, env=command_env(stack), stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What `clickledger send` says at its end."""
    output, _ = process.communicate(timeout=120)
    found: dict[str, Any] = json.loads(output)
    return found


def measure(stack: FullStack, keys: Keys, small_rate: float, large_rate: float | None, seconds: float) -> list[Row]:
    """One run; `large_rate` None: the small tenant alone. A row for each tenant."""
    flood = None
    if large_rate is not None:
        flood = sending(stack, "large", keys.large, large_rate, seconds + 2 * LEAD_S, 64)
        with suppress(subprocess.TimeoutExpired):
            flood.wait(LEAD_S)
    rows = [row("small", said(sending(stack, "small", keys.small, small_rate, seconds, 8)))]
    return rows if flood is None else [*rows, row("large", said(flood))]


def row(name: str, found: dict[str, Any]) -> Row:
    """What is shown of a tenant."""
    latency = found["latency_ms"]
    return (name, *(f"{latency[level]:.1f}" for level in ("p50", "p99", "max")), json.dumps(found["by_code"]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=2_000, help="clicks a second of both together (default 2,000)")
    parser.add_argument("--seconds", type=float, default=8, help="of each run (default 8)")
    asked = parser.parse_args()
    seconds, rate = max(2.0, min(60.0, asked.seconds)), max(20.0, min(20_000.0, asked.rate))
    with local_stack() as stack:
        keys = Keys(tenant(stack, "small", 10_000), tenant(stack, "large", round(rate * SHARE)))
        for title, large_rate in (("alone", None), ("beside nine tenths", rate * SHARE), ("beside a flood", 0.0)):
            found = measure(stack, keys, rate * (1 - SHARE), large_rate, seconds)
            print_table((title, "p50 ms", "p99 ms", "max ms", "answers"), found)
        audit_is_clean(stack)


if __name__ == "__main__":
    main()
