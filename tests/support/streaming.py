"""The event stream in tests: topics whose enriched records the test writes itself, reporting processes, SSE clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import orjson

from clickledger.stack.guard import Guard
from clickledger.stack.ports import free_ports
from shared.catalog import Entry, Kind
from shared.events import HEADER_RAW_OFFSET, encode_enriched, encode_raw_offset
from tests.support.catalog import key_record
from tests.support.enrichers import EnricherStack, now_ms
from tests.support.full_stack import clean_env
from tests.support.health import metric
from tests.support.processes import WAIT_S, Child

GOLDEN: dict[str, Any] = orjson.loads((Path(__file__).parents[1] / "golden/enriched-v1.json").read_bytes())
RING_BYTES = 1 << 20
"""A small ring: about 250 events."""


class StreamStack(EnricherStack):
    """Topics and a catalog as an enricher has them, and a reporting process in front of them."""

    def __init__(
        self, bootstrap: str, names: Any, folder: Path, guard: Guard, partitions: int = 3, **settings: str
    ) -> None:
        super().__init__(bootstrap, names, folder, guard, partitions)
        self.keys = {tenant: f"reports-{tenant}-{uuid.uuid4().hex}" for tenant in ("acme", "rival")}
        self.written = [0] * partitions
        """The next raw offset of each partition."""
        self._settings = settings
        self.reporting: Child | None = None

    async def open(self) -> None:
        """Make topics and keys, start reporting."""
        await super().open()
        await self.writer.put_many(
            [
                Entry(
                    Kind.KEY, f"k-{tenant}", key_record(secret, key_id=f"k-{tenant}", tenant=tenant, grants=["reports"])
                )
                for tenant, secret in self.keys.items()
            ]
        )
        await self.start_reporting()

    async def close(self) -> None:
        """End reporting, too."""
        if self.reporting is not None and self.reporting.alive:
            self.reporting.kill()
        await super().close()

    async def start_reporting(self) -> None:
        """Start the process and wait until it has streams to give."""
        folder = self._folder / "reporting"
        folder.mkdir(exist_ok=True)
        environment = {
            **clean_env(),
            **self._names.env(),
            "CLICKLEDGER_KAFKA_BOOTSTRAP": self.kafka.kafka_bootstrap,
            "CLICKLEDGER_KAFKA_REQUEST_TIMEOUT_MS": "3000",
            "CLICKLEDGER_CLICKHOUSE_URL": "http://127.0.0.1:9/nothing",
            "CLICKLEDGER_DATA": str(folder),
            "CLICKLEDGER_CATALOG_MAP_BYTES": str(64 << 20),
            "CLICKLEDGER_REPORTING_RTE_HEARTBEAT_MS": "300",
            "CLICKLEDGER_REPORTING_RTE_RING_BYTES_MAX": str(RING_BYTES),
            **self._settings,
        }
        (self.port,) = free_ports(1)
        environment["CLICKLEDGER_REPORTING_PORT"] = str(self.port)
        code = "from reporting.service import main; main()"
        self.reporting = Child(self._guard, [sys.executable, "-c", code], folder / "reporting.log", environment)
        async with asyncio.timeout(WAIT_S):
            while True:
                with contextlib.suppress(OSError, EOFError):
                    async with self.client() as events:
                        if events.status == 200:
                            return
                assert self.reporting.alive, self.reporting.tail()
                await asyncio.sleep(0.1)

    def counted(self, name: str) -> float:
        """The sum of reporting's metrics whose text begins so."""
        assert self.reporting is not None
        return metric(self._folder / "reporting", "reporting", self.reporting.pid, name)

    def client(self, query: str = "", after: str = "", tenant: str = "acme", **options: Any) -> Events:
        """A client, to be entered; `query` begins with a question mark."""
        fields = {"Authorization": f"Bearer {self.keys[tenant]}"} | ({"Last-Event-ID": after} if after else {})
        return Events(self.port, f"/v1/rte{query}", fields, **options)

    async def write(self, partition: int, count: int, **changes: Any) -> None:
        """Clicks as an enricher writes them, and as many raw records."""
        if not count:
            return
        first = self.written[partition]
        self.written[partition] += count
        await self.send(partition, [b"{}"] * count, key=b"x")
        await self.write_enriched(partition, range(first, first + count), **changes)

    async def write_enriched(
        self, partition: int, raw_offsets: Sequence[int], time_ms: int = 0, **changes: Any
    ) -> None:
        """Enriched records of these raw offsets; the same one again is a copy."""
        if not raw_offsets:
            return
        batch = self.producer.new_batch()
        for raw_offset in raw_offsets:
            record = GOLDEN | {
                "stream": self.stream,
                "raw_partition": partition,
                "raw_offset": raw_offset,
                "transaction_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{partition}/{raw_offset}")),
                **changes,
            }
            headers = [(HEADER_RAW_OFFSET, encode_raw_offset(raw_offset))]
            value = encode_enriched(record)
            if batch.append(timestamp=time_ms or now_ms(), key=None, value=value, headers=headers) is None:
                await self.producer.send_batch(self.kafka.topic_enriched, partition, batch)
                batch = self.producer.new_batch()
                batch.append(timestamp=time_ms or now_ms(), key=None, value=value, headers=headers)
        await self.producer.send_batch(self.kafka.topic_enriched, partition, batch)


