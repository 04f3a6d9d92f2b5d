"""A sink that kills or stops itself at a chosen point: `python -m tests.support.sink_faults after:insert:2[:STOP]`.

Points: `before`, `during` or `after` the n-th `commit`, `highest` or `insert` of the process. During means that the
request is on its way; after, that it took effect and that its answer was lost. The signal is KILL unless named.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from sink import service
from sink.member import PartitionGroup
from sink.table import PartitionTable

_OWNERS: dict[str, Any] = {"commit": PartitionGroup, "highest": PartitionTable, "insert": PartitionTable}
_ON_ITS_WAY_S = 0.002


def arm(when: str, call: str, number: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Replace a port's method by one that signals the process."""
    method: Callable[..., Coroutine[Any, Any, Any]] = getattr(_OWNERS[call], call)
    calls = 0

    def strike() -> None:
        os.kill(os.getpid(), by)

    async def faulty(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        is_it = calls == number
        if when == "before" and is_it:
            strike()
        if when == "during" and is_it:
            asyncio.get_running_loop().call_later(_ON_ITS_WAY_S, strike)
        result = await method(*args, **kwargs)
        if when == "after" and is_it:
            strike()
        return result

    setattr(_OWNERS[call], call, faulty)


if __name__ == "__main__":
    when, call, number, *by = sys.argv[1].split(":")
    arm(when, call, int(number), signal.Signals[f"SIG{by[0]}"] if by else signal.SIGKILL)
    sys.exit(service.main())
