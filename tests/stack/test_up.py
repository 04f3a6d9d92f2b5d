"""`clickledger up` as a user runs it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sink.ddl import migrations
from tests.support.clickhouse import http_ok
from tests.support.full_stack import FullStack, clean_env
from tests.support.processes import WAIT_S
from tests.support.stack import StartStack, execute


def until(condition: Callable[[], bool], seconds_max: float = WAIT_S) -> bool:
    """Wait for a condition; whether it came true."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def is_alive(pid: int) -> bool:
    """Whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def click(stack: FullStack) -> str:
    """Send one click and give its transaction-id; retried as a client would while the API comes back."""
    ready = stack.ready
    address = urlsplit(ready["api"])
    body = json.dumps({"short-url": ready["short_url"]})
    headers = {"authorization": f"Bearer {ready['key']}", "content-type": "application/json"}
    answer: dict[str, Any] = {}

    def is_taken() -> bool:
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=20)
        try:
            connection.request("POST", "/campaignapi/resources/v3/shortlinkclicks", body, headers)
            response = connection.getresponse()
            answer.update(json.loads(response.read()))
        except OSError:
            return False
        finally:
            connection.close()
        return response.status == http.client.OK

    assert until(is_taken), answer
    return str(answer["transaction-id"])


def rows_of(stack: FullStack, transaction_id: str) -> int:
    """Accepted rows of a transaction-id, read without a password."""
    sql = f"SELECT count() FROM clicks WHERE transaction_id = '{transaction_id}' AND status = 'accepted'"
    return int(execute(f"{stack.ready['clickhouse']}/{stack.ready['database']}", sql))


def test_a_click_becomes_a_row(full_stack: FullStack) -> None:
    """One POST with the keys of the ready file is one row."""
    transaction_id = click(full_stack)
    assert until(lambda: rows_of(full_stack, transaction_id) == 1)


def test_the_ready_file_is_private_and_says_where_everything_is(full_stack: FullStack) -> None:
    """Mode 0600; every process lives; API and reports answer; the folder's own copy is the same."""
    assert full_stack.ready_file.stat().st_mode & 0o777 == 0o600
    ready = full_stack.ready
    assert set(ready["pids"]) == {"broker", "clickhouse", "api", "enricher", "sink", "reporting", "deliverer"}
    assert all(map(is_alive, full_stack.pids()))
    for name in ("api", "reports"):
        assert http_ok(urlsplit(ready[name]).port or 0, "/readyz")
    assert json.loads((full_stack.data / "ready.json").read_text()) == ready


def test_a_second_up_on_the_folder_is_refused(full_stack: FullStack) -> None:
    """One stack per folder; the message names the process that has it."""
    command = [sys.executable, "-m", "clickledger", "up", "--data", str(full_stack.data), "--port", "0"]
    done = subprocess.run(command, env=clean_env(), capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 1
    assert f"process {full_stack.supervisor.pid}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def command_lines() -> str:
    """The argument lists of all processes, as any user sees them."""
    if not Path("/proc/self/cmdline").exists():
        listing = ["/bin/ps", "-ww", "-A", "-o", "command"]
        return subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # ended meanwhile
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return "\n".join(found)


def test_secrets_are_in_no_command_line(full_stack: FullStack) -> None:
    """Every user of the machine can read argument lists."""
    listed = command_lines()
    ready = full_stack.ready
    password = urlsplit(ready["clickhouse_owner"]).password
    assert str(full_stack.data) in listed
    for secret in (password, ready["key"], ready["reports_key"], ready["admin_key"]):
        assert secret
        assert secret not in listed


def test_setup_may_be_run_again(full_stack: FullStack) -> None:
    """On a running stack it finds everything in place and says what it looked at."""
    ready = full_stack.ready
    env = {
        **clean_env(),
        "CLICKLEDGER_KAFKA_BOOTSTRAP": ready["kafka"],
        "CLICKLEDGER_CLICKHOUSE_URL": ready["clickhouse_owner"],
    }
    command = [sys.executable, "-m", "clickledger", "setup"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"11 tables and 6 views: as set-up's {len(migrations())} files leave them\n4 topics: partitions and configuration looked at\n"
    )


def test_it_survives_kills_and_restarts(start_stack: StartStack) -> None:
    """Each service killed and restarted, the supervisor killed, a clean stop: nothing is lost, keys stay."""
    stack = start_stack()
    before = stack.ready
    sent = [click(stack)]
    for name in before["pids"]:
        os.kill(before["pids"][name], signal.SIGKILL)
    assert until(lambda: all(stack.ready["pids"][name] != before["pids"][name] for name in before["pids"]))
    sent.append(click(stack))
    assert until(lambda: all(rows_of(stack, each) == 1 for each in sent))
    assert "broker died (killed by SIGKILL)" in stack.supervisor.log.read_text()

    working = stack.pids()
    stack.supervisor.process.kill()  # the supervisor alone
    stack.supervisor.process.wait()
    assert until(lambda: not any(map(is_alive, working)))

    stack.start()
    assert stack.ready["key"] == before["key"]
    sent.append(click(stack))
    assert until(lambda: all(rows_of(stack, each) == 1 for each in sent))

    working = stack.pids()
    assert stack.stop() == 0
    assert not any(map(is_alive, working))
    assert not stack.ready_file.exists()
    assert json.loads((stack.data / "ready.json").read_text())["pids"] == {}


def test_worker_processes_are_listed_and_replaced(start_stack: StartStack) -> None:
    """With several API processes the ready file lists them; a killed one is replaced there."""
    stack = start_stack(env={"CLICKLEDGER_API_WORKERS": "2"})
    assert until(lambda: isinstance(stack.ready["pids"]["api"], list))
    first, second = stack.ready["pids"]["api"]
    os.kill(first, signal.SIGKILL)
    assert until(lambda: first not in stack.ready["pids"]["api"] and len(stack.ready["pids"]["api"]) == 2)
    assert second in stack.ready["pids"]["api"]
    assert click(stack)
