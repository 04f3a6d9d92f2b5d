"""The API with as many, twice, eight and 32 times as many requests at once as it takes: rate, latency, refusals, memory.

Run: .venv/bin/python -m bench.overload [--seconds 10]. Needs wrk. Server pinned to core 0, load and broker to core 1. wrk waits
for each answer before it asks again, so the requests at once are its connections; a refusal is asked again at once.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.api import KEY, LOAD_CORE, RATE_LIMIT, SERVER_CORE, SINGLE, Figures, pin, wrk
from clickledger.stack.guard import Guard
from tests.support.api_service import ApiService
from tests.support.brokers import LocalBrokers
from tests.support.crowd import resident_mib
from tests.support.stack import Names

AT_ONCE = (64, 128, 512, 2_048)
BOUNDED = {"api_pending_clicks_max": "64"}
"""As a Kafka that takes 64 clicks at once would have it: the others are refused."""


def measure(
    guard: Guard, brokers: LocalBrokers, folder: Path, seconds: float, settings: dict[str, str]
) -> Iterator[tuple[int, Figures, int, int]]:
    """(requests at once, figures, MiB before, MiB after) of one API process."""
    folder.mkdir()
    service = ApiService(brokers.bootstrap, Names(f"overload-{len(settings)}"), folder, guard, **settings)
    asyncio.run(service.prepare())
    asyncio.run(service.put([service.key_entry("bench", KEY, rate_limit=RATE_LIMIT)]))
    service.start()
    try:
        assert service.child is not None
        pid = service.child.pid
        pin(pid, SERVER_CORE)
        for count in AT_ONCE:
            before = resident_mib(pid)
            figures = wrk(pid, service.port, SINGLE, count, seconds, folder)
            yield count, figures, before, resident_mib(pid)
    finally:
        service.stop()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0)
    seconds = parser.parse_args().seconds
    guard = Guard()
    with tempfile.TemporaryDirectory() as scratch:
        brokers = LocalBrokers(guard, Path(scratch) / "kafka")
        pin(brokers.pid(), LOAD_CORE)
        try:
            print("| limits | at once | requests/s | p50 | p99 | refused | MiB before, after |")
            print("|---|---|---|---|---|---|---|")
            for name, settings in (("default", {}), ("64 clicks may wait", BOUNDED)):
                for count, found, before, after in measure(guard, brokers, Path(scratch) / name, seconds, settings):
                    total = int(found.requests * seconds)
                    refused = f"{100 * found.bad / max(1, total):.0f} %"
                    figures = f"{found.requests:,.0f} | {found.p50} | {found.p99} | {refused}"
                    print(f"| {name} | {count:,} | {figures} | {before}, {after} |", flush=True)
        finally:
            brokers.close()
            guard.close()


if __name__ == "__main__":
    main()
