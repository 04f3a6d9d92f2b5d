"""Login links for a stack whose reports may not know its key yet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from clickledger import login_link
from clickledger.login_link import make_login_link
from shared.errors import OperatorError, TransientError


@pytest.fixture
def reports() -> Iterator[Any]:
    """Reports that give the statuses in `answers`, the last one again and again."""
    answers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = b'{"path": "/login#once=x"}'
            self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield SimpleNamespace(answers=answers, reports=f"http://127.0.0.1:{server.server_address[1]}", reports_key="k")
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_link, "_AGAIN_S", 0.01)


def test_a_key_that_was_just_made(reports: Any) -> None:
    """The reports hear of it a moment later."""
    reports.answers += [401, 401, 201]
    assert make_login_link(reports, patience_s=10) == f"{reports.reports}/login#once=x"


def test_a_key_that_is_refused(reports: Any) -> None:
    """At once without patience, else after it; another fault is told as it is."""
    reports.answers += [401]
    for patience_s in (0, 0.05):
        with pytest.raises(OperatorError, match="refuses the stack's reports_key"):
            make_login_link(reports, patience_s=patience_s)
    reports.answers[0] = 503
    with pytest.raises(TransientError, match="answered 503"):
        make_login_link(reports, patience_s=10)
