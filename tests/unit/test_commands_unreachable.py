"""One rule for every command: what it needs does not run or does not answer, so it ends with 3 and says so in one line.

Commands and their arguments are those of the examples in each command's help, so a new command is covered by having one.
"""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from clickledger.cli import build_app, run_command
from clickledger.commands.services import SERVICES
from clickledger.exit_codes import ExitCode

_NEED_NONE = {
    *SERVICES,  # wait for Kafka and ClickHouse, however long; /readyz says so
    "settings",
    "spool verify",  # reads a disk
    "up",  # is the stack
}
_FOR_NO_STACK = {
    "report": ["--tenant", "acme"],
    "deliver": ["--tenant", "acme", "--once"],
    "demo": ["--key", "k"],
    "audit": ["--timeout", "1"],
}
"""What a command must be told where no local stack says it, and not to wait; by a word of its example."""
_NOWHERE = "127.0.0.1:9"
_EXAMPLE = re.compile(r"Example: (.+)")


def commands(command: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every command that the parser knows, with its help."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{path} {name}".strip())
    if not hasattr(command, "commands"):
        yield path, command.help or ""


def examples(of: str) -> list[list[str]]:
    """The words after `clickledger` of each example, without what is the shell's or for people."""
    found = []
    for line in _EXAMPLE.findall(of):
        words = shlex.split(line)
        words = words[words.index("clickledger") + 1 :]
        end = next((at for at, word in enumerate(words) if word.endswith(",") or word == ">"), len(words))
        found.append([*words[:end], *[word.rstrip(",") for word in words[end : end + 1] if word != ">"]])
    return found


COMMANDS = dict(commands(typer.main.get_command(build_app())))
CALLS = [call for name, text in COMMANDS.items() if name not in _NEED_NONE for call in examples(text)]


def test_every_command_is_called() -> None:
    """By one example at least; the commands that need nothing are commands."""
    called = {name for name in COMMANDS for call in CALLS if call[: len(name.split())] == name.split()}
    assert called == COMMANDS.keys() - _NEED_NONE
    assert COMMANDS.keys() >= _NEED_NONE


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a stack, which is also the working directory; nothing in the environment, nothing on standard input."""
    for name in ("CLICKLEDGER_KAFKA_BOOTSTRAP", "CLICKLEDGER_CLICKHOUSE_URL", "CLICKLEDGER_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("4917000001\n"))
    return tmp_path


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_without_a_stack_it_is_3(call: list[str], nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that says how to start one."""
    assert run_command(call) == ExitCode.UNREACHABLE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(
        f"clickledger: no stack runs on {nowhere}/.clickledger: start it with 'clickledger up'"
    )
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_where_nothing_answers_it_is_3(
    call: list[str], nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kafka and ClickHouse are named and do not answer: one line that says which."""
    monkeypatch.setenv("CLICKLEDGER_KAFKA_BOOTSTRAP", _NOWHERE)
    monkeypatch.setenv("CLICKLEDGER_CLICKHOUSE_URL", f"http://{_NOWHERE}/clickledger")
    monkeypatch.setenv("CLICKLEDGER_SECRET_KEY", f"{'b' * 64},{'a' * 64}")
    (nowhere / "mnt/rescued/api/spool/0").mkdir(parents=True)
    (nowhere / "mnt/rescued/api/spool/0/lock").touch()
    within = [str(nowhere / word[1:]) if word.startswith("/") else word for word in call]
    more = [word for name, words in _FOR_NO_STACK.items() if name in call for word in words]
    assert run_command([*within, *more]) == ExitCode.UNREACHABLE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("clickledger: ")
