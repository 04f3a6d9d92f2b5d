"""Options and fixtures for all tests; nothing is started before a test asks for it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from tests.support.full_stack import is_on_full_stack
from tests.support.promise import PromiseBroken

pytest_plugins = ("tests.support.stack", "tests.support.figures")

_HERE = Path(__file__).parent
_WITH_PROCESSES = (_HERE / "stack", _HERE / "contract")
_LONGEST = (
    "test_torture.py",
    "test_edr_deliver.py",
    "test_sink_faults.py",
    "test_webhooks.py",
    "test_sink.py",
    "test_enricher.py",
    "test_enricher_faults.py",
    "test_dashboard.py",
)
"""Of tests/stack, after those on the shared stack; `make test ARGS=--durations=30` shows when this is no longer so."""
_CHROMIUM = Path("/usr/bin/chromium")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--stack`: where Kafka and ClickHouse come from."""
    parser.addoption(
        "--stack",
        choices=("local", "containers"),
        default="local",
        help="local: the project's own broker and server; containers: official images, needs Docker",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Name our marker; let Ctrl-C reach the commands under test: a run in the background of a shell ignores it, and so would its children."""
    config.addinivalue_line("markers", f"browser: drives {_CHROMIUM}; skipped, with the reason, where that is missing")
    signal.signal(signal.SIGINT, signal.default_int_handler)


class _Together(LoadFileScheduling):  # type: ignore[misc]
    """Gives out whole files; those on the shared stack go to one process, so that it is started once."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::", 1)[0]
        return "on the full stack" if is_on_full_stack(Path(path)) else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Who runs what, with `-n`."""
    return _Together(config, log)


def _turn(item: pytest.Item) -> int:
    """When a file's turn is: the longest first, so that all processes of a run end at about the same time."""
    folder, name = item.path.parent.name, item.path.name
    if is_on_full_stack(item.path):
        return 0
    if folder == "stack":
        return 1 + (_LONGEST.index(name) if name in _LONGEST else len(_LONGEST))
    return len(_LONGEST) + (2 if folder == "contract" else 3)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files in turn; tests of processes get a second try, tests that need a browser say so where there is none."""
    items.sort(key=_turn)  # within a turn the order stays random
    no_browser = pytest.mark.skip(reason=f"{_CHROMIUM} is missing; on Debian: apt-get install chromium")
    for item in items:
        if any(map(item.path.is_relative_to, _WITH_PROCESSES)):
            # They live with other processes' clocks (sessions of 3 to 6 s, the services' own time-outs), which run on
            # while a busy machine gives those processes no time. What fails twice fails; `.ci/run` names what needed
            # the second try, so that it is mended. A lost or doubled click has no such excuse, nor has a pure test.
            item.add_marker(pytest.mark.flaky(reruns=1, rerun_except=f"^{PromiseBroken.__name__}"))
        if item.get_closest_marker("browser") and not _CHROMIUM.exists():
            item.add_marker(no_browser)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show why a test failed that was run a second time: with the second run alone it could not be mended."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"first run of {report.nodeid}")
        terminalreporter.line(report.longreprtext)
