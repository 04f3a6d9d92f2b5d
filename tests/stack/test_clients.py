"""The snippets for the app side against the stack: nothing is lost or counted twice, whatever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ingest_api.answers import Published
from tests.support.clickhouse import http_ok
from tests.support.full_stack import FullStack
from tests.support.pipeline import eventually, query, succeed

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tests/clients"
MODULES = TOOLS / "node_modules"
CLICKS = 300
COMMAND_S = 240.0
ACCEPTED = (200, b'{"transaction-id":"01a203ee-2493-7000-93ec-678c2faaf8d7"}')
PAGE = b"<!doctype html><title>no answer of ours</title>"
FINAL = [
    Published.NOT_PROCESSED,
    Published.FAILED,
    Published.INVALID_JSON,
    Published.FIELD_MISSING,
    Published.NO_PROMOTION,
]
STOP = [Published.NOT_ALLOWED, Published.INVALID_TOKEN]
LATER = [answer for answer in Published if answer not in (*FINAL, *STOP)]

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


class ScriptedServer:
    """An HTTP server on this machine, in place of a stack, that gives the answer it was told to each request."""

    def __init__(self) -> None:
        self.answering: Callable[[dict[str, Any]], tuple[int, bytes] | None] = lambda _: ACCEPTED
        """Status and body for a click; None: the connection is closed."""
        self.fields: dict[str, str] = {}
        """Further fields of each answer's head."""
        self.ids: list[str] = []
        """The Idempotency-Key of each request."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                click = json.loads(self.rfile.read(int(self.headers["content-length"])))
                server.ids.append(self.headers["idempotency-key"])
                answer = server.answering(click)
                if answer is not None:
                    self.send_response(answer[0])
                    for name, text in {"content-length": str(len(answer[1])), **server.fields}.items():
                        self.send_header(name, text)
                    self.end_headers()
                    self.wfile.write(answer[1])

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.ready = {"api": url, "key": "a-key", "short_url": "http://shortdomain/x"}
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class Driver:
    """One app: its queue's folder and the marks of its clicks."""

    def __init__(self, command: list[str], stack: FullStack | ScriptedServer, folder: Path) -> None:
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


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """Answers as it is told."""
    server = ScriptedServer()
    yield server
    server.close()


@pytest.fixture
def offline(client: list[str], server: ScriptedServer, tmp_path: Path) -> Driver:
    """An app with one click in its queue and the scripted server before it."""
    app = Driver(client, server, tmp_path)
    app.run("add", 1)
    return app


def answer_of(code: str | int) -> bytes:
    """The body of a refusal."""
    return json.dumps({"code": code, "description": "Some words."}).encode()


KEPT: dict[str, tuple[int, bytes] | None] = {
    **{f"code {answer.code}": (answer.code, answer_of(str(answer.code))) for answer in LATER},
    **{f"code {code}": (code, answer_of(str(code))) for code in (400, 408, 413, 431, 503)},
    **{f"page {status}": (status, PAGE) for status in (200, 400, 401, 403, 404, 405, 408, 413, 431, 498, 499, 502)},
    "integer code": (429, answer_of(429)),
    "code that is not published": (499, answer_of("1099")),
    "code in no object": (499, b'["1003"]'),
    "empty object": (200, b"{}"),
    "empty array": (200, b"[]"),
    "array that names it": (200, b'["transaction-id"]'),
    "string that names it": (200, b'"transaction-id"'),
    "null": (200, b"null"),
    "no body": (200, b""),
    "cut short": (200, ACCEPTED[1][:-2]),
    "not UTF-8": (200, b'{"transaction-id":"\xff'),
    "too deep": (200, b"[" * 100_000),
    "no answer": None,
}


@pytest.mark.parametrize("answer", KEPT.values(), ids=KEPT)
def test_what_is_no_final_answer_keeps_the_click(
    offline: Driver, server: ScriptedServer, answer: tuple[int, bytes] | None
) -> None:
    """It is sent again later, with the same key, and the app can say why it waits."""
    server.answering = lambda _: answer
    found = offline.run("try")
    assert found["left"] == 1
    assert 500 <= found["wait_ms"] <= 1_000
    assert found["error"].startswith(f"HTTP {answer[0]}: " if answer else ("RemoteDisconnected", "TypeError"))
    server.answering = lambda _: ACCEPTED
    assert offline.run("try") == {"left": 0, "wait_ms": None, "error": ""}
    assert len(server.ids) == 2
    assert len(set(server.ids)) == 1


