"""What every command's exit status means."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The statuses that scripts may rely on; `clickledger --help` shows them."""

    OK = 0
    FAILED = 1  # the answer is no: a gap, a double, a refused line, a refusal that a human must resolve
    USAGE = 2  # wrong arguments or settings
    UNREACHABLE = 3  # no stack runs, a time-out, or something does not answer: trying again may help
