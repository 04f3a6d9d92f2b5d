"""What a service says about itself at its health port: asked again and again, it may not listen yet, or no longer."""

from __future__ import annotations

import http.client
from pathlib import Path

from shared import health_files

ANSWER_S_MAX = 30.0


def health_text(data: Path, service: str, pid: int, path: str) -> str:
    """The answer to GET `path`, ready or not; nothing while the process does not answer."""
    port = health_files.read_port(data, service, pid)
    if port is None:
        return ""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S_MAX)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def metric(data: Path, service: str, pid: int, name: str) -> float:
    """The sum of all metrics whose text begins so; 0 while the process does not answer."""
    lines = health_text(data, service, pid, "/metrics").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))
