"""What every service process shares, as far as it needs no process."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.runtime import JsonFormatter, Runtime, _health_response, instance_slot
from shared.settings import RuntimeSettings


def record(name: str, created: float) -> logging.LogRecord:
    """A log record made at a given second."""
    made = logging.LogRecord(name, logging.ERROR, "file.py", 1, "lost %s", ("node\n1",), None)
    made.created = created
    return made


def test_a_log_line_is_one_json_object() -> None:
    """Line breaks inside a message are escaped, so that a line is a record."""
    line = JsonFormatter("sink").format(record("x", 1_700_000_000.5))
    assert "\n" not in line
    assert json.loads(line)["message"] == "lost node\n1"
    assert json.loads(line)["time"].startswith("2023-11-14T22:13:20")


def test_no_two_live_processes_share_a_slot(tmp_path: Path) -> None:
    """The lowest free slot is taken; a lock that someone holds is passed over; a freed one is found again."""
    settings = RuntimeSettings(data=tmp_path, node="n")
    first = instance_slot(settings, "sink")
    second = instance_slot(settings, "sink")
    assert (first.instance_id, second.instance_id) == ("n-sink-0", "n-sink-1")
    fcntl.flock(first._file, fcntl.LOCK_UN)
    again = instance_slot(settings, "sink")
    assert again.instance_id == "n-sink-0"
    for slot in (first, second, again):
        slot._file.close()


def test_readiness_names_every_reason(tmp_path: Path) -> None:
    """All failing checks are told, none hides another."""
    runtime = Runtime(
        "api", RuntimeSettings(data=tmp_path), checks=[lambda: "", lambda: "no catalog", lambda: "no Kafka"]
    )
    assert runtime.why_not_ready() == ["no catalog", "no Kafka"]
    head, _, body = _health_response(runtime, b"/readyz").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert json.loads(body) == {
        "code": "503",
        "description": "Service Unavailable: no catalog; no Kafka",
        "reasons": ["no catalog", "no Kafka"],
    }
    ready = _health_response(Runtime("api", RuntimeSettings(data=tmp_path)), b"/readyz")
    assert json.loads(ready.partition(b"\r\n\r\n")[2]) == {"status": "ready", "reasons": []}


FAULTS = """
import resource
from shared.runtime import keep_memory
keep_memory()
sizes = [n << 18 for n in range(1, 25)]
def take_and_leave():
    for size in sizes:
        held = [bytearray(size), bytearray(size)]
        del held
take_and_leave()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
take_and_leave()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no such setting")
def test_freed_memory_is_used_again() -> None:
    """Pieces of megabytes, taken and left over and over, fault no pages once they were there; else each does."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, check=True, text=True)
    assert int(done.stdout) < 100


_DEAF = """
import asyncio, os, signal, sys
from shared.runtime import run_service
from shared.settings import RuntimeSettings

async def a_step_that_does_not_end(runtime):
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(60)

sys.exit(run_service("sink", RuntimeSettings(stop_deadline_ms=1_000), a_step_that_does_not_end, health_port=0))
"""


def test_a_service_that_does_not_stop_leaves_and_says_what_runs(tmp_path: Path) -> None:
    """Whatever its tasks do: a supervisor waits for it."""
    env = {**os.environ, "CLICKLEDGER_DATA": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _DEAF], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    (line,) = (json.loads(line) for line in done.stderr.splitlines() if "not stopped" in line)
    assert "not stopped within 1000 ms" in line["message"]
    assert "a_step_that_does_not_end()" in line["message"]


_ENDED = """
import sys
from shared.runtime import run_service
from shared.settings import RuntimeSettings

async def main(runtime):
    raise OSError(int(sys.argv[1]), "as it happens", "/some/file")

sys.exit(run_service("sink", RuntimeSettings(), main, health_port=0))
"""


@pytest.mark.parametrize(
    ("number", "cure"),
    [(errno.ENOSPC, "make room on the disk"), (errno.EADDRNOTAVAIL, "set another CLICKLEDGER_…_HOST")],
)
def test_an_error_of_the_machine_is_one_line(tmp_path: Path, number: int, cure: str) -> None:
    """With what to do about it; another one is a bug's, and shows where it is from."""

    def said(code: int) -> str:
        env = {**os.environ, "CLICKLEDGER_DATA": str(tmp_path)}
        command = [sys.executable, "-c", _ENDED, str(code)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        return done.stderr

    (line,) = said(number).splitlines()
    assert cure in json.loads(line)["message"]
    assert "/some/file" in json.loads(line)["message"]
    assert "Traceback" in said(errno.EPIPE)
