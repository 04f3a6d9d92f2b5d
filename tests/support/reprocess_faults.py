"""`clickledger reprocess` that kills itself with -9: `python -m tests.support.reprocess_faults after:2 --status rejected`.

Points: `before` or `after` the n-th batch it sends. After means that the batch was acknowledged.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from clickledger.cli import main
from shared.kafka import Producer


def arm(when: str, number: int) -> None:
    """Replace the producer's method by one that kills the process."""
    send_batch = Producer.send_batch
    calls = 0

    async def faulty(self: Producer, *args: Any, **kwargs: Any) -> int:
        nonlocal calls
        calls += 1
        if when == "before" and calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        offset = await send_batch(self, *args, **kwargs)
        if when == "after" and calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return offset

    Producer.send_batch = faulty  # type: ignore[method-assign]


if __name__ == "__main__":
    when, number = sys.argv[1].split(":")
    arm(when, int(number))
    main(["reprocess", *sys.argv[2:]])
