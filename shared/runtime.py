"""What every service process shares: JSON logging, signals, health and metrics over HTTP, a stop with a deadline.

`run_service` is called by a composition root. The service's `main` gets a `Runtime`, works until `runtime.stopping` is
set, then finishes what it accepted and returns; after the deadline the process ends all the same, which is a crash like
any other and loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import IO, Final

import uvloop
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from shared import process_metrics
from shared.errors import ClickledgerError, OperatorError
from shared.health_files import HealthFile
from shared.quiet import QuietLibrary
from shared.settings import RuntimeSettings

log = logging.getLogger(__name__)

STOPPING: Final = "stopping"
"""Why a service that is to stop is not ready."""
REQUEST_BYTES_MAX: Final = 8_192
"""Bytes of a request to the health endpoint."""
REQUEST_SECONDS_MAX: Final = 5
"""To send it and to take the answer."""
YOUNG_OBJECTS_MAX: Final = 20_000
"""New objects, less freed ones, after which the collector looks for cycles: those of a thousand requests or more."""
HEAP_PIECE_BYTES_MAX: Final = 32 << 20
"""Larger pieces of memory are mapped, each by itself; glibc takes no higher limit."""
KEPT_BYTES_MAX: Final = 64 << 20
"""What a process keeps of freed memory at the end of its heap: the fetches and bodies of a moment."""
_CURES: Final = {
    errno.EADDRINUSE: "stop what listens there, or set another CLICKLEDGER_…_PORT",
    errno.EADDRNOTAVAIL: "this machine has no such address: set another CLICKLEDGER_…_HOST",
    errno.ENOSPC: "make room on the disk of CLICKLEDGER_DATA",
    errno.EDQUOT: "make room on the disk of CLICKLEDGER_DATA",
    errno.EROFS: "CLICKLEDGER_DATA must be a folder that can be written to",
    errno.EACCES: "CLICKLEDGER_DATA must be a folder that can be written to",
}
"""What an operator can do about an error of the machine."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Of malloc.h."""
SLOTS_MAX: Final = 256
"""Processes of one service on one machine."""

