"""Single clicks a second of the API beside the tutorial's way, a bare fast lane and a bare ASGI handler, on a real broker.

The servers stand side by side on core 0, and take turns; load and broker have core 1. Every answer of ours waited for the
acknowledgement of all replicas, and after each turn the records in the topic are counted: one for each 200, and no more than
those that wrk left behind at its end.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench import fill, open_loop, wrk
from bench.machine import SERVER_CORE
from bench.part import Recorder, main
from bench.stack import World, stores
from clickledger.stack.ports import free_ports
from tests.support.api_service import CLICKS
from tests.support.full_stack import clean_env
from tests.support.health import metric
from tests.support.processes import Child, accepts, wait_until

LINKS, QUICK_LINKS = 1_000_000, 50_000
WARM_UP_S = 1.0
SHARE_OF_LOAD = 0.7
FIXED_RATE_MAX = 5_000
"""Requests a second that the open loop's driver can hold with the broker on its core."""
SETTLE_S, SETTLED_S_MAX = 0.3, 15.0
"""A look at the records after a turn, and how long a spool may take to be published."""
LATE_MS_MAX = 5.0
"""A driver that is later than this with one request in a hundred has not held its rate."""


class Server(NamedTuple):
    """Something that answers, and the topic to which it writes."""

    port: int
    pids: list[int]
    world: World | None


@contextmanager
def baseline(world: World, name: str, *, writes: bool) -> Iterator[Server]:
    """One of the baselines, pinned."""
    (port,) = free_ports(1)
    options = ["--no-access-log", "--log-level", "warning", "--loop", "uvloop", "--http", "httptools"]
    module = f"bench.baselines.{name}"
    command = [sys.executable, "-m", "uvicorn", f"{module}:app", "--port", str(port), *options]
    if name == "bare_lane":
        command = [sys.executable, "-m", module, str(port)]
    log = world.folder / f"{name}.log"
    child = Child(world.guard, ["taskset", "-c", SERVER_CORE, *command], log, {**clean_env(), **world.env})
    try:
        wait_until(lambda: accepts(port), child, name)
        yield Server(port, [child.pid], world if writes else None)
    finally:
        child.kill()


@contextmanager
def api(world: World, **settings: str) -> Iterator[Server]:
    """Our API, pinned."""
    child = world.start("api", SERVER_CORE, api_port="0", **settings)
    try:
        port = int((world.data / "health" / f"api-http-{child.pid}").read_text(encoding="ascii"))
        yield Server(port, [child.pid], world)
    finally:
        child.stop()


def ask(server: Server, load: wrk.Load, connections: int, seconds: float, folder: Path) -> wrk.Seen:
    """One turn of one server; its records are counted."""
    before = _records(server)
    seen = wrk.run(load, server.port, connections, seconds, server.pids, folder)
    if seen.bad:
        raise RuntimeError(f"{seen.bad} answers that are no 200")
    check(server, before, seen.good, spare=2 * connections * load.clicks)
    return seen


def check(server: Server, before: int, good: int, spare: int) -> None:
    """Each 200 must be a record. `spare`: requests whose answer the load did not wait for are records, too.

    Where Kafka took longer than a second, clicks went through the spool, and may be there twice (suspects).
    """
    if server.world is None:
        return
    deadline = time.monotonic() + SETTLED_S_MAX
    time.sleep(SETTLE_S)
    while (made := _records(server) - before) < good and time.monotonic() < deadline:
        time.sleep(SETTLE_S)
    spooled = metric(server.world.data, "api", server.pids[0], "clickledger_api_spooled_clicks_total")
    if not good <= made <= good + spare + spooled:
        raise RuntimeError(f"{good} clicks were answered with 200, {made} records were made, {spooled:.0f} spooled")


def _records(server: Server) -> int:
    return 0 if server.world is None else server.world.records(server.world.kafka.topic_raw)


