"""Webhooks end to end: the reports, any number of deliverers, enriched records, and endpoints that do what a test wants."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from standardwebhooks import Webhook

from clickledger.stack.guard import Guard
from clickledger.topics import catalog_topic_config, record_topic_config
from shared.catalog import CatalogWriter, Entry, Kind
from shared.enriched_fields import ENRICHED_FIELDS
from shared.events import HEADER_RAW_OFFSET, encode_enriched, encode_raw_offset
from shared.ids import uuid7_with_partition
from shared.kafka import Admin, Producer, Reader, TopicSpec
from shared.settings import KafkaSettings
from tests.support.catalog import key_record
from tests.support.full_stack import start_service
from tests.support.health import health_text, metric
from tests.support.processes import WAIT_S, Child
from tests.support.topics import delete_records, end_offsets

T = TypeVar("T")
PARTITIONS = 3
SECRET_KEY = "a key of these tests and of no others: 0123456789"
KEYS = {"acme": "webhooks-secret-of-acme", "rival": "webhooks-secret-of-rival"}
QUICK = {
    "CLICKLEDGER_WEBHOOKS_ALLOW_NETWORKS": "127.0.0.0/8",
    "CLICKLEDGER_WEBHOOKS_BACKOFF_MS": "50",
    "CLICKLEDGER_WEBHOOKS_BACKOFF_MS_MAX": "200",
    "CLICKLEDGER_WEBHOOKS_FAILURES_MAX": "8",
    "CLICKLEDGER_WEBHOOKS_TIMEOUT_MS": "2000",
    "CLICKLEDGER_WEBHOOKS_LOG_MAX": "50",
}
_ZERO = {"string": "", "integer": 0, "boolean": False, "integer?": None}


class Received(NamedTuple):
    """One request at an endpoint."""

    path: str
    fields: dict[str, str]
    body: bytes

    @property
    def message_id(self) -> str:
        """The field that receivers compare."""
        return self.fields["webhook-id"]

    @property
    def events(self) -> list[dict[str, Any]]:
        """One or several."""
        found = json.loads(self.body)
        return found if isinstance(found, list) else [found]

    def verify(self, secret: str) -> None:
        """As a receiver does, with the library."""
        Webhook(secret).verify(self.body, self.fields)


Answering = Callable[[Received], "tuple[int, dict[str, str]]"]


class Endpoint:
    """An HTTP server on this machine that remembers what it got."""

    def __init__(self, answering: Answering | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.answering: Answering = answering or (lambda _: (204, {}))
        self.received: list[Received] = []
        """Every request, whatever was answered."""
        self.taken: list[Received] = []
        """Those that were answered with 2xx."""
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                got = Received(self.path, {name.lower(): text for name, text in self.headers.items()}, body)
                endpoint.received.append(got)
                status, fields = endpoint.answering(got)
                if 200 <= status < 300:
                    endpoint.taken.append(got)
                self.send_response(status)
                for name, text in {"content-length": "0", **fields}.items():
                    self.send_header(name, text)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a deliverer that was killed

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/hook"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def ids(self) -> Counter[str]:
        """How often each event was taken."""
        return Counter(event["id"] for got in list(self.taken) for event in got.events)

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


class WebhookBench:
    """Topics, keys, the reports and deliverers of one test file."""

    def __init__(self, guard: Guard, folder: Path, bootstrap: str, topics: Mapping[str, str]) -> None:
        self._guard, self.folder = guard, folder
        self.env = {
            "CLICKLEDGER_KAFKA_BOOTSTRAP": bootstrap,
            "CLICKLEDGER_CLICKHOUSE_URL": "http://127.0.0.1:9/nothing",
            "CLICKLEDGER_DATA": str(folder / "data"),
            "CLICKLEDGER_SECRET_KEY": SECRET_KEY,
            "CLICKLEDGER_REPORTING_PORT": "0",
            **topics,
            **QUICK,
        }
        self.kafka = KafkaSettings(
            kafka_bootstrap=bootstrap,
            **{name.removeprefix("CLICKLEDGER_").lower(): topic for name, topic in topics.items()},  # type: ignore[arg-type]
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._producer = Producer(self.kafka, "test")
        self.children: list[Child] = []
        self._next_raw = dict.fromkeys(range(PARTITIONS), 0)
        self.stream = "stream-of-webhooks"
        self.run(self._prepare())
        self.reports = self.start("reporting")
        self.port = _listening_port(self.reports.log)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something of Kafka's."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _prepare(self) -> None:
        kafka = self.kafka
        async with Admin(kafka) as admin:
            for name in (kafka.topic_raw, kafka.topic_enriched):
                await admin.create(TopicSpec(name, PARTITIONS, 1, record_topic_config(kafka)))
            for name in (kafka.topic_catalog, kafka.topic_webhooks):
                await admin.create(TopicSpec(name, 1, 1, catalog_topic_config(kafka)))
        await self._producer.start()
        counts = {"partitions": PARTITIONS, "partitions_at_creation": PARTITIONS, "start_offsets": [0] * PARTITIONS}
        stream = {"v": 1, "stream": self.stream, "topic": kafka.topic_raw, "created_at": 0, **counts}
        keys = [
            Entry(Kind.KEY, f"k-{tenant}", key_record(secret, key_id=f"k-{tenant}", tenant=tenant, grants=["webhooks"]))
            for tenant, secret in KEYS.items()
        ]
        await CatalogWriter(kafka, self._producer).put_many([Entry(Kind.STREAM, kafka.topic_raw, stream), *keys])

    def start(self, name: str = "deliverer", **settings: str) -> Child:
        """Start a service and wait until it is ready."""
        log = self.folder / f"{name}-{len(self.children)}.log"
        child = start_service(self._guard, name, log, {**self.env, **settings})
        self.children.append(child)
        return child

    def close(self) -> None:
        """End everything."""
        for child in self.children:
            child.kill()
        self.run(self._producer.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # --- the API

    def ask(self, method: str, path: str, body: Any = None, tenant: str = "acme") -> tuple[int, Any]:
        """One request; status and JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, f"/v1/webhooks{path}", text, {"authorization": f"Bearer {KEYS[tenant]}"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def create(self, url: str, tenant: str = "acme", **body: Any) -> dict[str, Any]:
        """A new webhook, with its secret."""
        status, made = self.ask("POST", "", {"url": url, **body}, tenant)
        assert status == 201, made
        found: dict[str, Any] = made
        return found

    def view(self, made: Mapping[str, Any], tenant: str = "acme") -> dict[str, Any]:
        """A webhook as it is now."""
        status, found = self.ask("GET", f"/{made['id']}", tenant=tenant)
        assert status == 200, found
        webhook: dict[str, Any] = found
        return webhook

    def deliveries(self, made: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Its newest attempts, newest first."""
        status, found = self.ask("GET", f"/{made['id']}/deliveries")
        assert status == 200, found
        entries: list[dict[str, Any]] = found["deliveries"]
        return entries

    def delete_all(self) -> None:
        """Leave nothing for the next test."""
        for tenant in KEYS:
            for found in self.ask("GET", "", tenant=tenant)[1]["webhooks"]:
                assert self.ask("DELETE", f"/{found['id']}", tenant=tenant)[0] == 200

    # --- events

    def record(self, partition: int, raw_offset: int, **fields: Any) -> dict[str, Any]:
        """An enriched record, as a mapping."""
        now_ms = time.time_ns() // 1_000_000
        record: dict[str, Any] = {field.name: _ZERO[field.json_type] for field in ENRICHED_FIELDS}
        return record | {
            "v": 1,
            "stream": self.stream,
            "raw_partition": partition,
            "raw_offset": raw_offset,
            "transaction_id": uuid7_with_partition(now_ms, partition, (raw_offset + 1).to_bytes(8, "big")),
            "status": "accepted",
            "received_at": now_ms,
            "clicked_at": now_ms,
            "enriched_at": now_ms,
            "expires_at": now_ms + 90 * 86_400_000,
            "tenant": "acme",
            "source": "api",
            "promotion_id": "spring",
            "short_url": "go.example/a",
            **fields,
        }

    def emit(self, count: int, **fields: Any) -> list[str]:
        """Append so many clicks, over all partitions; their ids."""
        records = []
        for number in range(count):
            partition = number % PARTITIONS
            records.append(self.record(partition, self._next_raw[partition], **fields))
            self._next_raw[partition] += 1
        self.write(records)
        return [record["transaction_id"] for record in records]

    def take_raw(self, partition: int, count: int) -> range:
        """Raw offsets that a test writes itself."""
        first = self._next_raw[partition]
        self._next_raw[partition] += count
        return range(first, first + count)

    def emit_time(self) -> int:
        """A time between what was written before and what is written after."""
        time.sleep(0.005)
        now_ms = time.time_ns() // 1_000_000
        time.sleep(0.005)
        return now_ms

    def forget(self) -> None:
        """Delete all records of the enriched topic, as retention does."""
        self.run(self._forget())

    async def _forget(self) -> None:
        for partition, end in (await end_offsets(self.kafka, self.kafka.topic_enriched)).items():
            await delete_records(self.kafka, self.kafka.topic_enriched, partition, end)

    async def everything(self, topic: str) -> bytes:
        """Keys and values of a topic of one partition."""
        reader = Reader(self.kafka, topic, client_id="test")
        await reader.start()
        try:
            end = (await reader.end_offsets([0]))[0]
            reader.assign(await reader.begin_offsets([0]))
            found = b""
            while await reader.position(0) < end:
                for record in (await reader.getmany(timeout_ms=200)).get(0, ()):
                    found += (record.key or b"") + (record.value or b"")
            return found
        finally:
            await reader.close()

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append enriched records as the enricher does."""
        self.run(self._write(records))

    async def _write(self, records: Sequence[Mapping[str, Any]]) -> None:
        for partition in range(PARTITIONS):
            batch = self._producer.new_batch()
            for record in records:
                if record["raw_partition"] == partition:
                    headers = [(HEADER_RAW_OFFSET, encode_raw_offset(record["raw_offset"]))]
                    value, key = encode_enriched(record), record["transaction_id"].encode()
                    batch.append(timestamp=record["received_at"], key=key, value=value, headers=headers)
            if batch.record_count():
                await self._producer.send_batch(self.kafka.topic_enriched, partition, batch)

    # --- waiting

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Ask again until it is true."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            if time.monotonic() > deadline:
                tails = "\n".join(f"--- {child.log.name}\n{child.tail(15)}" for child in self.children)
                raise AssertionError(f"waited {WAIT_S:.0f} s for {what}\n{tails}")
            time.sleep(0.05)

    def until_taken(self, endpoint: Endpoint, ids: Sequence[str]) -> None:
        """Wait until an endpoint has taken all of these events."""
        self.until(lambda: set(ids) <= set(endpoint.ids()), f"{len(ids)} events, got {len(endpoint.ids())}")

    def metric(self, child: Child, name: str) -> float:
        """The sum of a process's metrics whose text begins so."""
        return metric(Path(self.env["CLICKLEDGER_DATA"]), "deliverer", child.pid, name)

    def says(self, child: Child, path: str) -> str:
        """What a deliverer says at its health port."""
        return health_text(Path(self.env["CLICKLEDGER_DATA"]), "deliverer", child.pid, path)


def _listening_port(log: Path) -> int:
    import re

    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text()):
            return int(found[1])
        time.sleep(0.05)
    raise AssertionError(f"the reports do not say where they listen:\n{log.read_text()}")
