"""The commands in the README's "Use it", run as they stand there: a README that lies fails."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.full_stack import FullStack, clean_env
from tests.support.pipeline import eventually, load_example_link
from tests.support.readme import commands, shell_blocks

COMMAND_S = 150.0
SECRET = re.compile(r"ckl_[\w-]+")
LINKS = (
    "short_url,promotion_id,link_name\nhttps://acme.example/a1,spring,first\nhttps://acme.example/a2,spring,second\n"
)


@pytest.fixture
def checkout(full_stack: FullStack, tmp_path: Path) -> Path:
    """A folder like a checkout in which `make up` runs: `.venv`, `.clickledger`, and a file of links."""
    (tmp_path / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    (tmp_path / ".clickledger").symlink_to(full_stack.data, target_is_directory=True)
    (tmp_path / "links.csv").write_text(LINKS)
    return tmp_path


def shell(command: str, folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a line as a user's shell does; what it printed. Fails unless it ends with 0 and complains of nothing."""
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env={**clean_env(), **(env or {})},
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
    """Each exits with 0, in this order, with nothing filled in but the secret that an earlier one printed."""
    lines = [line for line in commands(shell_blocks("Use it")[0]) if not line.startswith("make ")]
    assert len(lines) >= 8
    assert all(".venv/bin/clickledger" in line for line in lines)
    secret, printed = "", {}
    for line in lines:
        if line.endswith(" tail"):
            send = ".venv/bin/clickledger send --count 6"
            assert a_click_is_seen_by(line, checkout, send)
            continue
        printed[line] = shell(line.replace("ckl_…", secret), checkout)
        if found := SECRET.search(printed[line]):
            secret = found[0]
    text = "".join(printed.values())
    for said in ("2 loaded, 0 refused", "verified: each of ", "no gap, no double, no mismatch", "first-steps"):
        assert said in text


def test_the_curl_line_is_answered_as_shown(full_stack: FullStack, checkout: Path) -> None:
    """The example's click is taken; the answer has the form that the README prints."""
    load_example_link(full_stack, checkout)
    (block,) = shell_blocks("Use it")[1:]
    (line,) = commands(block)
    assert "http://127.0.0.1:8080/" in line
    answer = json.loads(
        shell(
            line.replace("http://127.0.0.1:8080", full_stack.ready["api"]), checkout, {"KEY": full_stack.ready["key"]}
        )
    )
    (shown,) = re.findall(r"^# (\{.*\})$", block, re.MULTILINE)
    assert list(answer) == list(json.loads(shown)) == ["transaction-id"]
