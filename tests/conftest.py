"""Options and fixtures for all tests; nothing is started before a test asks for it."""

from __future__ import annotations

import signal

import pytest

pytest_plugins = ("tests.support.stack", "tests.support.figures")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--stack`: where Kafka and ClickHouse come from."""
    parser.addoption(
        "--stack",
        choices=("local", "containers"),
        default="local",
        help="local: the project's own broker and server; containers: official images, needs Docker",
    )


def pytest_configure() -> None:
    """Let Ctrl-C reach the commands under test: a run in the background of a shell ignores it, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
