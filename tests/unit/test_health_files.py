"""Health files of processes that are gone: not trusted, and removed by whoever starts next."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from clickledger.stack.layout import worker_pids
from shared.health_files import FOLDER, HealthFile, living, read_port

HOLD = """
import os, sys, time
from pathlib import Path
from shared.health_files import HealthFile
held = HealthFile(Path(sys.argv[1]), "sink", os.getpid(), "4711")
print("held", flush=True)
time.sleep(60)
"""


def names(data: Path) -> list[str]:
    """What lies in the folder."""
    return sorted(path.name for path in (data / FOLDER).iterdir())


def test_a_file_is_true_while_it_is_held(tmp_path: Path) -> None:
    """Its port is read; at the end it is gone."""
    with HealthFile(tmp_path, "sink", 7, "4711"):
        assert read_port(tmp_path, "sink", 7) == 4711
        assert living(tmp_path, "sink") == [7]
        assert read_port(tmp_path, "sink", 8) is None
    assert names(tmp_path) == []
    assert read_port(tmp_path, "sink", 7) is None


def test_a_killed_process_leaves_nothing_that_is_trusted(tmp_path: Path) -> None:
    """SIGKILL takes the lock, not the file; the next process of any service removes it."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert read_port(tmp_path, "sink", process.pid) == 4711
        process.kill()
    assert names(tmp_path) == [f"sink-{process.pid}"]
    assert read_port(tmp_path, "sink", process.pid) is None
    with HealthFile(tmp_path, "enricher", 8, "4712"):
        assert names(tmp_path) == ["enricher-8"]


def test_the_id_of_a_process_that_lives_is_no_proof(tmp_path: Path) -> None:
    """Ids are given again: a file of a former process with the id of one that runs now is not its own."""
    with HealthFile(tmp_path, "api-worker", 7):
        (tmp_path / FOLDER / f"api-worker-{os.getpid()}").touch()
        (tmp_path / FOLDER / f"sink-{os.getpid()}").write_text("4711")
        assert worker_pids(tmp_path, "api") == [7]
        assert read_port(tmp_path, "sink", os.getpid()) is None


def test_those_of_living_processes_stay(tmp_path: Path) -> None:
    """Whoever starts beside them."""
    with (
        HealthFile(tmp_path, "sink", 7, "1"),
        HealthFile(tmp_path, "sink", 8, "2"),
        HealthFile(tmp_path, "api", 9, "3"),
    ):
        assert names(tmp_path) == ["api-9", "sink-7", "sink-8"]
