"""Every command explains itself, and says in one line what is wrong with its arguments."""

from __future__ import annotations

import pytest

from clickledger.cli import build_app, run_command
from clickledger.commands.services import SERVICES

_COMMANDS = [
    "up",
    "setup",
    "settings",
    "api",
    "enricher",
    "sink",
    "reporting",
    "deliverer",
    "send",
    "audit",
    "dashboard",
    "refill",
    "reprocess",
    "erase",
    "sql",
    "tail",
    "trace",
    "report ctr",
    "report breakdown",
    "edr export",
    "edr deliver",
    "links load",
    "links list",
    "promotions load",
    "spool list",
    "spool verify",
    "spool replay",
    "spool forget",
    "keys create",
    "keys list",
    "keys roll",
    "keys revoke",
    "tenants create",
    "tenants list",
    "tenants set",
    "webhooks create",
    "webhooks list",
    "webhooks update",
    "webhooks rotate",
    "webhooks delete",
    "webhooks test",
    "webhooks deliveries",
    "webhooks replay",
    "webhooks reseal",
]


@pytest.mark.parametrize("command", _COMMANDS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever asks for help gets a line to copy."""
    assert run_command([*command.split(), "--help"]) == 0
    _, found, example = " ".join(capsys.readouterr().out.split()).partition("Example: ")
    assert found
    assert f"clickledger {command}" in example


def test_the_list_of_commands_is_complete() -> None:
    """A new command must be added above."""
    app = build_app()
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    for group in app.registered_groups:
        assert group.typer_instance is not None
        names |= {f"{group.name} {command.name}" for command in group.typer_instance.registered_commands}
    assert names == set(_COMMANDS)


def test_a_service_comes_without_the_other_commands() -> None:
    """Its start does not pay for their imports; anything else has all of them."""
    assert {command.name for command in build_app("sink").registered_commands} == set(SERVICES)
    assert not build_app("sink").registered_groups
    assert len(build_app("audit").registered_commands) > len(SERVICES)


@pytest.mark.parametrize(
    "arguments",
    [
        "send --count x",
        "send --batch 1001",
        "send --url http://127.0.0.1:9",
        "send --url nowhere --key k --short-url u",
        "send --url http://127.0.0.1:9 --key k",
        "audit --accept-gap 1:2",
        "audit --accept-gap 5-3 --reason r",
        "keys create --tenant t --grants everything",
        "keys create --tenant t --grants admin --expires tomorrow",
        "keys roll k --expires 0d",
        "keys revoke k --secret 3",
        "tenants set t",
        "report ctr --from yesterday",
        "report breakdown --by colour --tenant t",
        "refill --accept-lost",
        "refill --at 3",
        "erase --tenant t",
        "erase --finish --tenant t --recipient r",
        "erase --tenant t --recipient 4917 --reason for-4917",
        "tail --status lost",
        "links load /nowhere --url http://127.0.0.1:9 --key k",
    ],
)
def test_wrong_arguments_are_one_line_and_exit_2(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The line names the mistake and where the help is."""
    assert run_command(arguments.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert "--help" in printed.err


def test_without_a_stack_the_way_to_start_one_is_named(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    """One line; for the audit no stack is no verdict."""
    assert run_command(["audit", "--data", str(tmp_path)]) == 3
    assert "clickledger up" in capsys.readouterr().err


def test_an_api_that_does_not_answer_is_exit_3(capsys: pytest.CaptureFixture[str]) -> None:
    """Trying again may help."""
    assert (
        run_command(["send", "--count", "1", "--url", "http://127.0.0.1:9", "--key", "k", "--short-url", "http://s/a"])
        == 3
    )
    assert "127.0.0.1:9" in capsys.readouterr().err
