"""What the measurements on the real stack share: the broker and the server of the tests, and processor time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from clickledger.stack.guard import Guard
from tests.support.brokers import LocalBrokers
from tests.support.clickhouse import LocalClickHouse
from tests.support.full_stack import clean_env
from tests.support.stack import Names


class Stores(NamedTuple):
    """A broker and a ClickHouse server, set up, and the environment in which services find both."""

    guard: Guard
    folder: Path
    clickhouse: LocalClickHouse
    env: Mapping[str, str]


@contextmanager
def stores() -> Iterator[Stores]:
    """Start both, make topics and table, and end everything afterwards."""
    guard = Guard()
    try:
        with tempfile.TemporaryDirectory(prefix="clickledger-bench-") as name:
            folder = Path(name)
            brokers = LocalBrokers(guard, folder / "kafka")
            clickhouse = LocalClickHouse(guard, folder / "clickhouse")
            try:
                env = {
                    "CLICKLEDGER_KAFKA_BOOTSTRAP": brokers.bootstrap,
                    "CLICKLEDGER_CLICKHOUSE_URL": f"{clickhouse.url}/clickledger",
                    "CLICKLEDGER_DATA": str(folder / "data"),
                    **Names("bench").env(),
                }
                setup = [sys.executable, "-m", "clickledger", "setup"]
                subprocess.run(setup, env={**clean_env(), **env}, check=True, capture_output=True)
                yield Stores(guard, folder, clickhouse, env)
            finally:
                clickhouse.close()
                brokers.close()
    finally:
        guard.close()


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, all threads; Linux only, elsewhere 0."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
