"""The commands in the README's "Use it", run as they stand there: a README that lies fails."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.full_stack import FullStack, clean_env
from tests.support.pipeline import eventually
from tests.support.readme import commands, shell_blocks

COMMAND_S = 150.0


@pytest.fixture
def checkout(full_stack: FullStack, tmp_path: Path) -> Path:
    """A folder like a checkout in which `make up` runs: `.venv` and `.clickledger`."""
    (tmp_path / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    (tmp_path / ".clickledger").symlink_to(full_stack.data, target_is_directory=True)
    return tmp_path


def shell(command: str, folder: Path) -> str:
    """Run a line as a user's shell does; what it printed. Fails unless it ends with 0 and complains of nothing."""
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env=clean_env(),
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert not re.search(r"error|warning|traceback", done.stderr, re.IGNORECASE), f"{command}\n{done.stderr}"
    return done.stdout


def a_click_is_seen_by(command: str, folder: Path, send: str) -> bool:
    """Whether a command that never ends by itself shows clicks that come in, and ends at Ctrl-C."""
    shown = folder / "shown.txt"
    with shown.open("w") as out:
        process = subprocess.Popen(f"exec {command}", shell=True, cwd=folder, env=clean_env(), stdout=out, stderr=out)  # noqa: S602

        def is_shown() -> bool:
            shell(send, folder)
            return "accepted" in shown.read_text()

        try:
            eventually(is_shown, "a line of the live view")
            process.send_signal(signal.SIGINT)
            process.wait(20)
        finally:
            process.kill()
            process.wait()
    return "Traceback" not in shown.read_text()


def test_the_commands_do_what_they_say(full_stack: FullStack, checkout: Path) -> None:
    """All of them as one script, with nothing filled in; the last one is the click, answered as the README prints it."""
    up, use, click = shell_blocks("Use it")
    assert commands(up) == ["make up"]
    (tail,) = (line for line in commands(use) if line.endswith(" tail"))
    script = "set -e\n" + use.replace(tail, ":") + click.replace("http://127.0.0.1:8080", full_stack.ready["api"])
    printed = shell(script, checkout)
    for said in ("1 loaded, 0 refused", "2 loaded, 0 refused", "verified: each of ", "Summer sale", "accepted"):
        assert said in printed
    assert "no gap, no double, no mismatch" in printed
    (shown,) = re.findall(r"^# (\{.*\})$", click, re.MULTILINE)
    assert list(json.loads(printed.splitlines()[-1])) == list(json.loads(shown)) == ["transaction-id"]
    assert a_click_is_seen_by(tail, checkout, ".venv/bin/clickledger send --count 6")
