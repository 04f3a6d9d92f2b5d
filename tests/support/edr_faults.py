"""`clickledger edr deliver` killed with -9 at one step after the other: `python -m tests.support.edr_faults 3-9 --to DIR …`.

Each number is a run of its own that dies before its n-th step: a call of the target, the link of a file, or a piece of a
file under way. One process imports everything and forks, so that a run costs little more than its work.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from typing import Any

from clickledger import audit_run
from clickledger.cli import run_command
from clickledger.deliveries.target import Folder, Objects
from clickledger.located import Located, locate
from shared.clickhouse import ClickHouse

_STEPS = ("put_new", "put_file", "read", "names", "delete")


def arm(number: int) -> None:
    """Make the process kill itself before its n-th step."""
    steps = itertools.count(1)

    def step() -> None:
        if next(steps) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(kind: type[Any], name: str) -> None:
        original = getattr(kind, name)

        def faulty(*args: Any, **kwargs: Any) -> Any:
            step()
            return original(*args, **kwargs)

        setattr(kind, name, faulty)

    for kind, name in itertools.product((Folder, Objects), _STEPS):
        before(kind, name)
    before(Folder, "_link")
    stream = ClickHouse.stream

    async def pieces(*args: Any, **kwargs: Any) -> Any:
        async for piece in stream(*args, **kwargs):
            yield piece
            step()

    ClickHouse.stream = pieces  # type: ignore[assignment, method-assign]


def main(first: int, last: int, arguments: list[str]) -> int:
    """How many of the runs were killed; every other one must have ended well."""
    killed = 0
    known = asyncio.run(audit_run.read_stream(locate(None)))

    async def remembered(_: Located) -> Any:
        return known

    audit_run.read_stream = remembered  # the catalog is read once for all runs
    for number in range(first, last + 1):
        child = os.fork()
        if not child:
            arm(number)
            os._exit(run_command(["edr", "deliver", *arguments, "--once"]))
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
        elif status:
            return -1
    return killed


if __name__ == "__main__":
    first, last = map(int, sys.argv[1].split("-"))
    sys.stdout.write(f"killed {main(first, last, sys.argv[2:])}\n")
