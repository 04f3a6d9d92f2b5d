"""The API with as many, twice, eight and 32 times as many requests at once as it takes: rate, latency, refusals, memory.

Run: .venv/bin/python -m bench.overload [--seconds 10]. Needs wrk; no part of `make bench`. Server pinned to core 0, load and
broker to core 1. wrk waits for each answer before it asks again, so the requests at once are its connections; a refusal is asked again at once.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator

from bench import fill, wrk
from bench.api import WARM_UP_S, api
from bench.machine import rss_mb
from bench.stack import World, stores

AT_ONCE = (64, 128, 512, 2_048)
LINKS = 1_000
BOUNDED = {"api_pending_clicks_max": "64"}
"""As a Kafka that takes 64 clicks at once would have it: the others are refused."""


def measure(world: World, seconds: float, settings: dict[str, str]) -> Iterator[tuple[int, wrk.Seen, float, float]]:
    """(requests at once, figures, MB before, MB after) of one API process."""
    load = wrk.single(LINKS)
    with api(world, **settings) as server:
        (pid,) = server.pids
        wrk.run(load, server.port, 64, WARM_UP_S, server.pids, world.folder)
        for count in AT_ONCE:
            before = rss_mb(pid)
            yield count, wrk.run(load, server.port, count, seconds, server.pids, world.folder), before, rss_mb(pid)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0)
    seconds = parser.parse_args().seconds
    with stores() as found:
        found.pin_broker()
        world = found.world("overload")
        asyncio.run(fill.put_tenant(world.kafka))
        asyncio.run(fill.put_links(world.kafka, 0, LINKS))
        print("| limits | at once | clicks/s | p50 ms | p99 ms | refused | MB before, after |")
        print("|---|---|---|---|---|---|---|")
        for name, settings in (("default", {}), ("64 clicks may wait", BOUNDED)):
            for count, seen, before, after in measure(world, seconds, settings):
                refused = f"{seen.bad / max(1, seen.good + seen.bad):.0%}"
                figures = f"{seen.clicks_per_second:,.0f} | {seen.p50_ms:.1f} | {seen.p99_ms:.1f} | {refused}"
                print(f"| {name} | {count:,} | {figures} | {before:.0f}, {after:.0f} |", flush=True)


if __name__ == "__main__":
    main()
