"""The snippets for the app side against the stack: nothing is lost or counted twice, whatever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.clickhouse import http_ok
from tests.support.full_stack import FullStack
from tests.support.pipeline import eventually, query, succeed

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tests/clients"
MODULES = TOOLS / "node_modules"
CLICKS = 300
COMMAND_S = 240.0

needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (MODULES / ".bin/tsc").exists(),
    reason="node or tests/clients/node_modules is absent",
)


@pytest.fixture(scope="module")
def typescript(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that drives the compiled snippet; compiling is strict."""
    folder = tmp_path_factory.mktemp("typescript")
    command = [str(MODULES / ".bin/tsc"), "--project", str(TOOLS), "--outDir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_S)
    assert done.returncode == 0, done.stdout
    compiled = folder / "clickQueue.js"
    compiled.rename(compiled.with_suffix(".mjs"))
    return ["node", str(TOOLS / "drive.mjs"), str(compiled.with_suffix(".mjs"))]


@pytest.fixture(params=["python", pytest.param("typescript", marks=needs_node)])
def client(request: pytest.FixtureRequest) -> list[str]:
    """The command of each client that is run."""
    if request.param == "python":
        return [sys.executable, str(TOOLS / "drive.py")]
    command: list[str] = request.getfixturevalue("typescript")
    return command


class Driver:
    """One app: its queue's folder and the marks of its clicks."""

    def __init__(self, command: list[str], stack: FullStack, folder: Path) -> None:
        self.stack, self.mark = stack, f"Snippet-{uuid4().hex}"
        self._command, self._folder = command, folder

    def arguments(self, verb: str, count: int, **changes: str) -> list[str]:
        """The command line; `changes` replace url, key or short_url."""
        ready = self.stack.ready
        named = {"url": ready["api"], "key": ready["key"], "short_url": ready["short_url"], **changes}
        return [
            *self._command, verb, str(self._folder), named["url"], named["key"], named["short_url"], self.mark, str(count)
        ]  # fmt: skip

    def run(self, verb: str, count: int = 0, **changes: str) -> dict[str, Any]:
        """Run to its end."""
        command = self.arguments(verb, count, **changes)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_S)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def stored(self) -> int:
        """Different clicks of this app in the table."""
        sql = f"SELECT uniqExact(user_agent) AS found FROM rte WHERE user_agent LIKE '{self.mark}/%'"
        return int(query(self.stack, sql)[0]["found"])


@pytest.fixture
def make(client: list[str], full_stack: FullStack, tmp_path: Path) -> Callable[[], Driver]:
    """An app on the shared stack."""
    return lambda: Driver(client, full_stack, tmp_path)


def test_each_click_is_one_row_whatever_is_killed(make: Callable[[], Driver]) -> None:
    """Queued offline; the app is killed while it sends, then the API is; at the end each click is one accepted row."""
    app = make()
    stack = app.stack
    assert app.run("add", CLICKS)["left"] == CLICKS
    sending = subprocess.Popen(app.arguments("flush", 0), stdout=subprocess.DEVNULL)
    eventually(lambda: app.stored() > 0, "a first click of the app")
    sending.kill()
    sending.wait()
    again = subprocess.Popen(app.arguments("flush", 0), stdout=subprocess.PIPE, text=True)
    found = stack.ready["pids"]["api"]
    for pid in found if isinstance(found, list) else [found]:
        os.kill(pid, signal.SIGKILL)
    printed, _ = again.communicate(timeout=COMMAND_S)
    assert json.loads(printed) == {"left": 0, "refused": []}
    eventually(lambda: app.stored() == CLICKS, "all clicks of the app")
    succeed(stack, "audit", "--wait")
    sql = f"SELECT count() AS found FROM rte WHERE user_agent LIKE '{app.mark}/%'"
    assert int(query(stack, sql)[0]["found"]) == CLICKS
    port = int(stack.ready["api"].rpartition(":")[2])
    eventually(lambda: http_ok(port, "/readyz"), "the API again")


def test_final_answers_leave_the_queue_and_a_bad_key_does_not(make: Callable[[], Driver]) -> None:
    """An unknown link is refused once and gone; with a wrong key nothing is lost."""
    app = make()
    app.run("add", 1, short_url="http://nobody.example/none")
    wrong = subprocess.run(
        app.arguments("flush", 0, key="wrong"), capture_output=True, text=True, check=False, timeout=COMMAND_S
    )
    assert wrong.returncode != 0
    assert "NotAuthorized" in wrong.stderr
    assert app.run("flush") == {"left": 0, "refused": ["1003"]}


def test_a_promise_of_1010_is_final(make: Callable[[], Driver], tmp_path: Path) -> None:
    """A click on a disabled link is answered 200 with 1010 and not sent again."""
    app = make()
    url = f"http://disabled.example/{app.mark}"
    links = tmp_path / "links.ndjson"
    links.write_text(json.dumps({"short_url": url, "promotion_id": "disabled", "disabled": True}) + "\n")
    succeed(app.stack, "links", "load", str(links), "--wait")
    app.run("add", 1, short_url=url)
    assert app.run("flush") == {"left": 0, "refused": ["1010"]}


def test_curl(full_stack: FullStack) -> None:
    """The shell script gets an id."""
    ready = full_stack.ready
    command = [str(ROOT / "docs/clients/curl/click.sh"), ready["api"], ready["key"], ready["short_url"]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=COMMAND_S)
    assert list(json.loads(done.stdout)) == ["transaction-id"]
