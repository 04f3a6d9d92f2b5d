"""Time from the API's 200 to a visible row, while 500 clicks a second go through the whole local stack.

Run: .venv/bin/python -m bench.freshness [--seconds 40]. Two measures. *Rows*: `inserted_at - received_at` of every
row, which is from before the Kafka acknowledgement to the start of the insert. *Seen*: a click is sent now and then, and
from its 200 on the table is asked for its transaction-id until it is there; what a caller would see, up to 20 ms late.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple
from urllib.parse import urlsplit

from clickledger.load.clicks import SINGLE_PATH
from clickledger.output import print_table
from clickledger.stack.guard import Guard
from tests.support.full_stack import FullStack
from tests.support.pipeline import audit_is_clean, command_env, query

RATE = 500
WARM_UP_S = 5
PROBE_EVERY_S = 0.25
POLL_S = 0.02
SEEN_S_MAX = 30.0
LEVELS = (50, 90, 99)


class Figure(NamedTuple):
    """Percentiles in ms, in the order of `LEVELS`, then the largest."""

    name: str
    clicks: int
    percentiles_ms: Sequence[float]


def report_click(stack: FullStack) -> str:
    """Send one click of its own; its transaction-id."""
    ready = stack.ready
    connection = http.client.HTTPConnection(urlsplit(ready["api"]).netloc, timeout=30)
    headers = {"Authorization": f"Bearer {ready['key']}", "Content-Type": "application/json"}
    try:
        connection.request("POST", SINGLE_PATH, json.dumps({"short-url": ready["short_url"]}), headers)
        return str(json.loads(connection.getresponse().read())["transaction-id"])
    finally:
        connection.close()


def seen_after_ms(stack: FullStack) -> float:
    """Report a click; ms from its 200 until a query finds its row. Raises TimeoutError."""
    transaction_id = report_click(stack)
    began = time.monotonic()
    recent = "received_at > now64(3) - INTERVAL 60 SECOND"
    sql = f"SELECT 1 AS found FROM clicks WHERE {recent} AND transaction_id = '{transaction_id}'"  # noqa: S608 our API's id
    while not query(stack, sql):
        if time.monotonic() - began > SEEN_S_MAX:
            raise TimeoutError(f"{transaction_id} is not in the table after {SEEN_S_MAX:.0f} s")
        time.sleep(POLL_S)
    return (time.monotonic() - began) * 1000


def of_rows(stack: FullStack, since_ms: int, until_ms: int) -> Figure:
    """The percentiles over all rows that were received in the period."""
    delay = "dateDiff('millisecond', received_at, inserted_at)"
    levels = ", ".join(f"{level / 100}" for level in LEVELS)
    period = f"received_at BETWEEN fromUnixTimestamp64Milli({since_ms}) AND fromUnixTimestamp64Milli({until_ms})"
    figures = f"count() AS rows, quantiles({levels})({delay}) AS some, max({delay}) AS most"
    (found,) = query(stack, f"SELECT {figures} FROM clicks WHERE {period}")  # noqa: S608 numbers of this module
    return Figure("rows: received to inserted", int(found["rows"]), [*found["some"], float(found["most"])])


def of_probes(delays_ms: Sequence[float]) -> Figure:
    """The percentiles over the clicks that were waited for."""
    hundredths = quantiles(delays_ms, n=100, method="inclusive")
    return Figure(
        "seen: 200 to found by a query", len(delays_ms), [*(hundredths[n - 1] for n in LEVELS), max(delays_ms)]
    )


def measure(stack: FullStack, seconds: float) -> list[Figure]:
    """Send at the fixed rate and measure meanwhile; the audit must be clean at the end."""
    clicks = round(RATE * (WARM_UP_S + seconds))
    command = [sys.executable, "-m", "clickledger", "send", "--rate", str(RATE), "--count", str(clicks), "--json"]
    sending = subprocess.Popen(command, env=command_env(stack), stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(WARM_UP_S)
        since_ms, ends = time.time_ns() // 1_000_000, time.monotonic() + seconds - 1
        delays_ms: list[float] = []
        while len(delays_ms) < 2 or time.monotonic() < ends:
            delays_ms.append(seen_after_ms(stack))
            time.sleep(PROBE_EVERY_S)
        until_ms = time.time_ns() // 1_000_000
        output, _ = sending.communicate(timeout=seconds + 60)
    finally:
        sending.kill()
        sending.wait()
    if sending.returncode:
        raise RuntimeError(f"`clickledger send` ended with {sending.returncode}: {output}")
    audit_is_clean(stack)
    return [of_rows(stack, since_ms, until_ms), of_probes(delays_ms)]


def show(figures: Sequence[Figure]) -> None:
    """Print the table."""
    print_table(
        ("freshness", "clicks", *(f"p{level} ms" for level in LEVELS), "max ms"),
        [(figure.name, figure.clicks, *(round(each) for each in figure.percentiles_ms)) for figure in figures],
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40, help="of the measurement (default 40)")
    seconds = max(5.0, min(600.0, parser.parse_args().seconds))
    guard = Guard()
    try:
        with tempfile.TemporaryDirectory(prefix="clickledger-bench-") as name:
            stack = FullStack(guard, Path(name))
            try:
                show(measure(stack, seconds))
            finally:
                stack.close()
    finally:
        guard.close()


if __name__ == "__main__":
    main()
