"""Brokers that want TLS, a password and rights: the whole pipeline works with those of docs/grants, and with no others."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from clickledger.stack.guard import Guard
from clickledger.stack.ports import free_ports
from shared.errors import ClickledgerError, OperatorError, TransientError
from shared.kafka import Admin, Producer, TopicSpec
from shared.settings import KafkaSettings
from tests.support.clickhouse import LocalClickHouse
from tests.support.command_line import run_here
from tests.support.full_stack import start_service
from tests.support.pipeline import eventually
from tests.support.processes import Child
from tests.support.secure_brokers import SecureBroker, calls_of
from tests.support.stack import execute
from tests.support.webhooks import Endpoint

GRANTS = Path(__file__).parents[2] / "docs/grants/kafka.sh"
SERVICES = ("api", "enricher", "sink", "reporting", "deliverer")
TOPICS = ("clicks.raw", "clicks.enriched", "catalog", "webhooks")
WRITTEN = {
    "api": {"clicks.raw", "catalog"},
    "enricher": {"clicks.enriched"},
    "sink": set[str](),
    "reporting": {"catalog", "webhooks"},
    "deliverer": {"webhooks"},
}
"""Topics that a service may write into."""
LINK = "https://go.acme.example/a1"


@pytest.fixture
def kafka(guard: Guard, tmp_path: Path) -> Iterator[KafkaSettings]:
    """Settings for a broker that wants TLS and a password."""
    broker = SecureBroker(guard, tmp_path, ["clicks"], with_rights=False)
    yield broker.settings("clicks")
    broker.close()


async def test_a_producer_with_tls_and_a_password(kafka: KafkaSettings) -> None:
    """The library opens the producer's own connections. Batches of any size are acknowledged; with a wrong password none is."""
    async with Admin(kafka) as admin:
        await admin.create(TopicSpec("t", 1, 1, {"cleanup.policy": "delete"}))
    producer = Producer(kafka, "test")
    await producer.start()
    for number, size in enumerate((10, 700_000, 10)):
        assert await producer.send("t", 0, key=b"k", value=bytes(size), timestamp_ms=1) == number
    assert await producer.close()
    wrong = kafka.model_copy(update={"kafka_sasl_password": SecretStr("wrong"), "kafka_request_timeout_ms": 2_000})
    with pytest.raises(TransientError):
        await Producer(wrong, "test").start()


def test_a_file_of_tls_that_is_not_there(tmp_path: Path) -> None:
    """The setting and the file are named."""
    absent = tmp_path / "authorities.pem"
    settings = KafkaSettings(kafka_security_protocol="SSL", kafka_ssl_cafile=absent)
    with pytest.raises(OperatorError, match=f"CLICKLEDGER_KAFKA_SSL_CAFILE .{absent}.: no TLS with these files"):
        Admin(settings)


class Pipeline:
    """Set-up and all services, each with a user of its own at Kafka and ClickHouse."""

    def __init__(self, guard: Guard, folder: Path, broker: SecureBroker, clickhouse: LocalClickHouse) -> None:
        self._guard, self._folder, self._broker = guard, folder, broker
        self._clickhouse = clickhouse
        self._ports = dict(zip(("api", "reporting"), free_ports(2), strict=True))
        self.children: list[Child] = []

    def env(self, name: str) -> dict[str, str]:
        """A service's environment, or that of the owner."""
        database = self._clickhouse.service_url(name) if name in ("sink", "reporting") else self._clickhouse.url
        return {
            **self._broker.env(f"clickledger-{name}"),
            "CLICKLEDGER_CLICKHOUSE_URL": f"{database}/clickledger",
            "CLICKLEDGER_DATA": str(self._folder / "data"),
            "CLICKLEDGER_API_PORT": str(self._ports["api"]),
            "CLICKLEDGER_REPORTING_PORT": str(self._ports["reporting"]),
            "CLICKLEDGER_SECRET_KEY": "00" * 32,
            "CLICKLEDGER_WEBHOOKS_ALLOW_NETWORKS": "127.0.0.0/8",
        }

    def command(self, *arguments: str, **more: str) -> str:
        """A command of the owner's; what it printed."""
        done = run_here({**self.env("owner"), **more}, *arguments)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def start(self) -> None:
        """Start every service."""
        for name in SERVICES:
            self.children.append(start_service(self._guard, name, self._folder / f"{name}.log", self.env(name)))

    def url(self, name: str) -> str:
        """Where a service speaks HTTP."""
        return f"http://127.0.0.1:{self._ports[name]}"

    def rows(self, sql: str) -> str:
        """What the table says."""
        return execute(f"{self._clickhouse.url}/clickledger", sql).strip()


