"""The engine and the HTTP server around it, from start to stop.

The event loop is uvloop: asyncio's own leaves Nagle's algorithm on for a listener that was made beforehand, and then
every answer with a body waits 40 ms for the client's delayed acknowledgement.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
import uvloop

from clickledger.clickhouse_server.app import ClickHouseApp
from clickledger.clickhouse_server.engine import Engine
from clickledger.clickhouse_server.errors import StatementError
from clickledger.clickhouse_server.options import Options

KEEP_ALIVE_SECONDS: Final = 30  # keep_alive_timeout of the server; drivers hold connections longer than web browsers do
CLOSE_SECONDS: Final = 5.0  # what closing the engine may take after the statements' own time
CONNECTIONS_WAITING: Final = 1024  # of the listening socket


def serve(options: Options) -> int:
    """Serve until a signal; 0, or 1 when the port or the data folder is taken."""
    try:
        listener = socket.create_server((options.host, options.port), backlog=CONNECTIONS_WAITING)
        engine = Engine(options.path, options.database)
    except (OSError, ValueError, StatementError) as exc:
        sys.stderr.write(f"clickhouse: cannot start on {options.path}, port {options.port}: {exc}\n")
        return 1
    try:
        app = ClickHouseApp(engine, options)
        uvloop.run(_serve(app, engine, listener, options))
        app.close()
    finally:
        engine.close()
    return 0


async def _serve(app: ClickHouseApp, engine: Engine, listener: socket.socket, options: Options) -> None:
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_level="critical",  # a broken-off stream is not worth a line each; errors of statements go to the client
        access_log=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(options.stop_seconds),
        h11_max_incomplete_event_size=None,
    )
    facts: dict[str, object] = {"version": engine.version, "pid": os.getpid()}
    server = _Server(config, facts, options.stop_seconds, app.cancel_reads)
    await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn that says when it is ready (one line of JSON on stdout) and leaves the exit to its caller."""

    def __init__(
        self,
        config: uvicorn.Config,
        facts: dict[str, object],
        stop_seconds: float,
        cancel_reads: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._facts = facts
        self._stop_seconds = stop_seconds
        self._cancel_reads = cancel_reads

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started or not sockets:
            return
        host, port = sockets[0].getsockname()[:2]
        sys.stdout.write(json.dumps({"ready": True, "host": host, "port": port, **self._facts}) + "\n")
        sys.stdout.flush()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the stop signals without raising them again: the engine is still to be closed after the server."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        yield

    def _stop(self) -> None:
        """Begin the stop: reading statements get half of the time, writing ones all of it, and then the process ends.

        The last resort drops a statement that never ends; the store is crash-safe.
        """
        if self.should_exit:
            return
        self.should_exit = True
        asyncio.get_running_loop().call_later(self._stop_seconds / 2, self._cancel_reads)
        last_resort = threading.Timer(self._stop_seconds + CLOSE_SECONDS, _exit_late)
        last_resort.daemon = True
        last_resort.start()


def _exit_late() -> None:
    sys.stderr.write("clickhouse: a statement did not end in time; leaving without it\n")
    sys.stderr.flush()
    os._exit(1)
