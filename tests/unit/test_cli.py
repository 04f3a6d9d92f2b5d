"""The command line's frame."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from clickledger.cli import build_app, run_command
from clickledger.commands.settings import rows
from clickledger.exit_codes import ExitCode
from shared.errors import DataError, OperatorError, TransientError


def test_help_documents_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    """A script's author finds them without the manual."""
    assert run_command(["--help"]) == ExitCode.OK
    assert "Exit status" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["up", "--port", "x"],
        ["up", "--port", "65533"],
        ["up", "--exit"],
        ["tail", "--status", "duplicate"],
    ],
)
def test_wrong_usage_is_one_line_with_a_hint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, one line, and where to read on."""
    assert run_command(arguments) == ExitCode.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("clickledger: ")
    assert "--help" in line


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TransientError("Kafka does not answer"), ExitCode.UNREACHABLE),
        (OperatorError("topic x is compacted"), ExitCode.FAILED),
        (OperatorError("settings: CLICKLEDGER_PARTITIONS: too many"), ExitCode.USAGE),
        (DataError("line 3"), ExitCode.FAILED),
        (PermissionError(13, "Permission denied", "/root/x"), ExitCode.FAILED),
    ],
)
def test_expected_errors_are_one_line_and_a_status(
    error: Exception, status: ExitCode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each class of error has its exit status, and no traceback."""

    def failing(*, args: list[str], prog_name: str, standalone_mode: bool) -> None:
        raise error

    monkeypatch.setattr("clickledger.cli.build_app", lambda _command: failing)
    assert run_command([]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("clickledger: ")


def test_tables_that_are_not_whole_are_a_refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Set-up tells what differs, and its exit status says that something does."""

    async def set_up(_settings: object, say: Callable[[str], None]) -> bool:
        say("view edr is missing")
        return False

    monkeypatch.setenv("CLICKLEDGER_KAFKA_BOOTSTRAP", "127.0.0.1:9")
    monkeypatch.setattr("clickledger.setup.set_up", set_up)
    assert run_command(["setup"]) == ExitCode.FAILED
    printed = capsys.readouterr()
    assert printed.out == "view edr is missing\n"
    assert "its cure is above" in printed.err


def test_every_command_has_a_summary_and_an_example() -> None:
    """`--help` of each command shows how to call it."""
    import typer.main

    group = typer.main.get_command(build_app())
    for name, command in group.commands.items():  # type: ignore[attr-defined]  # typer's own type hides that it is a group
        if hasattr(command, "commands"):
            continue
        assert "xample" in (command.help or ""), name


def test_settings_are_printed_with_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    """Every variable has a meaning; the output is one object per line with --json."""
    assert run_command(["settings", "--json"]) == ExitCode.OK
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["name"] for each in printed] == [name for name, *_ in rows()]
    assert all(each["name"].startswith("CLICKLEDGER_") and each["meaning"] for each in printed)
