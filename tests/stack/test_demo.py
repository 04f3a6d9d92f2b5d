"""`clickledger up --demo --exit`: what a stranger sees, and the status that scripts get."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from clickledger.demo_data import HISTORY_CLICKS
from tests.support.full_stack import clean_env


def _demo(folder: Path) -> str:
    command = [sys.executable, "-m", "clickledger", "up", "--demo", "--exit", "--port", "0", "--data", str(folder)]
    done = subprocess.run(command, env=clean_env(), capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demo_ends_with_a_clean_audit_and_may_be_repeated(tmp_path: Path) -> None:
    """History, live clicks, report and audit; the second run on the folder finds the history and adds to it."""
    printed = _demo(tmp_path / "data")
    assert f"{HISTORY_CLICKS:,} answered 200" in printed
    assert "500 answered 200" in printed
    assert "spring-sale" in printed
    assert re.search(r"http://127\.0\.0\.1:\d+/login#once=\S+", printed)
    assert re.search(rf"^clean: {HISTORY_CLICKS + 500:,} rows", printed, re.MULTILINE)

    again = _demo(tmp_path / "data")
    assert "is there from an earlier demo" in again
    assert re.search(rf"^clean: {HISTORY_CLICKS + 1_000:,} rows", again, re.MULTILINE)
