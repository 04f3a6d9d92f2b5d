"""Webhooks from the API to the receiver: real Kafka, real HTTP, signatures checked with the library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.processes import Child
from tests.support.stack import Names
from tests.support.webhooks import Endpoint, WebhookBench


@pytest.fixture(scope="module")
def bench(guard: Any, kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebhookBench]:
    """The reports and one deliverer for the whole file."""
    topics = Names("webhooks-" + tmp_path_factory.mktemp("x").name).env()
    bench = WebhookBench(guard, tmp_path_factory.mktemp("webhooks"), kafka_bootstrap, topics)
    bench.start()
    yield bench
    bench.close()


@pytest.fixture(autouse=True)
def clean(bench: WebhookBench) -> Iterator[None]:
    """No test finds another's webhooks."""
    yield
    bench.delete_all()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """An endpoint that takes everything."""
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


def deliverer(bench: WebhookBench) -> Child:
    """The one that runs."""
    return next(child for child in bench.children if child.alive and child is not bench.reports)


def test_an_event_arrives_signed(bench: WebhookBench, endpoint: Endpoint) -> None:
    """From the moment of the 201 every wanted click is one request: a CloudEvent, signed, with the headers asked for."""
    bench.emit(3)
    made = bench.create(endpoint.url, filter={"promotion": ["spring"], "bots": "no"}, headers={"X-Team": "blue"})
    ids = bench.emit(4)
    bench.emit(2, promotion_id="autumn")
    bench.emit(2, is_bot=True)
    bench.emit(2, tenant="rival")
    ids += bench.emit(1)
    bench.until_taken(endpoint, ids)
    assert endpoint.ids() == dict.fromkeys(ids, 1)
    for got in endpoint.taken:
        got.verify(made["secret"])
        assert got.message_id == got.events[0]["id"]
        assert got.fields["content-type"] == "application/cloudevents+json"
        assert got.fields["x-team"] == "blue"
        assert got.events[0]["type"] == "com.clickledger.click.accepted"
        assert got.events[0]["subject"] == "spring"
    bench.until(lambda: len(bench.deliveries(made)) == 5, "five log entries")
    assert {(entry["outcome"], entry["status"], entry["attempt"]) for entry in bench.deliveries(made)} == {
        ("delivered", 204, 1)
    }


def test_batches(bench: WebhookBench, endpoint: Endpoint) -> None:
    """With `batch` a request has several events, as many as asked for at most, each event once."""
    made = bench.create(endpoint.url, batch={"events_max": 7, "linger_ms": 300})
    ids = bench.emit(30)
    bench.until_taken(endpoint, ids)
    assert endpoint.ids() == dict.fromkeys(ids, 1)
    assert max(len(got.events) for got in endpoint.taken) == 7
    for got in endpoint.taken:
        got.verify(made["secret"])
        assert got.fields["content-type"] == "application/cloudevents-batch+json"
    assert len({got.message_id for got in endpoint.taken}) == len(endpoint.taken)
