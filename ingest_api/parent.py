"""The parent of several worker processes: binds, follows the catalog, serves health and metrics, restarts what dies or hangs.

Each worker has a listening socket of its own, on the same port, so that one that dies takes only its own connections with
it. Each holds one end of a socket pair: through it it says many times a second why it is not ready, or that it is, and at
its end of file it stops, so that no worker outlives its parent. Counters lie in files, one per worker, that the parent sums up for `/metrics`;
what only it knows, how workers ended, it counts itself.

This module must not import the API's metrics: the parent's own copies would stand beside the sums.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from prometheus_client import REGISTRY, Counter
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from ingest_api.config import METRICS_VARIABLE, ServiceSettings
from ingest_api.listeners import Listeners
from shared.catalog import CatalogFollower
from shared.health_files import HealthFile
from shared.runtime import STOPPING, Runtime
from shared.tasks import end

log = logging.getLogger(__name__)

WORKER_MARK: Final = "api-worker"
RESTART_S_MIN: Final = 0.25
RESTART_S_MAX: Final = 5.0
HEALTHY_S: Final = 30.0
"""A worker that lived so long is restarted without a growing pause when it dies."""
LOOK_S: Final = 1.0
SILENT_LOOKS_MAX: Final = 10
"""A worker of which nothing was heard between so many looks hangs. Looks are counted, not seconds: a machine that was
suspended has not looked."""
START_LOOKS_MAX: Final = 60
"""The same for one that has not said anything yet."""


class WorkerEnd(StrEnum):
    """Why a worker is started again: a label of the counter."""

    DIED = "died"
    """It ended by itself, or was killed."""
    HUNG = "hung"
    """It had fallen silent, and was killed for it."""
    START_FAILED = "start_failed"
    """The machine gave no process, socket or memory for it."""


restarts = Counter("clickledger_api_worker_restarts", "Workers started again, by how the one before ended", ["reason"])
for _end in WorkerEnd:
    restarts.labels(_end)


class Parent:
    """Runs until told to stop."""

    def __init__(self, runtime: Runtime, settings: ServiceSettings, listener: socket.socket) -> None:
        self._runtime = runtime
        self._settings = settings
        self._listeners = Listeners(listener, settings.api.api_workers)
        folder = settings.runtime.data / "api"
        self._catalog_path = folder / "catalog"
        self._metrics = folder / "metrics"
        self._reasons: list[str] = ["not started"] * settings.api.api_workers
        self._hung: set[int] = set()
        """Workers that were killed for their silence and have not ended yet."""

    async def run(self) -> None:
        """Keep the workers until the runtime is to stop; each ends gracefully, within the deadline."""
        shutil.rmtree(self._metrics, ignore_errors=True)
        self._metrics.mkdir(parents=True)
        MultiProcessCollector(REGISTRY, path=str(self._metrics))  # type: ignore[no-untyped-call]
        self._runtime.checks.append(self._why_not_ready)
        follower = CatalogFollower(self._settings.catalog, self._settings.kafka, self._catalog_path)
        following = asyncio.create_task(follower.run())
        keeping = [asyncio.create_task(self._keep(number)) for number in range(self._settings.api.api_workers)]
        stopping = asyncio.create_task(self._runtime.stopping.wait())
        try:
            await asyncio.wait([following, stopping, *keeping], return_when=asyncio.FIRST_COMPLETED)
            self._runtime.stopping.set()
            self._listeners.close()  # the workers close theirs
            await asyncio.gather(*keeping)
        finally:
            await end(following, stopping)
        if not following.cancelled():
            following.result()

    def _why_not_ready(self) -> str:
        return "; ".join(f"worker {number}: {why}" for number, why in enumerate(self._reasons) if why)

    async def _keep(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        pause_s = RESTART_S_MIN
        while not self._runtime.stopping.is_set():
            started = loop.time()
            how, why = await self._run_once(number)
            if self._runtime.stopping.is_set():
                return
            self._reasons[number] = why
            restarts.labels(how).inc()
            pause_s = RESTART_S_MIN if loop.time() - started > HEALTHY_S else min(RESTART_S_MAX, pause_s * 2)
            log.error("worker %d %s, starting it again in %.2f s", number, why, pause_s)
            await self._runtime.pause(pause_s)

    async def _run_once(self, number: int) -> tuple[WorkerEnd, str]:
        """One life of a worker; how it ended."""
        try:
            process, ours = await self._start(number)
        except OSError as exc:
            self._listeners.end(number)
            return WorkerEnd.START_FAILED, f"cannot be started: {exc}"
        mark = HealthFile(self._settings.runtime.data, WORKER_MARK, process.pid)  # for the local stack
        reader, writer = await asyncio.open_connection(sock=ours)
        hearing = asyncio.create_task(self._hear(number, reader, process))
        stopping = asyncio.create_task(self._runtime.stopping.wait())
        ending = asyncio.create_task(process.wait())
        await asyncio.wait([ending, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            process.send_signal(signal.SIGTERM)
        status = await ending
        self._listeners.end(number)
        mark.close()
        stopping.cancel()
        hearing.cancel()
        writer.close()
        mark_process_dead(process.pid, path=str(self._metrics))  # type: ignore[no-untyped-call]
        how = WorkerEnd.HUNG if number in self._hung else WorkerEnd.DIED
        self._hung.discard(number)
        return how, f"ended with status {status}"

    async def _start(self, number: int) -> tuple[asyncio.subprocess.Process, socket.socket]:
        """The process of a worker and our end of its socket pair. Raises OSError."""
        listener = self._listeners.of(number)
        ours, theirs = socket.socketpair()
        fds = (listener.fileno(), theirs.fileno())
        command = (sys.executable, "-m", "ingest_api.child", *map(str, fds))
        with theirs, contextlib.ExitStack() as unused:
            unused.enter_context(ours)
            process = await asyncio.create_subprocess_exec(*command, pass_fds=fds, env=self._environment())
            unused.pop_all()
        return process, ours

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, METRICS_VARIABLE: str(self._metrics)}

    async def _hear(self, number: int, reader: asyncio.StreamReader, process: asyncio.subprocess.Process) -> None:
        """Each line is a JSON text: why the worker is not ready, or empty. One that falls silent is killed.

        It would be given connections for ever, and what it has locked others wait for.
        """
        has_begun, silent = False, 0
        while silent < (SILENT_LOOKS_MAX if has_begun or self._runtime.stopping.is_set() else START_LOOKS_MAX):
            try:
                async with asyncio.timeout(LOOK_S):
                    line = await reader.readline()
            except TimeoutError:
                silent += 1
                continue
            if not line:
                return
            has_begun, silent = True, 0
            self._reasons[number] = json.loads(line)
            if self._reasons[number] == STOPPING:  # by itself: it accepts no more
                self._listeners.end(number)
        log.error("worker %d hangs, killing it", number)
        self._hung.add(number)
        self._listeners.end(number, hangs=True)
        process.kill()