def ask(url: str, method: str, path: str, key: str, body: Mapping[str, Any] | None = None) -> Any:
    """One request that must be answered with success."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    fields = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connection.request(method, path, json.dumps(body) if body else None, fields)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    assert response.status < 300, text
    return json.loads(text)


async def cannot_write(broker: SecureBroker, service: str, topic: str) -> bool:
    """Whether a producer with the service's user is refused."""
    producer = Producer(broker.settings(f"clickledger-{service}"), "test")
    try:
        await producer.start()  # who may write nowhere is no producer
        await producer.send(topic, 0, key=b"k", value=b"v", timestamp_ms=1)
    except ClickledgerError as exc:
        if "Authorization" not in str(exc):
            raise
        return True
    finally:
        await producer.close()
    return False


async def test_the_pipeline_with_its_rights(guard: Guard, tmp_path: Path) -> None:
    """A click becomes a row, an event, a webhook's delivery and a trace, and the broker denied nothing.

    Each service may write where it must, and nowhere else.
    """
    users = [f"clickledger-{name}" for name in ("owner", *SERVICES)]
    broker = SecureBroker(guard, tmp_path, users, with_rights=True)
    clickhouse = LocalClickHouse(guard, tmp_path / "clickhouse")
    pipeline, endpoint = Pipeline(guard, tmp_path, broker, clickhouse), Endpoint()
    try:
        await broker.allow(calls_of(GRANTS, tmp_path))
        pipeline.command("setup")
        pipeline.command("tenants", "create", "acme")
        grants = "shortlinkclicks,admin,reports,webhooks"
        key = pipeline.command("keys", "create", "--tenant", "acme", "--grants", grants)
        pipeline.start()
        api, reports = pipeline.url("api"), pipeline.url("reporting")
        (tmp_path / "links.csv").write_text(f"short_url,promotion_id,recipient\n{LINK},summer,4917000001\n")
        pipeline.command(
            "links", "load", str(tmp_path / "links.csv"), "--wait", "--url", api, CLICKLEDGER_ADMIN_KEY=key
        )
        ask(reports, "POST", "/v1/webhooks", key, {"url": endpoint.url})
        click = {"short-url": LINK, "ip-address": "203.199.178.211"}
        clicked = ask(api, "POST", "/campaignapi/resources/v3/shortlinkclicks", key, click)["transaction-id"]
        stored = f"SELECT status FROM clicks WHERE transaction_id = '{clicked}'"
        eventually(lambda: pipeline.rows(stored) == "accepted", "the row")
        eventually(lambda: endpoint.ids()[clicked] == 1, "the delivery")
        trace = f"/v1/transactions/{clicked}"  # its rows, and what Kafka says
        eventually(lambda: ask(reports, "GET", trace, key)["note"] == "", "the trace")
        pipeline.command("audit", "--wait")
        assert broker.denied() == []
        for service in SERVICES:
            for topic in TOPICS:
                assert await cannot_write(broker, service, topic) != (topic in WRITTEN[service]), (service, topic)
        assert len(broker.denied()) >= 1
    finally:
        endpoint.close()
        for child in pipeline.children:
            child.kill()
        clickhouse.close()
        broker.close()
