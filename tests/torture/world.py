"""The whole system of one machine, part by part: each can be killed, stopped, frozen and started again at any moment.

Rule: nothing is restarted behind a fault's back. A part that was killed stays away until it is started; a service that
ends by itself is started again, as every orchestrator would, and counted.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import SecretStr

from clickledger.located import Located
from clickledger.setup import SetupSettings
from clickledger.stack import layout
from clickledger.stack.bootstrap import DEFAULT_SHORT_URL, DEFAULT_TENANT, ensure_tenant
from clickledger.stack.guard import Guard
from clickledger.stack.ports import HOST, free_ports
from shared.settings import CatalogSettings, ClickHouseSettings, KafkaSettings
from tests.support.brokers import LocalBrokers
from tests.support.clickhouse import LocalClickHouse, http_ok
from tests.support.full_stack import clean_env, is_service_ready, spawn_service
from tests.support.pipeline import assignments
from tests.support.processes import Child
from tests.support.stack import execute
from tests.support.wall_clock import WallClock

WHOLE_S_MAX: Final = 90.0
RESPAWN_S: Final = 0.25
POLL_S: Final = 0.1
DATABASE: Final = "clickledger"
ROOT: Final = Path(__file__).parents[2]


class Stuck(Exception):
    """Something that must happen by itself did not, within a generous time."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a world consists of; faults of one shape share a world."""

    brokers: int = 1
    settings: tuple[tuple[str, str], ...] = ()
    """further CLICKLEDGER_* variables of the services"""
    services: tuple[str, ...] = ("api", "enricher", "sink")
    modules: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """what is run instead of a service: (service, module and its arguments)"""
    is_clocked: bool = False
    """whether the services go by `clock`, which a fault can set; the database keeps the machine's"""

    def module(self, service: str) -> tuple[str, ...] | None:
        """What is run instead of this service; None: itself."""
        return dict(self.modules).get(service)


@dataclass(slots=True)
class Member:
    """One process of a service."""

    name: str
    """`sink`, `sink-2`: the service is what stands before the dash"""
    env: Mapping[str, str]
    module: Sequence[str] | None = None
    """what to run instead of the service: `python -m …`"""
    child: Child | None = None
    is_wanted: bool = True
    deaths: int = 0
    """how often it ended by itself"""

    @property
    def service(self) -> str:
        """`sink` of `sink-2`."""
        return self.name.partition("-")[0]

    @property
    def running(self) -> Child:
        """Its process, which must run."""
        assert self.child is not None, self.name
        return self.child


