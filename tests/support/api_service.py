"""The API as a real process on a real broker, with a catalog of the test's own, and a small HTTP client for it."""

from __future__ import annotations

import asyncio
import http.client
import json
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clickledger.stack.guard import Guard
from shared.catalog import CatalogWriter, Entry, Kind
from shared.events import RawClick, decode_raw
from shared.kafka import Admin, Producer, Reader, Record, TopicSpec
from shared.settings import KafkaSettings
from tests.support.catalog import EXAMPLE_BODY, digest
from tests.support.full_stack import clean_env
from tests.support.processes import WAIT_S, Child, wait_until
from tests.support.wall_clock import WallClock

CLICKS = "/campaignapi/resources/v3/shortlinkclicks"
BATCH = "/v1/clicks"
DAY_MS = 86_400_000
PARTITIONS = 3
JSON = {"content-type": "application/json"}


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Reply(NamedTuple):
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a refusal, '' for a success; asserts the shape of either."""
        found = self.json
        assert self.headers["content-type"] == "application/json"
        if "transaction-id" in found:
            assert set(found) == {"transaction-id"}
            return ""
        assert set(found) == {"code", "description"}
        return str(found["code"])


class ApiService:
    """`clickledger api` on topics of its own; tenants `acme` and `rival` with their keys and links."""

    def __init__(self, bootstrap: str, names: Any, folder: Path, guard: Guard, **settings: str) -> None:
        self.kafka = KafkaSettings(
            kafka_bootstrap=bootstrap, topic_raw=names.raw, topic_enriched=names.enriched, topic_catalog=names.catalog
        )
        self.folder = folder
        self.click_key = "click-" + secrets.token_hex(8)
        self.admin_key = "admin-" + secrets.token_hex(8)
        self.rival_key = "rival-" + secrets.token_hex(8)
        self._guard = guard
        self._env = {
            **clean_env(),
            **names.env(),
            "CLICKLEDGER_KAFKA_BOOTSTRAP": bootstrap,
            "CLICKLEDGER_DATA": str(folder / "data"),
            "CLICKLEDGER_API_PORT": "0",
            **{f"CLICKLEDGER_{name.upper()}": text for name, text in settings.items()},
        }
        self.child: Child | None = None
        self.port = 0

    def go_by(self, clock: WallClock) -> None:
        """Start its processes with this wall clock."""
        self._env |= clock.env

    async def prepare(self, *, with_stream: bool = True) -> None:
        """Make the topics and fill the catalog."""
        async with Admin(self.kafka) as admin:
            await admin.create(TopicSpec(self.kafka.topic_raw, PARTITIONS, 1, {}))
            await admin.create(TopicSpec(self.kafka.topic_catalog, 1, 1, {"cleanup.policy": "compact"}))
        entries = [*self._tenant("acme"), *self._tenant("rival"), *self._keys(), *self._links()]
        if with_stream:
            entries.append(self.stream_entry())
        await self.put(entries)

    def stream_entry(self) -> Entry:
        """The stream record that `setup` would write."""
        topic = self.kafka.topic_raw
        counts = {"partitions": PARTITIONS, "partitions_at_creation": PARTITIONS, "start_offsets": [0] * PARTITIONS}
        return Entry(Kind.STREAM, topic, {"v": 1, "stream": "s1", "topic": topic, "created_at": 0, **counts})

    def _tenant(self, tenant: str) -> list[Entry]:
        record = {
            "v": 1,
            "tenant": tenant,
            "retention_days": 90,
            "privacy": "store",
            "zone": "UTC",
            "rate_limit": 10_000,
        }
        return [Entry(Kind.TENANT, tenant, record)]

    def key_entry(self, key_id: str, secret: str, tenant: str = "acme", **changes: Any) -> Entry:
        """A key's record."""
        secret_record = {"digest": digest(secret), "created_at": 0, "expires_at": changes.pop("expires_at", None)}
        record = {
            "v": 1,
            "key_id": key_id,
            "tenant": tenant,
            "grants": ["shortlinkclicks"],
            "secrets": [secret_record],
            "rate_limit": None,
            "revoked": False,
            "caller_user_agent": False,
        }
        return Entry(Kind.KEY, key_id, record | changes)

    def _keys(self) -> list[Entry]:
        return [
            self.key_entry("clicks", self.click_key),
            self.key_entry("admin", self.admin_key, grants=["admin"]),
            self.key_entry("rival", self.rival_key, tenant="rival", grants=["admin", "shortlinkclicks"]),
        ]

    def link_entry(self, key: str, tenant: str = "acme", **changes: Any) -> Entry:
        """A link's record."""
        record = {
            "v": 1,
            "tenant": tenant,
            "link": key,
            "promotion_id": "p1",
            "recipient": "r1",
            "link_name": "",
            "long_url": "",
            "sent_at": now_ms() - DAY_MS,
            "expires_at": None,
            "disabled": False,
            "match": "exact",
            "registered_at": now_ms() - DAY_MS,
        }
        return Entry(Kind.LINK, key, record | changes)

    def _links(self) -> list[Entry]:
        return [
            self.link_entry("shortdomain/dsltrack/employee/j460A8"),
            self.link_entry("s.example/rival", tenant="rival"),
            self.link_entry("s.example/old", sent_at=now_ms() - 100 * DAY_MS),
            self.link_entry("s.example/expired", expires_at=now_ms() - DAY_MS),
            self.link_entry("s.example/disabled", disabled=True),
            self.link_entry("s.example/campaign", match="prefix"),
        ]

    async def put(self, entries: list[Entry]) -> int:
        """Change the catalog; the version."""
        producer = Producer(self.kafka, "test")
        await producer.start()
        try:
            return await CatalogWriter(self.kafka, producer).put_many(entries)
        finally:
            await producer.close()

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        self.start_unready()
        assert self.child is not None
        wait_until(lambda: self.get("/readyz").status == 200, self.child, "the API")

    def start_unready(self) -> None:
        """Start the process and wait until it accepts connections."""
        command = [sys.executable, "-m", "ingest_api.service"]
        self.child = Child(self._guard, command, self.folder / "api.log", self._env)
        port_file = self.folder / "data" / "health" / f"api-http-{self.child.pid}"
        wait_until(lambda: port_file.exists() and port_file.read_text() != "", self.child, "the API")
        self.port = int(port_file.read_text())

    def health_port(self) -> int:
        """Where metrics are."""
        assert self.child is not None
        return int((self.folder / "data" / "health" / f"api-{self.child.pid}").read_text())

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.child is not None
        return self.child.stop()

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, port: int = 0
    ) -> Reply:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=WAIT_S)
        try:
            connection.request(method, path, body or None, dict(headers or {}))
            response = connection.getresponse()
            fields = {name.lower(): text for name, text in response.getheaders()}
            return Reply(response.status, fields, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        """A GET without a key."""
        return self.request("GET", path, headers=headers)

    def click(self, body: bytes = EXAMPLE_BODY, path: str = CLICKS, /, **headers: str) -> Reply:
        """Report a click with the ordinary key; header names with `_` for `-`."""
        fields = {**JSON, "authorization": f"Bearer {self.click_key}"}
        fields |= {name.replace("_", "-"): text for name, text in headers.items()}
        return self.request("POST", path, body, fields)

    def admin(self, method: str, path: str, body: bytes = b"", key: str = "") -> Reply:
        """A request with the admin key, or another one."""
        return self.request(method, path, body, {"authorization": f"Bearer {key or self.admin_key}"})

    async def raw_records(self) -> list[Record]:
        """Everything in the raw topic."""
        return [record for _, record in await self.raw_records_by_partition()]

    async def raw_records_by_partition(self) -> list[tuple[int, Record]]:
        """The same, each with its partition."""
        reader = Reader(self.kafka, self.kafka.topic_raw, client_id="test")
        await reader.start()
        try:
            ends = await reader.end_offsets(range(PARTITIONS))
            reader.assign(dict.fromkeys((p for p, end in ends.items() if end), 0))
            records: list[tuple[int, Record]] = []
            while len(records) < sum(ends.values()):
                for partition, found in (await reader.getmany(timeout_ms=200)).items():
                    records += [(partition, record) for record in found]
            return records
        finally:
            await reader.close()

    async def raw_click(self, transaction_id: str) -> RawClick:
        """The one record of a transaction-id."""
        found = [record for record in await self.raw_records() if record.key == transaction_id.encode()]
        assert len(found) == 1
        return decode_raw(found[0].value)

    async def until(self, condition: Any) -> None:
        """Wait until something holds."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                await asyncio.sleep(0.02)