def rates(recorder: Recorder, world: World, load: wrk.Load, seconds: float) -> float:
    """All servers in turn, with 64 and with 512 connections; our clicks a second with 64."""
    found: dict[tuple[str, int], list[wrk.Seen]] = {}
    traced: list[wrk.Seen] = []
    with ExitStack() as running:
        servers = {
            name: running.enter_context(baseline(world, name, writes=name == "tutorial_api"))
            for name in ("bare_asgi", "bare_lane", "tutorial_api")
        }
        servers["clickledger"] = running.enter_context(api(world))
        turns = [("bare_asgi", 64)]
        turns += [(name, count) for count in (64, 512) for name in ("bare_lane", "tutorial_api", "clickledger")]
        for name, count in turns:
            wrk.run(load, servers[name].port, count, WARM_UP_S, servers[name].pids, world.folder)
        for _ in range(recorder.repetitions):
            for name, count in turns:
                seen = ask(servers[name], load, count, seconds, world.folder)
                found.setdefault((name, count), []).append(seen)
            traced.append(ask(servers["clickledger"], load._replace(traced=True), 64, seconds, world.folder))

    def per_second(name: str, count: int) -> list[float]:
        return [seen.clicks_per_second for seen in found[name, count]]

    def cpu(name: str) -> list[float]:
        return [seen.cpu_us for seen in found[name, 64]]

    recorder.figure("bare ASGI, 64 connections", per_second("bare_asgi", 64))
    for count in (64, 512):
        lane, tutorial = per_second("bare_lane", count), per_second("tutorial_api", count)
        ours = per_second("clickledger", count)
        recorder.figure(f"bare fast lane, {count} connections", lane)
        recorder.figure(f"tutorial, {count} connections", tutorial)
        recorder.figure(f"single click, {count} connections", ours, tutorial)
        recorder.figure(f"single click, {count} connections: of the lane", ours, lane)
    recorder.figure("single click, 64 connections, heads all different", [seen.clicks_per_second for seen in traced])
    recorder.figure("single click, heads all different: CPU", [seen.cpu_us for seen in traced], cpu("clickledger"))
    recorder.figure("tutorial: CPU", cpu("tutorial_api"))
    recorder.figure("single click: CPU", cpu("clickledger"), cpu("tutorial_api"))
    return statistics.median(per_second("clickledger", 64))


def latencies(recorder: Recorder, world: World, load: wrk.Load, seconds: float, rate_max: float) -> None:
    """At a fixed rate, and with one connection on an idle machine."""
    with api(world) as server:
        wrk.run(load, server.port, 64, WARM_UP_S, server.pids, world.folder)
        with recorder.attempt("the fixed rate"):
            fixed(recorder, server, load, seconds, rate_max)
        with recorder.attempt("one connection"):
            alone = [ask(server, load, 1, seconds, world.folder) for _ in range(recorder.repetitions)]
            recorder.figure("1 connection: p50", [seen.p50_ms for seen in alone])
            recorder.figure("1 connection: p99", [seen.p99_ms for seen in alone])


def fixed(recorder: Recorder, server: Server, load: wrk.Load, seconds: float, rate_max: float) -> None:
    """Open loop; the driver must have kept its schedule."""
    assert server.world is not None
    rate = round(min(FIXED_RATE_MAX, SHARE_OF_LOAD * rate_max))
    held = []
    for _ in range(recorder.repetitions):
        before = _records(server)
        found = open_loop.hold(server.port, CLICKS, load.bodies, rate, seconds, server.world.folder)
        if found.sent != found.good:
            raise RuntimeError(f"{found.sent - found.good} of {found.sent} answers are no 200")
        check(server, before, found.good, spare=0)
        held.append(found)
    late = max(found.late_p99_ms for found in held)
    note = f"open loop, {rate:,}/s, {rate / rate_max:.0%} of the closed loop's rate; driver late by {late:.1f} ms (p99)"
    recorder.figure("fixed rate below 80 % load: p50", [found.p50_ms for found in held], note=note)
    recorder.figure("fixed rate below 80 % load: p99", [found.p99_ms for found in held])
    name = "fixed rate below 80 % load: p99 beyond 2 x p50"
    if late > LATE_MS_MAX:
        recorder.skip(name, f"the driver did not hold its rate; {note}")
    else:
        recorder.figure(name, [found.p99_ms - 2 * found.p50_ms for found in held])


@contextmanager
def with_links(recorder: Recorder, name: str) -> Iterator[tuple[World, int]]:
    """A world of its own, with the broker pinned, a tenant and its links; and how many links."""
    links = recorder.scale(LINKS, QUICK_LINKS)
    with stores() as found:
        found.pin_broker()
        world = found.world(name)
        asyncio.run(fill.put_tenant(world.kafka))
        asyncio.run(fill.put_links(world.kafka, 0, links))
        yield world, links


def measure(recorder: Recorder) -> None:
    """Everything about single clicks."""
    with with_links(recorder, "api") as (world, links):
        load = wrk.single(links)
        rate = rates(recorder, world, load, recorder.scale(4.0, 1.0))
        latencies(recorder, world, load, recorder.scale(5.0, 1.5), rate)


if __name__ == "__main__":
    main("api", measure, __doc__)
