"""Lets a service's wall clock differ from the machine's: Python imports this file at its start when it is on PYTHONPATH.

The difference, in nanoseconds, stands in a file of 8 bytes that is mapped into memory, so that it can change at any
moment. Monotonic clocks stay as they are, as when somebody sets a machine's clock.
"""

import mmap
import os
import struct
import time
from pathlib import Path

if _path := os.environ.get("TORTURE_CLOCK"):
    with Path(_path).open("rb") as _file:
        _shift = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)
    _real_ns = time.time_ns

    def _time_ns() -> int:
        found: int = struct.unpack_from("<q", _shift)[0]
        return _real_ns() + found

    def _time() -> float:
        return _time_ns() / 1e9

    time.time_ns, time.time = _time_ns, _time