Check = Callable[[], str]
"""A readiness check: empty when all is well, else why not, in words for an operator."""


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time` (ISO 8601, UTC), `level`, `logger`, `service`, `message`, `error`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record; control characters inside values are escaped by JSON."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(service: str, level: str) -> None:
    """Log JSON lines to standard error."""
    sink = logging.StreamHandler(sys.stderr)
    sink.setFormatter(JsonFormatter(service))
    sink.addFilter(QuietLibrary())
    logging.basicConfig(level=level, handlers=[sink], force=True)
    for noisy in ("aiokafka", "asyncio", "urllib3"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))


@dataclass
class Runtime:
    """What a running service may ask of its process."""

    service: str
    settings: RuntimeSettings
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    checks: list[Check] = field(default_factory=list)
    """Readiness checks, added by the service as its parts come up."""
    health_port: int = 0
    """The port that health is served on, once it is."""

    def why_not_ready(self) -> list[str]:
        """Every reason why the service is not ready; empty when it is."""
        if self.stopping.is_set():
            return [STOPPING]
        return [why for check in self.checks if (why := check())]

    async def pause(self, seconds: float) -> bool:
        """Sleep, or wake up early when the service is to stop; True when it is."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)
        return self.stopping.is_set()


@dataclass(frozen=True)
class InstanceSlot:
    """A static membership name that no other live process of this machine has; the lock ends with the process."""

    instance_id: str
    _file: IO[str]


def instance_slot(settings: RuntimeSettings, service: str) -> InstanceSlot:
    """Take the lowest free slot of a service on this machine: a restarted process finds its own name again.

    A stopped (SIGSTOP) process keeps its lock, so that two processes never have one name. Raises OperatorError when all
    are taken.
    """
    folder = settings.data / "slots"
    folder.mkdir(parents=True, exist_ok=True)
    for slot in range(SLOTS_MAX):
        file = (folder / f"{service}-{slot}.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        return InstanceSlot(f"{settings.node}-{service}-{slot}", file)
    raise OperatorError(f"{folder}: all {SLOTS_MAX} slots of {service} are taken")


def run_service(
    service: str, settings: RuntimeSettings, main: Callable[[Runtime], Awaitable[None]], *, health_port: int
) -> int:
    """Run a service to its end; the exit code for the process (0 stopped as told, 1 failed)."""
    configure_logging(service, settings.log_level)
    try:
        return uvloop.run(_serve(service, settings, main, health_port))
    except ClickledgerError as exc:
        log.critical("%s", exc)
        return 1
    except OSError as exc:
        if exc.errno not in _CURES:
            raise
        log.critical("%s: %s", exc, _CURES[exc.errno])
        return 1


async def _serve(
    service: str, settings: RuntimeSettings, main: Callable[[Runtime], Awaitable[None]], health_port: int
) -> int:
    runtime = Runtime(service, settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, runtime)
    server = await serve_health(runtime, health_port)
    runtime.health_port = server.sockets[0].getsockname()[1]
    with HealthFile(settings.data, service, os.getpid(), str(runtime.health_port)):
        working = asyncio.ensure_future(main(runtime))
        try:
            await asyncio.wait([working])
            working.result()
            return 0
        finally:
            server.close()


def take_place(file: IO[bytes]) -> None:
    """Have the disk give all bytes of a file now: a mapped page for which it has no place later ends the process (SIGBUS).

    Raises OSError when it has no place now.
    """
    if hasattr(os, "posix_fallocate") and (size := os.fstat(file.fileno()).st_size):
        os.posix_fallocate(file.fileno(), 0, size)


def spare_collector(young_objects_max: int = YOUNG_OBJECTS_MAX) -> None:
    """What stands now stays: the collector of cycles leaves it alone, and looks at new objects seldom.

    To be called once, when a service has started. The default is every 700 new objects: each time it went through what the
    imports had left and through all that waits, none of which has cycles, for a quarter to a third of the processor time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(young_objects_max)


def keep_memory() -> None:
    """Memory that was freed stays with the process, up to `KEPT_BYTES_MAX` at the end of its heap, and is used again.

    To be called once, by a service that takes and leaves megabytes many times a second: the C library's way gives large pieces
    back at once, and each page that is asked for again is a fault, zeroes and all, at some cost where the machine is a virtual one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, others do without
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, HEAP_PIECE_BYTES_MAX)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES_MAX)


def _stop(runtime: Runtime) -> None:
    """Begin a graceful stop, and bound it: not by the event loop, which a library's task may keep from ending."""
    if runtime.stopping.is_set():
        return
    runtime.stopping.set()
    deadline_ms, loop = runtime.settings.stop_deadline_ms, asyncio.get_running_loop()
    timer = threading.Timer(deadline_ms / 1000, _leave, [deadline_ms, loop])
    timer.daemon = True
    timer.start()


def _leave(deadline_ms: int, loop: asyncio.AbstractEventLoop) -> None:
    """In a thread of its own, whatever the loop does; what still runs tells which step does not end."""
    running = "; ".join([repr(task) for task in asyncio.all_tasks(loop)])
    log.error("not stopped within %d ms, leaving all the same; still running: %.4000s", deadline_ms, running)
    os._exit(1)


async def serve_health(runtime: Runtime, port: int) -> asyncio.Server:
    """Serve `/livez`, `/readyz` (200 or 503 with every reason) and `/metrics`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_health_response(runtime, head.split(b" ", 2)[1].split(b"?")[0] if b" " in head else b""))
                await writer.drain()
        except TimeoutError:
            writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        writer.close()

    return await asyncio.start_server(answer, runtime.settings.health_host, port, limit=REQUEST_BYTES_MAX)


def readiness(reasons: list[str]) -> dict[str, object]:
    """The body of `/readyz`: when not ready the two keys of every error, and in any case the reasons one by one."""
    if not reasons:
        return {"status": "ready", "reasons": reasons}
    return {"code": "503", "description": f"Service Unavailable: {'; '.join(reasons)}", "reasons": reasons}


def _health_response(runtime: Runtime, path: bytes) -> bytes:
    status, kind = "200 OK", "application/json"
    match path:
        case b"/livez":
            body = b'{"status":"alive"}'
        case b"/readyz":
            reasons = runtime.why_not_ready()
            status = "503 Service Unavailable" if reasons else status
            body = json.dumps(readiness(reasons)).encode()
        case b"/metrics":
            process_metrics.renew(runtime.service, runtime.settings.data, is_ready=not runtime.why_not_ready())
            body, kind = generate_latest(REGISTRY), CONTENT_TYPE_LATEST
        case _:
            status, body = "404 Not Found", b'{"code":"404","description":"Not found: /livez, /readyz, /metrics"}'
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
