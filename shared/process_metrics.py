"""What each process says of itself at `/metrics`, looked up when it is asked.

Apart from `shared.metrics`: the parent of several API workers has these for itself, and those as the sums of its workers.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from prometheus_client import Gauge

ready = Gauge("clickledger_ready", "1 while /readyz is 200, else 0", ["service"])
data_free = Gauge("clickledger_data_free_bytes", "Room on the disk of CLICKLEDGER_DATA", ["service"])
data_size = Gauge("clickledger_data_size_bytes", "Size of the disk of CLICKLEDGER_DATA", ["service"])


def renew(service: str, data: Path, *, is_ready: bool) -> None:
    """Set all of them."""
    ready.labels(service).set(is_ready)
    with contextlib.suppress(OSError):  # a folder that is gone has other signs
        usage = shutil.disk_usage(data)
        data_free.labels(service).set(usage.free)
        data_size.labels(service).set(usage.total)
