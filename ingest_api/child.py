"""A worker process of several: `python -m ingest_api.child LISTENER CONTROL`, two inherited file descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import uvloop

from ingest_api.config import METRICS_VARIABLE, ServiceSettings
from ingest_api.worker import Worker
from shared.errors import ClickledgerError
from shared.runtime import Runtime, configure_logging, take_place

log = logging.getLogger(__name__)

REPORT_EVERY_S: Final = 0.2


def main(listener_fd: int, control_fd: int) -> int:
    """Serve until SIGTERM, SIGINT or the parent's end; the exit code."""
    try:
        settings = ServiceSettings.load()
        configure_logging("api", settings.runtime.log_level)
        return uvloop.run(_serve(settings, listener_fd, control_fd))
    except ClickledgerError as exc:
        log.critical("%s", exc)
        return 1


async def _serve(settings: ServiceSettings, listener_fd: int, control_fd: int) -> int:
    runtime = Runtime("api", settings.runtime)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, runtime.stopping.set)
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=control_fd))
    watching = asyncio.create_task(_watch_parent(runtime, reader))
    reporting = asyncio.create_task(_report(runtime, writer))
    working = asyncio.create_task(_work(runtime, settings, listener_fd))
    await asyncio.wait([working, asyncio.ensure_future(runtime.stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        await asyncio.wait([working], timeout=settings.runtime.stop_deadline_ms / 1000)
    if not working.done():
        log.error("not stopped within %d ms, leaving all the same", settings.runtime.stop_deadline_ms)
        os._exit(1)
    watching.cancel()
    reporting.cancel()
    working.result()
    return 0


async def _work(runtime: Runtime, settings: ServiceSettings, listener_fd: int) -> None:
    with socket.socket(fileno=listener_fd) as listener:
        worker = Worker(runtime, settings)
        _take_place_for_counters()
        await worker.run(listener, follow=False)


def _take_place_for_counters() -> None:
    """The library maps a file for each kind of them."""
    for path in Path(os.environ[METRICS_VARIABLE]).glob(f"*_{os.getpid()}.db"):
        with path.open("r+b") as file:
            take_place(file)


async def _watch_parent(runtime: Runtime, reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        await reader.read(1)
    runtime.stopping.set()


async def _report(runtime: Runtime, writer: asyncio.StreamWriter) -> None:
    """Say again and again why it is not ready: the parent takes silence for a worker that hangs."""
    with contextlib.suppress(OSError):
        while True:
            why = "; ".join(runtime.why_not_ready()) if runtime.checks else "starting"
            writer.write(json.dumps(why).encode() + b"\n")
            await writer.drain()
            await asyncio.sleep(REPORT_EVERY_S)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