@dataclass
class World:
    """A running system; `close()` ends it."""

    guard: Guard
    folder: Path
    shape: Shape
    members: dict[str, Member] = field(default_factory=dict)
    foreign_rows: int = 0
    """rows that a fault put into the table by other ways than the API"""

    def __post_init__(self) -> None:
        """Start everything and wait until it is ready."""
        self.folder.mkdir(parents=True)
        self.data = self.folder / "data"
        self.brokers = LocalBrokers(self.guard, self.folder / "kafka", self.shape.brokers)
        self.clickhouse = LocalClickHouse(self.guard, self.folder / "clickhouse")
        (self.api_port,) = free_ports(1, besides=[self.clickhouse.port])
        self.env = {
            "CLICKLEDGER_DATA": str(self.data),
            "CLICKLEDGER_NODE": "torture",
            "CLICKLEDGER_KAFKA_BOOTSTRAP": self.brokers.bootstrap,
            "CLICKLEDGER_REPLICATION_FACTOR": str(self.shape.brokers),
            "CLICKLEDGER_CLICKHOUSE_URL": f"{self.clickhouse.url}/{DATABASE}",
            "CLICKLEDGER_API_HOST": HOST,
            "CLICKLEDGER_API_PORT": str(self.api_port),
            "CLICKLEDGER_API_WORKERS": "2",
            "CLICKLEDGER_API_SPOOL_HEARD_MS": "500",  # the audit waits for it after every round
            **dict(self.shape.settings),
        }
        self.clock = WallClock(self.folder / "clock")
        if self.shape.is_clocked:
            self.env |= self.clock.env
        self.setup()
        self.located = self._locate()
        settings = SetupSettings(self.located.kafka, self.located.clickhouse, CatalogSettings())
        keys = ensure_tenant(settings, DEFAULT_TENANT, DEFAULT_SHORT_URL, None)
        self.key = asyncio.run(keys).key
        for name in self.shape.services:
            self.add(name)
        self.wait_whole()

    # --- commands

    def setup(self) -> None:
        """`clickledger setup`."""
        command = [sys.executable, "-m", "clickledger", "setup"]
        done = subprocess.run(
            command, env={**clean_env(), **self.env}, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise Stuck(f"clickledger setup ended with {done.returncode}: {done.stdout}{done.stderr}")

    def _locate(self) -> Located:
        kafka = KafkaSettings(kafka_bootstrap=self.brokers.bootstrap, replication_factor=self.shape.brokers)
        owner = ClickHouseSettings(
            clickhouse_url=SecretStr(self.env["CLICKLEDGER_CLICKHOUSE_URL"]), clickhouse_query_timeout_ms=10_000
        )
        return Located(kafka, CatalogSettings(), owner, owner, None)

    def sql(self, text: str) -> str:
        """Run a statement as the table's owner. Raises OSError, RuntimeError."""
        return execute(self.env["CLICKLEDGER_CLICKHOUSE_URL"], text)

    def query(self, text: str) -> list[dict[str, Any]]:
        """Rows of a SELECT; none while ClickHouse is away."""
        try:
            return [orjson.loads(line) for line in self.sql(f"{text} FORMAT JSONEachRow").splitlines()]
        except (OSError, RuntimeError, http.client.HTTPException):
            return []

    # --- services

    def add(self, name: str, *, module: Sequence[str] | None = None, **settings: str) -> Member:
        """Start one more process of a service; it may not be ready yet."""
        service = name.partition("-")[0]
        member = Member(name, {**self.env, **settings}, module or self.shape.module(service))
        self.members[name] = member
        self.start(name)
        return member

    def remove(self, name: str) -> None:
        """Kill a member and forget it; harmless when there is none."""
        if (member := self.members.pop(name, None)) is not None:
            member.running.kill()

    def assigned(self, name: str) -> list[list[int]]:
        """Every assignment of partitions that a member has logged, in order."""
        return assignments(self.members[name].running)

    def wait_assigned(self, name: str, more_than: int = 0) -> None:
        """Wait until a member owns partitions, by an assignment after its first `more_than` ones."""
        self.wait(lambda: any(self.assigned(name)[more_than:]), f"{name} owns partitions")

    def is_stopped(self, name: str) -> bool:
        """Whether SIGSTOP has reached a member; Linux only."""
        fields = Path(f"/proc/{self.pid(name)}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return fields[0] == "T"

    def workers(self) -> list[int]:
        """Process ids of the API's workers."""
        return layout.worker_pids(self.data, "api")

    # --- parts: services, `clickhouse`, `broker` or `broker-2`

    def kill(self, part: str) -> None:
        """End a part as `kill -9` does; it stays away until `start`."""
        if part == "clickhouse":
            self.clickhouse.kill()
        elif part.startswith("broker"):
            self.brokers.kill(_node(part))
        else:
            self.members[part].is_wanted = False
            self.members[part].running.kill()

    def stop(self, part: str) -> None:
        """End a part by SIGTERM; it stays away until `start`."""
        if part == "clickhouse":
            self.clickhouse.stop()
        elif part.startswith("broker"):
            self.brokers.stop(_node(part))
        else:
            self.members[part].is_wanted = False
            self.members[part].running.stop()

    def start(self, part: str) -> None:
        """Start a part that was killed. Stores are waited for, services are not."""
        if part == "clickhouse":
            self.clickhouse.start()
        elif part.startswith("broker"):
            self.brokers.start(_node(part))
        else:
            self._spawn(self.members[part])

    def pid(self, part: str) -> int:
        """Process id of a running part."""
        if part == "clickhouse":
            return self.clickhouse.pid
        if part.startswith("broker"):
            return self.brokers.pid(_node(part))
        return self.members[part].running.pid

    def freeze(self, part: str) -> None:
        """SIGSTOP."""
        os.killpg(self.pid(part), signal.SIGSTOP)

    def thaw(self, part: str) -> None:
        """SIGCONT; harmless when it runs."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid(part), signal.SIGCONT)

    def _spawn(self, member: Member) -> None:
        log = self.folder / f"{member.name}.log"
        if member.module is None:
            member.child = spawn_service(self.guard, member.service, log, member.env)
        else:
            command = [sys.executable, "-m", *member.module]
            member.child = Child(self.guard, command, log, {**clean_env(), **member.env})
        member.is_wanted = True

    # --- waiting

    def tend(self) -> None:
        """Start again what ended by itself."""
        for member in self.members.values():
            if member.is_wanted and member.child is not None and not member.child.alive:
                member.child.kill()  # what is left of its group
                member.deaths += 1
                time.sleep(RESPAWN_S)
                self._spawn(member)

    @property
    def deaths(self) -> int:
        """How often a service ended by itself so far."""
        return sum(member.deaths for member in self.members.values())

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.tend()
            time.sleep(min(POLL_S, left))

    def wait(self, condition: Callable[[], bool], what: str, seconds_max: float = WHOLE_S_MAX) -> float:
        """Wait for a condition; the seconds that it took. Raises Stuck."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > seconds_max:
                raise Stuck(f"not within {seconds_max:.0f} s: {what}; not ready: {', '.join(self.missing()) or '-'}")
            self.tend()
            time.sleep(POLL_S)
        return time.monotonic() - began

    def missing(self) -> list[str]:
        """Parts that do not say that they are ready."""
        found = [
            name
            for name, member in self.members.items()
            if member.child is None or not is_service_ready(member.service, member.child, self.data)
        ]
        return found if http_ok(self.clickhouse.port, "/ping") else ["clickhouse", *found]

    def wait_ready(self, name: str) -> None:
        """Wait until a member is ready."""
        self.wait(lambda: name not in self.missing(), f"{name} is ready")

    def wait_whole(self) -> float:
        """Wait until every part is ready."""
        return self.wait(lambda: not self.missing(), "every part is ready")

    def close(self) -> None:
        """End everything; nothing of it is worth a graceful stop."""
        for name in list(self.members):
            self.thaw(name)
            self.remove(name)
        self.clickhouse.close()
        self.brokers.close()


def _node(part: str) -> int:
    return int(part.partition("-")[2] or 1)


@contextmanager
def guarded() -> Iterator[Guard]:
    """A guard that ends every child when this process is killed."""
    guard = Guard()
    try:
        yield guard
    finally:
        guard.close()
