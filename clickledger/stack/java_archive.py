"""Kafka's classes as Java has them after loading, kept in a file: a broker starts in half the processor time.

Java fits such a file (an AOT cache) to itself, its options and the jars, and loads the classes from the jars where the
file is missing, stale or damaged. So brokers start all the same where it cannot be made.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from clickledger.stack.broker import Cluster, local_cluster
from clickledger.stack.ports import free_ports, taken

_START_SECONDS_MAX = 60.0
_WRITE_SECONDS_MAX = 120.0  # five to ten on two cores
_POLL_SECONDS = 0.1


def ensure_archive(jars: Sequence[Path], *, say: Callable[[str], None]) -> None:
    """Make the file once, by starting and stopping a broker; says so where that does not work."""
    with tempfile.TemporaryDirectory(prefix="clickledger-archive-") as scratch:
        cluster = local_cluster(Path(scratch), jars, free_ports(1), free_ports(1))
        archive = cluster.archive
        if archive.exists():
            return
        made = Path(scratch) / "kafka.aot"
        try:
            _record(cluster, made)
            moving = archive.with_suffix(".new")
            shutil.copyfile(made, moving)
            for former in archive.parent.glob("kafka-*.aot"):
                former.unlink()
            moving.replace(archive)
        except (OSError, TimeoutError, subprocess.TimeoutExpired) as exc:  # a folder that is not ours, a full disk
            say(f"brokers will start more slowly, for want of an archive of their classes: {exc}")
        else:
            say(f"made {archive}, with which brokers start in half the time (once)")


def _record(cluster: Cluster, archive: Path) -> None:
    """Start a broker, stop it, and have it write its classes. Raises TimeoutError when it does not start."""
    cluster.prepare()
    (node,) = cluster.nodes
    command = cluster.recording_command(node, archive)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as broker:
        try:
            deadline = time.monotonic() + _START_SECONDS_MAX
            while not taken([node.port]):
                if broker.poll() is not None or time.monotonic() > deadline:
                    raise TimeoutError("a broker did not start")
                time.sleep(_POLL_SECONDS)
            broker.terminate()
            broker.wait(_WRITE_SECONDS_MAX)
        finally:
            broker.kill()
