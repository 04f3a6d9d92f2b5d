"""The command line against a running `clickledger up`, and what end-to-end tests ask of the table."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clickledger.exit_codes import ExitCode
from clickledger.stack.guard import Guard
from shared import health_files
from tests.support.clickhouse import http_ok
from tests.support.command_line import COMMAND_S, Done, run_here
from tests.support.full_stack import FullStack, clean_env, start_service
from tests.support.processes import WAIT_S, Child, accepts
from tests.support.promise import promised
from tests.support.stack import execute

_POLL_S = 0.1
_PROMOTIONS = "promotion_id,name,campaign_id,deployment_id,sent,delivered\nemployee,Employees,c-7,d-9,1000,900\n"
_LINKS = (
    "short_url,promotion_id,recipient,link_name,long_url\n"
    "http://shortdomain/dsltrack/employee/j460A8,employee,919800000001,offer,https://shop.example/offer\n"
)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def eventually(condition: Callable[[], bool], what: str, seconds_max: float = WAIT_S) -> float:
    """Wait for a condition; the seconds that it took. Fails with `what` after a generous bound."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds_max, f"not within {seconds_max:.0f} s: {what}"
        time.sleep(_POLL_S)
    return time.monotonic() - began


def command_env(stack: FullStack) -> dict[str, str]:
    """The environment in which commands find the stack."""
    return {**clean_env(), "CLICKLEDGER_DATA": str(stack.data)}


def run(stack: FullStack, *arguments: str) -> Done:
    """Run `clickledger …` to its end, whatever its exit status."""
    return run_here(command_env(stack), *arguments)


def succeed(stack: FullStack, *arguments: str) -> str:
    """Run `clickledger …`, which must exit with 0; what it printed."""
    done = run(stack, *arguments)
    assert done.returncode == 0, f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def load_example_link(stack: FullStack, folder: Path) -> None:
    """Register the published example's link and its promotion as a user does."""
    (folder / "example-promotions.csv").write_text(_PROMOTIONS)
    (folder / "example-links.csv").write_text(_LINKS)
    assert (
        succeed(stack, "promotions", "load", str(folder / "example-promotions.csv"), "--wait")
        == "1 loaded, 0 refused\n"
    )
    assert succeed(stack, "links", "load", str(folder / "example-links.csv"), "--wait") == "1 loaded, 0 refused\n"


def audit_is_clean(stack: FullStack) -> dict[str, Any]:
    """`audit --wait` must exit with 0; its JSON."""
    done = run(stack, "audit", "--wait", "--json")
    promised(done.returncode != ExitCode.FAILED, f"{done.stdout}{done.stderr}")
    assert done.returncode == 0, f"the audit ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def query(stack: FullStack, sql: str) -> list[Any]:
    """Rows of a statement, as anybody with curl reads them: without a password."""
    address = f"{stack.ready['clickhouse']}/{stack.ready['database']}"
    return [json.loads(line) for line in execute(address, f"{sql} FORMAT JSONEachRow").splitlines()]


def count_rows(stack: FullStack) -> int:
    """All rows of the table."""
    return int(query(stack, "SELECT count() AS rows FROM clicks")[0]["rows"])


def partitions_with_clicks_since(stack: FullStack, since_ms: int) -> set[int]:
    """Partitions of which a click that the API took after that moment is stored."""
    sql = f"SELECT DISTINCT raw_partition FROM clicks WHERE received_at > fromUnixTimestamp64Milli({since_ms})"
    return {row["raw_partition"] for row in query(stack, sql)}


def until_partitions_move(
    stack: FullStack, partitions: Collection[int], since_ms: int, seconds_max: float = WAIT_S
) -> float:
    """Wait until a click taken after that moment is stored in each partition; seconds since then."""
    wanted = set(partitions)
    eventually(
        lambda: wanted <= partitions_with_clicks_since(stack, since_ms),
        f"new clicks of partitions {sorted(wanted)} in the table",
        seconds_max,
    )
    return (now_ms() - since_ms) / 1000


def health_port(stack: FullStack, service: str, pid: int) -> int | None:
    """Where a service process serves `/readyz` and `/metrics`, once it does."""
    return health_files.read_port(stack.data, service, pid)


def is_whole(stack: FullStack) -> bool:
    """Whether every part of the stack answers and says that it is ready."""
    ready = stack.ready
    ports = {name: health_port(stack, name, ready["pids"][name]) for name in ("enricher", "sink")}
    return (
        accepts(int(ready["kafka"].rpartition(":")[2]))
        and http_ok(_port(ready["clickhouse"]), "/ping")
        and http_ok(_port(ready["api"]), "/readyz")
        and http_ok(_port(ready["reports"]), "/readyz")
        and all(port is not None and http_ok(port, "/readyz") for port in ports.values())
    )


def _port(url: str) -> int:
    return urlsplit(url).port or 0


class Sending:
    """`clickledger send --verify` beside the test; each 200 is checked when it ends."""

    def __init__(self, stack: FullStack, *arguments: str) -> None:
        """Start it now; `arguments` are further options of `send`."""
        self._stack, self._rows_before = stack, count_rows(stack)
        command = [sys.executable, "-m", "clickledger", "send", "--verify", "--json", *arguments]
        self._process = subprocess.Popen(
            command, env=command_env(stack), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    @property
    def is_running(self) -> bool:
        """Whether it still sends or verifies."""
        return self._process.poll() is None

    def wait_for_rows(self) -> None:
        """Wait until clicks of the run are stored: the load is on."""
        eventually(lambda: count_rows(self._stack) > self._rows_before, "rows of the run")

    def stop(self) -> None:
        """Ctrl-C: no further clicks, the proof follows."""
        self._process.send_signal(signal.SIGINT)

    def proof(self) -> dict[str, Any]:
        """Wait for its end, which must be exit status 0: every 200 is exactly one accepted row; its JSON."""
        try:
            out, err = self._process.communicate(timeout=COMMAND_S)
        finally:
            self.close()
        promised(self._process.returncode != ExitCode.FAILED, f"{out}{err}")
        assert self._process.returncode == 0, f"send ended with {self._process.returncode}:\n{out}{err}"
        found: dict[str, Any] = json.loads(out)
        assert found["verify"]["proved"]
        return found

    def close(self) -> None:
        """End it, however the test ended."""
        if self.is_running:
            self._process.kill()
            self._process.communicate()


def extra_service(guard: Guard, stack: FullStack, name: str, log: Path) -> Child:
    """One more process of a service on the stack's machine, beside the supervisor's own."""
    ready = stack.ready
    env = {
        "CLICKLEDGER_DATA": ready["data"],
        "CLICKLEDGER_KAFKA_BOOTSTRAP": ready["kafka"],
        "CLICKLEDGER_CLICKHOUSE_URL": ready["clickhouse_owner"],
    }
    return start_service(guard, name, log, env)


def assignments(child: Child) -> list[list[int]]:
    """Every assignment that a group member has logged, in order."""
    marker = "assigned partitions "
    messages = [json.loads(line)["message"] for line in child.log.read_text().splitlines() if line.startswith("{")]
    return [json.loads(text.removeprefix(marker)) for text in messages if text.startswith(marker)]
