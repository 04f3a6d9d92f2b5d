"""Latency at a fixed rate: request n is due at start + n / rate whatever the server does, and its latency counts from then.

So a server that stalls cannot slow the load down and hide it (no coordinated omission). The loop wakes every
millisecond and sends what is due, on a connection that has no request under way; requests are bytes made beforehand, and
an answer is one that begins with `HTTP/1.1 200`. `late` tells whether the driver kept its schedule. It runs as a process of its own:
`python -m bench.open_loop PORT RATE SECONDS BODIES PATH OUT`, where each line of BODIES is a request's body
(a tabulator stands for the line's end between the clicks of a batch); OUT gets JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import uvloop

from bench.fill import KEY
from bench.machine import LOAD_CORE
from tests.support.api_service import BATCH

CONNECTIONS = 256
TICK_S = 0.001
PRIORITY = -10
ENDING_S = 10.0
WARM_UP_S = 1.0


class Held(NamedTuple):
    """What a run saw. Times in ms; `answers`: (transaction-id, time of its 200 in ms since the epoch)."""

    sent: int
    good: int
    p50_ms: float
    p99_ms: float
    late_p99_ms: float
    """how far behind its schedule the driver was; that all connections wait for the server is the server's latency"""
    rate: float
    """requests a second that were sent"""
    answers: list[tuple[str, float]]


class _Connection(asyncio.Protocol):
    """At most one request under way."""

    def __init__(self, driver: _Driver) -> None:
        self._driver = driver
        self._transport: asyncio.Transport | None = None
        self._due = 0.0
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._driver.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._driver.lost += 1
        if exc is not None:
            self._driver.problem = str(exc)

    def send(self, request: bytes, due: float) -> None:
        """Write a request that was due at `due`."""
        assert self._transport is not None
        self._due, self._head = due, b""
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._head += data
        head, separator, body = self._head.partition(b"\r\n\r\n")
        if separator and len(body) >= _length(head):
            self._driver.answered(self, self._due, head, body)

    def close(self) -> None:
        """Drop it."""
        if self._transport is not None:
            self._transport.abort()


def _length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.split(b"\r\n", 1)[0])


class _Driver:
    def __init__(self, requests: Sequence[bytes], rate: float, seconds: float) -> None:
        self.idle: deque[_Connection] = deque()
        self.lost = 0
        self.problem = ""
        self._requests, self._rate = requests, rate
        self._total = round(rate * seconds)
        self._warm = round(rate * min(WARM_UP_S, seconds / 4))
        self._sent = 0
        self._latencies: list[float] = []
        self._late: list[float] = []
        self._answers: list[tuple[str, float]] = []
        self._pending: deque[float] = deque()

    def answered(self, connection: _Connection, due: float, head: bytes, body: bytes) -> None:
        self._latencies.append(time.perf_counter() - due)
        if head.startswith(b"HTTP/1.1 200 "):
            self._answers.append((body[19:55].decode(), time.time() * 1000))
        if self._pending:  # it waited for a connection; its latency counts from when it was due all the same
            self._send(connection, self._pending.popleft())
        else:
            self.idle.append(connection)

    def _send(self, connection: _Connection, due: float) -> None:
        connection.send(self._requests[self._sent % len(self._requests)], due)
        self._sent += 1

    async def run(self, port: int) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        made = [
            (await loop.create_connection(lambda: _Connection(self), "127.0.0.1", port))[1] for _ in range(CONNECTIONS)
        ]
        began = time.perf_counter()
        due_next = 0
        while due_next < self._total:
            now = time.perf_counter()
            while due_next < self._total and (due := began + due_next / self._rate) <= now:
                due_next += 1
                self._late.append(now - due)
                if self.idle:
                    self._send(self.idle.popleft(), due)
                else:
                    self._pending.append(due)
            await asyncio.sleep(TICK_S)
        spent = time.perf_counter() - began
        deadline = time.perf_counter() + ENDING_S
        while len(self._latencies) < self._total and time.perf_counter() < deadline and not self.lost:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for connection in made:
            connection.close()
        if self.lost or len(self._latencies) < self._total:
            raise RuntimeError(f"{self._total - len(self._latencies)} requests have no answer; {self.problem}")
        return self._figures(spent)

    def _figures(self, spent: float) -> dict[str, Any]:
        latencies, late = sorted(self._latencies[self._warm :]), sorted(self._late[self._warm :])
        return {
            "sent": self._sent,
            "good": len(self._answers),
            "p50_ms": latencies[len(latencies) // 2] * 1000,
            "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
            "late_p99_ms": late[len(late) * 99 // 100] * 1000,
            "rate": self._sent / spent,
            "answers": self._answers,
        }


def request_of(path: str, key: str, body: bytes, content_type: str) -> bytes:
    """The bytes of one request."""
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\nContent-Type: {content_type}\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Driver:
    """The driver as a process, begun at once."""

    def __init__(
        self, port: int, path: str, bodies: Sequence[str], rate: float, seconds: float, folder: Path, key: str = KEY
    ) -> None:
        self._out = folder / "open-loop.json"
        file = folder / "open-loop.txt"
        file.write_text("\n".join([key, *bodies]), encoding="utf-8")
        self._seconds = seconds
        command = ["taskset", "-c", LOAD_CORE, sys.executable, "-m", "bench.open_loop"]
        arguments = [str(port), str(rate), str(seconds), str(file), path, str(self._out)]
        self._process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)

    def wait(self) -> Held:
        """Its figures. Raises RuntimeError when a request got no answer."""
        try:
            _, words = self._process.communicate(timeout=self._seconds + 2 * ENDING_S)
        finally:
            self.close()
        if self._process.returncode:
            raise RuntimeError(f"the open loop: {words}")
        found = json.loads(self._out.read_text(encoding="utf-8"))
        return Held(**found)

    def close(self) -> None:
        """End it, however the measurement ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def hold(port: int, path: str, bodies: Sequence[str], rate: float, seconds: float, folder: Path) -> Held:
    """Send at a fixed rate and wait for the end."""
    return Driver(port, path, bodies, rate, seconds, folder).wait()


def main(port: str, rate: str, seconds: str, bodies: str, path: str, out: str) -> None:
    """One run."""
    key, *lines = Path(bodies).read_text(encoding="utf-8").split("\n")
    kind = "application/x-ndjson" if path == BATCH else "application/json"
    requests = [request_of(path, key, line.replace("\t", "\n").encode(), kind) for line in lines]
    driver = _Driver(requests, float(rate), float(seconds))
    with contextlib.suppress(PermissionError):  # so that the broker, which has the same core, does not make it late
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(driver.run(int(port)))
    Path(out).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
