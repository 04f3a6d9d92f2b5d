"""The API service: one process, or a parent that keeps several worker processes on one port."""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import Final

from ingest_api.config import ServiceSettings
from ingest_api.listeners import listen
from shared.errors import ClickledgerError
from shared.health_files import HealthFile
from shared.runtime import Runtime, run_service

log = logging.getLogger(__name__)

SERVICE: Final = "api"
EXIT_USAGE: Final = 2


def main() -> int:
    """Run the service as the environment says; the exit code."""
    try:
        settings = ServiceSettings.load()
    except ClickledgerError as exc:
        sys.stderr.write(f"{exc}\n")
        return EXIT_USAGE
    return run_service(
        SERVICE, settings.runtime, lambda runtime: _run(runtime, settings), health_port=settings.api.api_health_port
    )


async def _run(runtime: Runtime, settings: ServiceSettings) -> None:
    with listen(settings.api) as listener:
        port = listener.getsockname()[1]
        with HealthFile(settings.runtime.data, f"{SERVICE}-http", os.getpid(), str(port)):
            log.info("listening on %s:%d, %d process(es)", settings.api.api_host, port, settings.api.api_workers)
            await _serve(runtime, settings, listener)


async def _serve(runtime: Runtime, settings: ServiceSettings, listener: socket.socket) -> None:
    if settings.api.api_workers == 1:
        from ingest_api.worker import Worker

        await Worker(runtime, settings).run(listener, follow=True)
    else:
        from ingest_api.parent import Parent

        await Parent(runtime, settings, listener).run()


if __name__ == "__main__":
    sys.exit(main())