def test_without_a_connection_the_click_is_kept(offline: Driver, server: ScriptedServer) -> None:
    """Nobody listens."""
    server.close()
    found = offline.run("try")
    assert found["left"] == 1
    assert "ECONNREFUSED" in found["error"] or "ConnectionRefusedError" in found["error"]


def test_retry_after_is_respected(offline: Driver, server: ScriptedServer) -> None:
    """Seconds are; a date, which no answer of ours has, is not."""
    server.answering = lambda _: (503, PAGE)
    server.fields = {"retry-after": "7"}
    assert offline.run("try")["wait_ms"] == 7_000
    server.fields = {"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}
    assert 500 <= offline.run("try")["wait_ms"] <= 1_000


@pytest.mark.parametrize(("status", "code_type"), [(401, str), (403, str), (498, str), (498, int)])
@pytest.mark.parametrize("answer", STOP)
def test_without_authorization_it_stops_and_keeps_the_click(
    offline: Driver, server: ScriptedServer, answer: Published, status: int, code_type: type[str | int]
) -> None:
    """Whatever the status and the type of the code, which are settings."""
    server.answering = lambda _: (status, answer_of(code_type(answer.code)))
    command = offline.arguments("try", 0)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_S)
    assert done.returncode != 0
    assert "NotAuthorized" in done.stderr
    assert f"{answer.code} Some words." in done.stderr
    assert offline.run("add", 0)["left"] == 1


@pytest.mark.parametrize(("status", "code_type"), [(200, str), (500, int)])
@pytest.mark.parametrize("answer", FINAL)
def test_a_refused_click_is_gone_and_told(
    offline: Driver, server: ScriptedServer, answer: Published, status: int, code_type: type[str | int]
) -> None:
    """Whatever the status and the type of the code; on standard error where the app has nothing else in mind."""
    server.answering = lambda _: (status, answer_of(code_type(answer.code)))
    command = offline.arguments("try", 0)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=COMMAND_S)
    assert json.loads(done.stdout) == {"left": 0, "wait_ms": None, "error": ""}
    assert f"click on http://shortdomain/x refused: {answer.code} Some words." in done.stderr


def test_a_click_that_nothing_lets_through_holds_up_no_other(offline: Driver, server: ScriptedServer) -> None:
    """Such as one whose user agent a firewall in between dislikes."""
    offline.run("add", 3)
    server.answering = lambda click: (403, PAGE) if click["user-agent"].endswith("/0") else ACCEPTED
    offline.run("try")
    assert offline.run("try")["left"] == 4  # the app's own /0, then the second one
    assert offline.run("try")["left"] == 2


def curl(stack: FullStack | ScriptedServer) -> subprocess.CompletedProcess[bytes]:
    """One click by the shell script."""
    names = ("api", "key", "short_url")
    command = [str(ROOT / "docs/clients/curl/click.sh"), *(stack.ready[name] for name in names)]
    return subprocess.run(command, capture_output=True, check=False, timeout=COMMAND_S)


def test_curl(full_stack: FullStack) -> None:
    """The shell script gets an id."""
    done = curl(full_stack)
    assert done.returncode == 0
    assert list(json.loads(done.stdout)) == ["transaction-id"]


@pytest.mark.parametrize("body", [PAGE, b"{}", b"[]", b"", answer_of("1010"), answer_of("1003"), answer_of("404")])
def test_curl_fails_without_an_id(server: ScriptedServer, body: bytes) -> None:
    """Its exit status says so, whatever the answer's is; the answer is printed."""
    server.answering = lambda _: (200, body)
    done = curl(server)
    assert done.returncode != 0
    assert done.stdout == body


def test_curl_prints_the_last_answer_only(server: ScriptedServer) -> None:
    """It tries again by itself, with the same key."""
    server.answering = lambda _: ACCEPTED if len(server.ids) > 1 else (500, answer_of("500") * 9)
    done = curl(server)
    assert done.returncode == 0
    assert done.stdout == ACCEPTED[1]
    assert len(set(server.ids)) == 1
