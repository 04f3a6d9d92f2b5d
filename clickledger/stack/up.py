"""`clickledger up`: starts the whole stack in order, keeps it running, stops it in order.

Order: brokers and ClickHouse, `setup`, the services beside tenant and keys, the ready file. Stopping: intake first, then
what works off, then ClickHouse and Kafka, each within its bound; a second Ctrl-C kills at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clickledger.login_link import NEW_KEY_S, make_login_link
from clickledger.stack import layout as layouts
from clickledger.stack import ready
from clickledger.stack.bootstrap import (
    DEFAULT_SHORT_URL,
    DEFAULT_TENANT,
    DEMO_SHORT_URL,
    DEMO_TENANT,
    ensure_tenant,
)
from clickledger.stack.guard import KILL_SECONDS, TERM_SECONDS, Guard
from clickledger.stack.jars import cache_folder, ensure_jars
from clickledger.stack.layout import SERVICES, Layout, Options
from clickledger.stack.output import Output
from clickledger.stack.supervisor import Service, Spec
from shared.errors import ClickledgerError, OperatorError, TransientError
from shared.health_files import FOLDER

if TYPE_CHECKING:
    from clickledger.setup import SetupSettings

_READY_SECONDS_MAX = 120.0  # a loaded machine with two cores; an idle one needs about ten
_SETUP_TRIES_MAX = 5
_WORKERS_POLL_SECONDS = 0.5

# Groups in the order in which they stop, and the seconds since the beginning after which one is killed. A part that is
# quick leaves its time to the next ones; all together stay below the 30 s that machines give at a shutdown.
_STOPPED_AFTER_S: tuple[tuple[Sequence[str], float], ...] = (
    (("api",), 8.0),
    (("enricher",), 13.0),
    (("sink", "reporting", "deliverer"), 18.0),
    (("clickhouse",), 22.0),
)
_ALL_STOPPED_AFTER_S = 26.0


async def up(options: Options, environ: Mapping[str, str], output: Output) -> int:
    """Run the stack until it is told to stop; gives the exit status.

    Raises OperatorError when it cannot start (folder in use, port taken), TransientError when something does not answer.
    """
    handle = await _take_folder(options.data)
    guard = Guard(lock_fd=handle)
    try:
        jars = await asyncio.to_thread(ensure_jars, cache_folder(environ), say=output.say)
        layout = layouts.lay_out(options, jars)
        return await _Stack(layout, environ, guard, output).run()
    finally:
        guard.close()
        os.close(handle)


async def _take_folder(data: Path) -> int:
    """Lock the folder; waits for the guard of a supervisor that was killed a moment ago."""
    deadline = time.monotonic() + TERM_SECONDS + KILL_SECONDS + 2.0
    while (handle := ready.lock(data)) is None:
        owner = ready.lock_owner(data)
        if owner is None or layouts.is_alive(owner) or time.monotonic() > deadline:
            raise OperatorError(
                f"another 'clickledger up' (process {owner or 'unknown'}) runs on {data}: stop it, or use another --data"
            )
        await asyncio.sleep(0.1)
    return handle


def _dashboard_of(stack: ready.Ready) -> str:
    """A login link, or where the dashboard is when there is none: a key that was revoked is no reason to stop."""
    try:
        return (
            f"{make_login_link(stack, patience_s=NEW_KEY_S)}  (once, within ten minutes; again: clickledger dashboard)"
        )
    except ClickledgerError as exc:
        return f"{stack.reports}/dashboard  (no login link: {exc})"


class _Stack:
    def __init__(self, layout: Layout, environ: Mapping[str, str], guard: Guard, output: Output) -> None:
        self._layout, self._environ, self._guard, self._output = layout, environ, guard, output
        self._data = layout.options.data
        self._services: list[Service] = []  # in start order
        self._stop = asyncio.Event()
        self._ready: ready.Ready | None = None

    async def run(self) -> int:
        self._catch_signals()
        before = ready.read(self._data)
        self._forget_processes(before)
        try:
            starting = asyncio.create_task(self._start(before))
            if not await self._unless_stopped(starting):
                return 0
            return await self._serve()
        finally:
            await self._stop_all()
            self._forget_processes(self._ready or before)

    # -- starting ------------------------------------------------------------------------------------------------------

    async def _start(self, before: ready.Ready | None) -> None:
        layout, environ = self._layout, self._environ
        await asyncio.to_thread(layout.cluster.prepare)
        brokers = [layouts.broker_spec(layout, node, environ) for node in layout.cluster.nodes]
        await asyncio.gather(
            self._launch([*brokers, layouts.clickhouse_spec(layout, environ)]),
            asyncio.to_thread(importlib.import_module, "clickledger.setup"),  # Java takes longer: it costs no time here
        )
        settings = layouts.setup_settings(layout)
        await self._set_up(settings)
        keys = dict(before.keys) if before else {}
        tenant, short_url = self._tenant()
        keys[tenant], _ = await asyncio.gather(
            ensure_tenant(settings, tenant, short_url, keys.get(tenant)),
            self._launch([layouts.service_spec(layout, name, environ) for name in SERVICES]),  # need no keys to start
        )
        self._ready = layouts.ready_object(layout, tenant, short_url, keys, self._pids())
        self._write_ready()

    def _tenant(self) -> tuple[str, str]:
        return (DEMO_TENANT, DEMO_SHORT_URL) if self._layout.options.is_demo else (DEFAULT_TENANT, DEFAULT_SHORT_URL)

    async def _launch(self, specs: list[Spec]) -> None:
        """Start processes side by side and wait until each is ready."""
        started = time.monotonic()
        services = [Service(spec, self._guard, self._output, self._on_pid) for spec in specs]
        self._services += services
        for service in services:
            service.start()
        await asyncio.gather(*(service.wait_ready(_READY_SECONDS_MAX) for service in services))
        names = ", ".join(spec.name for spec in specs)
        self._output.say(f"{names}: ready after {time.monotonic() - started:.1f} s")

    async def _set_up(self, settings: SetupSettings) -> None:
        """Where it says what is wrong with the tables the stack starts all the same: in one that runs they can be mended."""
        from clickledger.setup import set_up

        for tries_left in reversed(range(_SETUP_TRIES_MAX)):
            try:
                await set_up(settings, lambda text: self._output.line("setup", text))
            except TransientError as exc:
                if not tries_left:
                    raise
                self._output.line("setup", f"{exc}: again")
            else:
                return

    # -- running -------------------------------------------------------------------------------------------------------

    async def _serve(self) -> int:
        if self._ready is None:
            raise TransientError("the stack did not start")
        self._announce(self._ready, await asyncio.to_thread(_dashboard_of, self._ready))
        following = asyncio.create_task(self._follow_workers())
        try:
            return await self._until_told(self._ready)
        finally:
            following.cancel()

    async def _until_told(self, stack: ready.Ready) -> int:
        """Run the demo if asked for; wait until told to stop; the exit status."""
        if not self._layout.options.is_demo:
            await self._stop.wait()
            return 0
        from clickledger.demo import run_demo

        demo = asyncio.create_task(run_demo(stack, exit_after=self._layout.options.is_exit))
        if not await self._unless_stopped(demo):
            return 0
        if not self._layout.options.is_exit:
            await self._stop.wait()
        status: int = demo.result()
        return status

    async def _unless_stopped(self, work: asyncio.Task[None] | asyncio.Task[int]) -> bool:
        """Await `work`, or cancel it when we are told to stop; True when it was finished."""
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait([work])
            return False
        work.result()
        return True

    def _announce(self, stack: ready.Ready, dashboard: str) -> None:
        self._output.say(
            f"\nclickledger is ready.\n"
            f"  API         {stack.api}\n"
            f"  reports     {stack.reports}\n"
            f"  dashboard   {dashboard}\n"
            f"  ClickHouse  {stack.clickhouse}  (database {stack.database})\n"
            f"  Kafka       {stack.kafka}\n"
            f"  keys        {self._data / ready.READY_NAME}\n"
            f"Ctrl-C stops everything.\n"
        )

    def _pids(self) -> ready.Pids:
        brokers = [service.pid for service in self._services if service.spec.name.startswith("broker")]
        running = [pid for pid in brokers if pid is not None]
        pids: ready.Pids = {"broker": running[0] if len(running) == 1 else running}
        for service in self._services:
            name = service.spec.name
            if service.pid is not None and not name.startswith("broker"):
                pids[name] = layouts.worker_pids(self._data, name) or service.pid
        return pids

    def _on_pid(self) -> None:
        """A process was started (again): the ready file follows, once there is one."""
        if self._ready is not None:
            self._ready = self._ready.model_copy(update={"pids": self._pids()})
            self._write_ready()

    async def _follow_workers(self) -> None:
        """Keep the ready file true when a service's own worker processes change."""
        while True:
            await asyncio.sleep(_WORKERS_POLL_SECONDS)
            if self._ready is not None and self._pids() != self._ready.pids:
                self._on_pid()

    def _write_ready(self) -> None:
        if self._ready is not None:
            extra = self._layout.options.ready_file
            ready.write(self._ready, self._data / ready.READY_NAME, *([extra] if extra else []))

    # -- stopping ------------------------------------------------------------------------------------------------------

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._output.say("killing everything")
            for service in self._services:
                service.kill()
            return
        self._output.say("stopping (once more to kill)")
        self._stop.set()

    async def _stop_all(self) -> None:
        began = time.monotonic()
        names = [service.spec.name for service in self._services]
        brokers = [name for name in names if name.startswith("broker")]
        for group, until_s in (*_STOPPED_AFTER_S, (brokers, _ALL_STOPPED_AFTER_S)):
            left_s = began + until_s - time.monotonic()
            await asyncio.gather(*(each.stop(left_s) for each in self._services if each.spec.name in group))
        self._output.say("stopped")

    def _forget_processes(self, stack: ready.Ready | None) -> None:
        """Nothing runs: keep the keys for the next start, drop process ids, ready file and health files."""
        shutil.rmtree(self._data / FOLDER, ignore_errors=True)
        if stack is not None:
            ready.write(stack.model_copy(update={"pids": {}}), self._data / ready.READY_NAME)
        if (extra := self._layout.options.ready_file) is not None:
            with contextlib.suppress(FileNotFoundError):
                extra.unlink()
