"""`clickledger …` run to its end: in the test's own process, or in one of its own as a user starts it.

A process spends a second on its imports before it does anything. So tests that need what a command does run it here;
`tests/stack/test_commands.py` starts each command as a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

from clickledger.cli import run_command
from tests.support.full_stack import clean_env

COMMAND_S = 240.0

Done = subprocess.CompletedProcess[str]


def run_here(env: Mapping[str, str], *arguments: str) -> Done:
    """Run it in this process, through the frame that the console script calls."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with (
        mock.patch.dict(os.environ, {**clean_env(), **env}, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = _run_beside_a_loop(arguments) if _is_loop_running() else run_command(list(arguments))
    printed, said = (each.buffer.getvalue().decode() for each in (out, err))  # type: ignore[attr-defined]  # BytesIO
    return Done(arguments, status, printed, said)


def _is_loop_running() -> bool:
    with contextlib.suppress(RuntimeError):
        return asyncio.get_running_loop().is_running()
    return False


def _run_beside_a_loop(arguments: Sequence[str]) -> int:
    """Run it in a thread: commands run loops of their own, and a thread has one at most (a browser's test has its driver's)."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run_command, list(arguments)).result()


def run_process(env: Mapping[str, str], *arguments: str, timeout_s: float = COMMAND_S) -> Done:
    """Run it in a process of its own. Raises subprocess.TimeoutExpired."""
    return subprocess.run(
        [sys.executable, "-m", "clickledger", *arguments],
        env={**clean_env(), **env},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
