"""A local ClickHouse server (the chDB engine behind HTTP) for tests."""

from __future__ import annotations

import http.client
import os
import sys
from pathlib import Path

from clickledger.stack.guard import Guard
from clickledger.stack.ports import HOST, free_ports
from tests.support.processes import Child, wait_until

OWNER_PASSWORD = "owner-of-the-tests"
READER_PASSWORD = "reader-of-the-tests"
SERVICE_PASSWORD = "service-of-the-tests"


class LocalClickHouse:
    """A running server; `close()` ends it. It can be killed and started again on the same port and data."""

    def __init__(self, guard: Guard, folder: Path, catalog: Path | None = None) -> None:
        """Start it and wait until it answers. `catalog`: a folder with tenants' keys."""
        folder.mkdir(parents=True, exist_ok=True)
        self._guard, self._folder = guard, folder
        (self.port,) = free_ports(1)
        self._password = OWNER_PASSWORD
        self._catalog = () if catalog is None else ("--catalog", str(catalog))
        self._child = self._spawn()
        self._wait()

    @property
    def url(self) -> str:
        """The owner's access, without a database: `http://user:password@host:port`."""
        return f"http://default:{OWNER_PASSWORD}@{HOST}:{self.port}"

    @property
    def reader_url(self) -> str:
        """Read-only access."""
        return f"http://reader:{READER_PASSWORD}@{HOST}:{self.port}"

    def service_url(self, user: str) -> str:
        """Access of a service's own user, `sink` or `reporting`."""
        return f"http://{user}:{SERVICE_PASSWORD}@{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self._child.kill()

    def stop(self) -> int:
        """SIGTERM; gives the exit status."""
        return self._child.stop()

    def start(self, password: str = "") -> None:
        """Start it again and wait until it answers; `password`: another one for its owner from now on."""
        self._password = password or OWNER_PASSWORD
        self._child = self._spawn()
        self._wait()

    def close(self) -> None:
        """End it; nothing of a test's data is worth a graceful stop."""
        if self._child.alive:
            self.kill()

    def _spawn(self) -> Child:
        command = [
            *(sys.executable, "-m", "clickledger.clickhouse_server"),
            *("--path", str(self._folder / "data")),
            *("--port", str(self.port)),
            *("--database", "clickledger"),
            *self._catalog,
        ]
        env = {
            **os.environ,
            "CLICKLEDGER_CLICKHOUSE_PASSWORD": self._password,
            "CLICKLEDGER_CLICKHOUSE_SINK_PASSWORD": SERVICE_PASSWORD,
            "CLICKLEDGER_CLICKHOUSE_REPORTING_PASSWORD": SERVICE_PASSWORD,
            "CLICKLEDGER_CLICKHOUSE_READER_PASSWORD": READER_PASSWORD,
        }
        return Child(self._guard, command, self._folder / "server.log", env)

    def _wait(self) -> None:
        wait_until(lambda: http_ok(self.port, "/ping"), self._child, "the ClickHouse server")


def http_ok(port: int, path: str, host: str = HOST) -> bool:
    """Whether GET is answered with 200."""
    connection = http.client.HTTPConnection(host, port, timeout=10.0)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
