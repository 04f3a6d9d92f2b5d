"""How long `clickledger up` takes to be ready with a million links on its disk, and a killed service to serve again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from bench.api import LINKS, QUICK_LINKS
from bench.full import Full, full_stack
from bench.part import Recorder, main
from tests.support.clickhouse import http_ok
from tests.support.pipeline import health_port

SERVES_S_MAX = 60.0
HEALTHY_S = 31.0
"""The supervisor waits longer before each start of a service that has just died; after so long a life it begins anew."""
POLL_S = 0.01


def measure(recorder: Recorder) -> None:
    """Starts, then restarts."""
    links = recorder.scale(LINKS, QUICK_LINKS)
    with full_stack(links) as full:
        with recorder.attempt("up"):
            times = []
            for _ in range(recorder.repetitions):
                full.stack.stop()
                began = time.monotonic()
                full.stack.start()
                times.append(time.monotonic() - began)
                if not full.takes(links - 1):
                    raise RuntimeError("the last link is not known after the start")
            recorder.figure("clickledger up, warm, all links", times, note=f"{links:,} links")
        found: dict[str, list[float]] = {"API": [], "enricher": [], "sink": [], "reporting": []}
        for number in range(recorder.repetitions):
            if number:
                time.sleep(HEALTHY_S)
            for name, taken in found.items():
                with recorder.attempt(f"killing {name}"):
                    taken.append(restart(full, name.lower(), links - 1))
        for name, taken in found.items():
            if taken:
                recorder.figure(f"{name}: killed until it serves again", taken)


def restart(full: Full, name: str, link: int) -> float:
    """Kill it with -9; seconds until its successor is ready, for the API: until it takes a click."""
    before = full.pid(name)
    os.kill(before, signal.SIGKILL)
    began = time.monotonic()
    serves = _ready_check(full, name)
    while not serves(before):
        if time.monotonic() - began > SERVES_S_MAX:
            raise TimeoutError(f"{name} does not serve {SERVES_S_MAX:.0f} s after it was killed")
        time.sleep(POLL_S)
    seconds = time.monotonic() - began
    if name == "api" and not full.takes(link):
        raise RuntimeError("the API is ready and does not take a click")
    return seconds


def _ready_check(full: Full, name: str) -> Callable[[int], bool]:
    def by_health(before: int) -> bool:
        pid = full.pid(name)
        port = health_port(full.stack, name, pid)
        return pid != before and port is not None and http_ok(port, "/readyz")

    def by_port(before: int) -> bool:
        url = full.stack.ready["api" if name == "api" else "reports"]
        return full.pid(name) != before and http_ok(urlsplit(url).port or 0, "/readyz")

    return by_port if name in ("api", "reporting") else by_health


if __name__ == "__main__":
    main("start", measure, __doc__)
