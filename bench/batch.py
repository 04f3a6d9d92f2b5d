"""Batches of 100 clicks, what a second worker costs, and the API's memory with all links and over millions of clicks.

Server on core 0, load and broker on core 1; with two workers there is no core to spare, so processor time a click is compared.
"""

from __future__ import annotations

from pathlib import Path

from bench import wrk
from bench.api import LINKS, QUICK_LINKS, WARM_UP_S, Server, api, ask, with_links
from bench.machine import pss_mb
from bench.part import Recorder, main
from bench.stack import World
from clickledger.stack.layout import worker_pids

CONNECTIONS = 16
FLAT_CLICKS, QUICK_FLAT_CLICKS = 3_000_000, 100_000
FLAT_S_MAX = 120.0


def measure(recorder: Recorder) -> None:
    """Everything about batches, workers and memory."""
    seconds = recorder.scale(4.0, 1.0)
    with with_links(recorder, "batch") as (world, links):
        many, one = wrk.batches(links), wrk.single(links)
        with api(world) as server:
            with recorder.attempt("batches"):
                batches(recorder, server, many, seconds, world.folder)
            with recorder.attempt("memory"):
                memory(recorder, server, many, one, world.folder)
        with recorder.attempt("workers"):
            workers(recorder, world, one, seconds)


def batches(recorder: Recorder, server: Server, load: wrk.Load, seconds: float, folder: Path) -> None:
    """Clicks a second in batches."""
    wrk.run(load, server.port, CONNECTIONS, WARM_UP_S, server.pids, folder)
    seen = [ask(server, load, CONNECTIONS, seconds, folder) for _ in range(recorder.repetitions)]
    recorder.figure("batches of 100", [each.clicks_per_second for each in seen])
    recorder.figure("batches of 100: CPU", [each.cpu_us for each in seen])


def memory(recorder: Recorder, server: Server, many: wrk.Load, one: wrk.Load, folder: Path) -> None:
    """`Pss`, which counts pages of the memory-mapped catalog that are in use by this process."""
    (pid,) = server.pids
    wrk.run(one, server.port, 64, 2.0, server.pids, folder)
    recorder.figure("memory with all links: Pss", [pss_mb(pid)], note=f"{recorder.scale(LINKS, QUICK_LINKS):,} links")
    wanted = recorder.scale(FLAT_CLICKS, QUICK_FLAT_CLICKS)
    ask(server, many, CONNECTIONS, recorder.scale(5.0, 1.0), folder)
    before, taken, spent = pss_mb(pid), 0, 0.0
    while taken < wanted and spent < FLAT_S_MAX:
        step_s = recorder.scale(5.0, 1.0)
        taken += ask(server, many, CONNECTIONS, step_s, folder).good
        spent += step_s
    recorder.figure("memory after more clicks: Pss", [pss_mb(pid)], [before], f"{taken:,} clicks more")


def workers(recorder: Recorder, world: World, load: wrk.Load, seconds: float) -> None:
    """Processor time a click with one worker process and with two, which share the connections."""
    found: dict[tuple[int, int], list[float]] = {(count, at): [] for count in (1, 2) for at in (64, 512)}
    for _ in range(recorder.repetitions):
        for count in (1, 2):
            with api(world, api_workers=str(count)) as server:
                pids = [*server.pids, *worker_pids(world.data, "api")]
                both = server._replace(pids=pids)
                wrk.run(load, both.port, 64, WARM_UP_S, pids, world.folder)
                for at in (64, 512):
                    found[count, at].append(ask(both, load, at, seconds, world.folder).cpu_us)
    recorder.figure("1 worker: CPU", found[1, 64])
    recorder.figure(
        "2 workers: CPU", found[2, 64], found[1, 64], "the parent process included, all on the server's core"
    )
    recorder.figure("2 workers, 512 connections: CPU", found[2, 512], found[1, 512])


if __name__ == "__main__":
    main("batch", measure, __doc__)
