"""`make torture`: the long form of every fault, or FAULT=name[,name…] ROUNDS=n SEED=text of it.

Without ROUNDS it goes on where docs/torture.json ends: each fault gets the rounds that it still lacks. Exit status: 1
when anything was lost, doubled or not clean; 2 for a fault that does not exist.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.torture import report
from tests.torture.faults import BY_NAME, FAULTS
from tests.torture.faults.base import Fault
from tests.torture.record import Recorder, read
from tests.torture.rounds import Session
from tests.torture.world import guarded


class Order(NamedTuple):
    """What to run."""

    rounds: Mapping[str, int]
    seed: str
    command: str


def order(environ: Mapping[str, str]) -> Order:
    """What the variables ask for. Raises ValueError for what does not exist."""
    names = [name for name in environ.get("FAULT", "").replace(",", " ").split() if name] or list(BY_NAME)
    if unknown := [name for name in names if name not in BY_NAME]:
        raise ValueError(f"no fault {', '.join(unknown)}; there are: {', '.join(BY_NAME)}")
    rounds = environ.get("ROUNDS", "")
    seed = environ.get("SEED") or secrets.token_hex(4)
    done = [each["fault"] for run in read() for each in run["rounds"]]
    wanted = {name: int(rounds) if rounds else max(0, BY_NAME[name].rounds - done.count(name)) for name in names}
    given = [f"{name}={environ[name]}" for name in ("FAULT", "ROUNDS") if environ.get(name)]
    return Order(wanted, seed, " ".join(["make torture", *given, f"SEED={seed}"]))


def say(text: str) -> None:
    """One line, at once."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201  # a command's output


def main() -> int:
    """Run what is asked for; the exit status."""
    try:
        ordered = order(os.environ)
    except ValueError as exc:
        say(str(exc))
        return 2
    planned = [fault for fault in FAULTS if ordered.rounds.get(fault.name)]
    minutes = sum(fault.seconds * ordered.rounds[fault.name] for fault in planned) / 60
    say(f"{ordered.command}: {sum(ordered.rounds.values())} rounds, about {minutes:.0f} min")
    recorder = Recorder(ordered.command, ordered.seed)
    folder = Path(tempfile.mkdtemp(prefix="clickledger-torture-"))
    is_good = True
    with guarded() as guard:
        session = Session(guard, folder, say)
        try:
            for fault in sorted(planned, key=lambda fault: repr(fault.shape)):
                is_good &= _rounds(session, recorder, fault, ordered)
        finally:
            session.finish()
            recorder.add_late(session.late)
    if not session.kept:
        folder.rmdir()
    report.write()
    for fault in FAULTS:
        if missing := fault.rounds - sum(each["fault"] == fault.name for run in read() for each in run["rounds"]):
            say(f"{fault.name}: {max(0, missing)} of {fault.rounds} rounds not run")
    return 0 if is_good and not session.late else 1


def _rounds(session: Session, recorder: Recorder, fault: Fault, ordered: Order) -> bool:
    if why := fault.why_not():
        say(f"{fault.name}: not run: {why}")
        return True
    is_good = True
    for number in range(1, ordered.rounds[fault.name] + 1):
        made = session.run(fault, f"{ordered.seed}/{fault.name}/{number}")
        recorder.add(made)
        report.write()
        is_good &= made.is_good
        say(f"{fault.name} {number}/{ordered.rounds[fault.name]}: {made.line()}")
    return is_good


if __name__ == "__main__":
    sys.exit(main())
