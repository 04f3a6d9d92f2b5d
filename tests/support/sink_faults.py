"""A sink that kills itself with -9 at a chosen point: `python -m tests.support.sink_faults after:insert:2`.

Points: `before` or `after` the n-th `commit`, `highest` or `insert` of the process. After means that it took effect and
that its answer was lost.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from sink import service
from sink.member import PartitionGroup
from sink.table import PartitionTable

_OWNERS: dict[str, Any] = {"commit": PartitionGroup, "highest": PartitionTable, "insert": PartitionTable}


def arm(when: str, call: str, number: int) -> None:
    """Replace a port's method by one that kills the process."""
    method: Callable[..., Coroutine[Any, Any, Any]] = getattr(_OWNERS[call], call)
    calls = 0

    async def faulty(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        mine = calls
        if when == "before" and mine == number:
            os.kill(os.getpid(), signal.SIGKILL)
        result = await method(*args, **kwargs)
        if when == "after" and mine == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(_OWNERS[call], call, faulty)


if __name__ == "__main__":
    when, call, number = sys.argv[1].split(":")
    arm(when, call, int(number))
    sys.exit(service.main())