class Event(NamedTuple):
    """One block of a server-sent stream."""

    id: str
    event: str
    data: Any
    comment: str

    @property
    def place(self) -> tuple[int, int]:
        """Partition and raw offset of a click."""
        return self.data["data"]["raw_partition"], self.data["data"]["raw_offset"]


class Events:
    """A client of the stream over a plain socket. After entering: `status`, `headers`, and `body` of a refusal."""

    def __init__(
        self,
        port: int,
        target: str,
        fields: Mapping[str, str],
        *,
        receive_bytes: int = 1 << 20,
        limit: int = 1 << 20,
        version: str = "1.1",
    ) -> None:
        self._port, self._target, self._fields = port, target, fields
        self._receive_bytes, self._limit, self._version = receive_bytes, limit, version
        self.last_id = ""
        """As a browser keeps it."""
        self._text = b""
        self._whole: deque[bytes] = deque()

    async def __aenter__(self) -> Self:
        """Connect, ask, read the head, and the body of a refusal."""
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_bytes)
        plain.setblocking(False)  # noqa: FBT003  # its own signature
        try:
            await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", self._port))
        except OSError:
            plain.close()
            raise
        self._reader, self._writer = await asyncio.open_connection(sock=plain, limit=self._limit)
        lines = "".join(f"{name}: {value}\r\n" for name, value in self._fields.items())
        self._writer.write(f"GET {self._target} HTTP/{self._version}\r\nhost: x\r\n{lines}\r\n".encode())
        async with asyncio.timeout(WAIT_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(head[0].split()[1])
        self.headers = dict(line.lower().split(": ", 1) for line in head[1:-2])
        if self.status != 200:
            self.body = json.loads(await self._reader.readexactly(int(self.headers["content-length"])))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Go away."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def blocks(self) -> AsyncIterator[Event]:
        """Everything that comes, to the stream's end; fails after a generous bound."""
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while True:
            while self._whole:
                yield self._parse(self._whole.popleft().decode())
            async with asyncio.timeout_at(deadline):
                size = int(await self._reader.readline() or b"0", 16)
                self._text += (await self._reader.readexactly(size + 2))[:-2]
            if not size:
                return
            *whole, self._text = self._text.split(b"\n\n")
            self._whole.extend(whole)

    async def clicks(self, count: int, *, may_be_slow: bool = False) -> list[Event]:
        """The next clicks; fails when the stream ends before, unless we may be too slow for it."""
        found: list[Event] = []
        if not count:
            return found
        async for block in self.blocks():
            if may_be_slow and block.event:
                assert block.data["reason"] == "slow", block
                return found
            if block.data is not None:
                assert not block.event, block
                found.append(block)
            if len(found) == count:
                return found
        raise AssertionError(f"the stream ended after {len(found)} of {count}")

    async def until_closed(self) -> tuple[list[Event], dict[str, Any]]:
        """Every click up to the end, and the final event's data."""
        found: list[Event] = []
        async for block in self.blocks():
            if block.event == "closed":
                return found, block.data
            if block.data is not None:
                found.append(block)
        raise AssertionError("the stream ended without a reason")

    def _parse(self, block: str) -> Event:
        fields = dict(line.partition(":")[::2] for line in block.split("\n"))
        self.last_id = fields.get("id", self.last_id).strip()
        data = fields.get("data")
        return Event(
            self.last_id,
            fields.get("event", "").strip(),
            json.loads(data) if data else None,
            fields.get("", "").strip(),
        )


def resident_bytes(pid: int) -> int:
    """Memory that a process has in RAM."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def connections_to(pid: int, port: int) -> int:
    """Connections that a process has to a port of this machine."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(str(entry.readlink()))
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(fields[2].endswith(f":{port:04X}") and f"socket:[{fields[9]}]" in sockets for fields in lines)
