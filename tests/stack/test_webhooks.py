"""Webhooks from the API to the receiver: real Kafka, real HTTP, signatures checked with the library."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clickledger.cli import run_command
from reporting.webhooks.api import BODY_BYTES_MAX
from tests.support.full_stack import spawn_service
from tests.support.processes import Child
from tests.support.stack import Names
from tests.support.webhooks import KEYS, PARTITIONS, SECRET_KEY, Endpoint, WebhookBench


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
    made = bench.create(endpoint.url, filter={"promotion_id": ["spring"], "bots": "no"}, headers={"X-Team": "blue"})
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


def test_filters_by_status_and_link(bench: WebhookBench, endpoint: Endpoint) -> None:
    """Only these statuses, and only these links, as they were sent or as they are registered; all must hold."""
    links = ["go.example/b", "http://sent.example/x"]
    made = bench.create(endpoint.url, filter={"status": ["rejected", "malformed"], "link": links})
    assert made["filter"] == {"status": ["rejected", "malformed"], "promotion_id": [], "link": links, "bots": "any"}
    ids = bench.emit(2, status="rejected", link="go.example/b")
    bench.emit(2, status="accepted", link="go.example/b")
    bench.emit(2, status="rejected", link="go.example/c")
    ids += bench.emit(1, status="malformed", short_url="http://sent.example/x")
    bench.until_taken(endpoint, ids)
    assert endpoint.ids() == dict.fromkeys(ids, 1)
    assert {got.events[0]["type"].rpartition(".")[2] for got in endpoint.taken} == {"rejected", "malformed"}


def test_bodies_are_bounded(bench: WebhookBench, endpoint: Endpoint) -> None:
    """One that is too large is 413 at every route that takes one, and changes nothing."""
    made = bench.create(endpoint.url)
    large = {"url": endpoint.url, "description": "x" * BODY_BYTES_MAX}
    for method, path in (("POST", ""), ("PATCH", f"/{made['id']}"), ("POST", f"/{made['id']}/replay")):
        assert (bench.ask(method, path, large)[0], path) == (413, path)
    assert bench.view(made)["description"] == ""


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


def test_a_test_event(bench: WebhookBench, endpoint: Endpoint) -> None:
    """It is sent at once, signed, whether or not the webhook is enabled, and its outcome is the answer."""
    made = bench.create(endpoint.url, enabled=False)
    status, found = bench.ask("POST", f"/{made['id']}/test")
    assert (status, found["outcome"], found["status"], found["kind"]) == (200, "delivered", 204, "test")
    (got,) = endpoint.taken
    got.verify(made["secret"])
    assert got.events[0]["type"] == "com.clickledger.webhook.test"
    endpoint.answering = lambda _: (500, {})
    status, found = bench.ask("POST", f"/{made['id']}/test")
    assert (status, found["outcome"], found["status"]) == (200, "status", 500)


def test_a_dead_and_a_slow_endpoint_beside_a_good_one(bench: WebhookBench, endpoint: Endpoint) -> None:
    """The good one has everything while the others have nothing; what the dead one missed it gets when it is back."""
    slow = Endpoint(lambda _: time.sleep(5) or (204, {}))
    dead = Endpoint(lambda _: (503, {}))
    try:
        slow_one, dead_one = bench.create(slow.url), bench.create(dead.url, batch={"linger_ms": 0})
        bench.create("http://127.0.0.1:9/nobody")
        bench.create(endpoint.url)
        ids = bench.emit(60)
        bench.until_taken(endpoint, ids)
        assert endpoint.ids() == dict.fromkeys(ids, 1)
        assert not slow.taken
        assert not dead.taken
        bench.until(lambda: any(e["outcome"] == "timeout" for e in bench.deliveries(slow_one)), "a time-out")
        bench.until(lambda: bench.deliveries(dead_one)[0]["attempt"] > 2, "three attempts")
        ids_of_attempts = {entry["id"] for entry in bench.deliveries(dead_one)}
        assert len(ids_of_attempts) == 1
        dead.answering = lambda _: (200, {})
        assert bench.ask("PATCH", f"/{dead_one['id']}", {"enabled": True})[0] == 200  # it may have been disabled by now
        bench.until_taken(dead, ids)
    finally:
        slow.close()
        dead.close()


def test_gone_disables_and_enabling_goes_on(bench: WebhookBench, endpoint: Endpoint) -> None:
    """After 410 nothing more is sent; enabled again, the webhook goes on where it stood."""
    endpoint.answering = lambda _: (410, {})
    made = bench.create(endpoint.url)
    ids = bench.emit(3)
    bench.until(lambda: not bench.view(made)["enabled"], "the webhook to be disabled")
    assert bench.view(made)["disabled"]["reason"] == "gone"
    assert len(endpoint.received) == 1
    ids += bench.emit(3)
    endpoint.answering = lambda _: (200, {})
    assert bench.ask("PATCH", f"/{made['id']}", {"enabled": True})[1]["enabled"]
    bench.until_taken(endpoint, ids)
    assert endpoint.ids() == dict.fromkeys(ids, 1)


def test_failures_disable(bench: WebhookBench, endpoint: Endpoint) -> None:
    """After the stated number of failures in a row, with the reason; `position: latest` leaves out what waits."""
    endpoint.answering = lambda _: (500, {})
    made = bench.create(endpoint.url)
    missed = bench.emit(3)
    bench.until(lambda: not bench.view(made)["enabled"], "the webhook to be disabled")
    assert bench.view(made)["disabled"]["reason"] == "failing"
    assert len(endpoint.received) == int(bench.env["CLICKLEDGER_WEBHOOKS_FAILURES_MAX"])
    assert {got.message_id for got in endpoint.received} == {endpoint.received[0].message_id}
    newest = bench.deliveries(made)[0]
    assert (newest["disabled"], newest["attempt"], newest["outcome"]) == ("failing", 8, "status")
    endpoint.answering = lambda _: (200, {})
    assert bench.ask("PATCH", f"/{made['id']}", {"enabled": True, "position": "latest"})[1]["enabled"]
    ids = bench.emit(3)
    bench.until_taken(endpoint, ids)
    assert not set(missed) & set(endpoint.ids())


def test_retry_after_is_waited_for(bench: WebhookBench, endpoint: Endpoint) -> None:
    """The next attempt is not before the time that the receiver asked for; the log says when."""
    times: list[float] = []

    def once(_: Any) -> tuple[int, dict[str, str]]:
        times.append(time.monotonic())
        return (503, {"retry-after": "2"}) if len(times) == 1 else (204, {})

    endpoint.answering = once
    made = bench.create(endpoint.url)
    bench.until_taken(endpoint, bench.emit(1))
    assert times[1] - times[0] >= 1.9
    bench.until(lambda: len(bench.deliveries(made)) == 2, "both attempts in the log")
    assert [entry["next_attempt_at"] is None for entry in bench.deliveries(made)] == [True, False]


def test_a_replay(bench: WebhookBench, endpoint: Endpoint) -> None:
    """Events of a time range come again with the same ids, beside new ones; one replay at a time, none of the past."""
    made = bench.create(endpoint.url)
    before = bench.emit(3)
    bench.until_taken(endpoint, before)
    from_ms = bench.emit_time()
    ids = bench.emit(6)
    bench.until_taken(endpoint, ids)
    to_ms = bench.emit_time()
    after = bench.emit(3)
    bench.until_taken(endpoint, after)
    status, found = bench.ask("POST", f"/{made['id']}/replay", {"from": from_ms, "to": to_ms})
    assert status == 202, found
    bench.until(lambda: endpoint.ids() == dict.fromkeys(before + after, 1) | dict.fromkeys(ids, 2), "the replay")
    bench.until(lambda: bench.view(made)["replay"] is None, "the replay's end")
    assert {entry["kind"] for entry in bench.deliveries(made)} == {"live", "replay"}
    for body in ({"from": 0}, {"from": to_ms, "to": from_ms}, {"from": "yesterday"}, {}, {"from": from_ms, "x": 1}):
        assert bench.ask("POST", f"/{made['id']}/replay", body)[0] == 400


def test_a_webhook_that_is_behind_reads_ahead(bench: WebhookBench, endpoint: Endpoint) -> None:
    """One event in each request does not need one fetch each: older events arrive in order, as fast as they are taken."""
    made = bench.create(endpoint.url, enabled=False)
    ids = bench.emit(600)
    deliverer(bench).kill()  # so that it cannot have the records in memory
    child = bench.start()
    bench.ask("PATCH", f"/{made['id']}", {"enabled": True})
    bench.until_taken(endpoint, ids)
    order = [event["id"] for got in endpoint.taken for event in got.events]
    for partition in range(PARTITIONS):
        ours = ids[partition::PARTITIONS]
        assert [each for each in order if each in set(ours)] == ours
    assert bench.metric(child, "clickledger_webhook_turns_total") <= 30


def test_a_rotated_secret(bench: WebhookBench, endpoint: Endpoint) -> None:
    """For a day both secrets sign, so that receivers can change at their own time."""
    made = bench.create(endpoint.url)
    _, rotated = bench.ask("POST", f"/{made['id']}/rotate")
    assert rotated["secret"] != made["secret"]
    bench.until(lambda: bench.ask("POST", f"/{made['id']}/test")[0] == 200, "a test event")
    for secret in (made["secret"], rotated["secret"]):
        endpoint.taken[-1].verify(secret)


def test_copies_are_not_sent_and_late_records_are(bench: WebhookBench, endpoint: Endpoint) -> None:
    """What the enricher writes again after a crash is no second event; what was missing and comes later is one."""
    bench.create(endpoint.url)
    bench.until_taken(endpoint, bench.emit(3))
    raw = bench.take_raw(0, 4)
    records = [bench.record(0, offset) for offset in raw]
    bench.write([records[0], records[1], records[0], records[1], records[3]])
    bench.write([records[1], records[2], records[3]])
    bench.until_taken(endpoint, [record["transaction_id"] for record in records])
    bench.until_taken(endpoint, bench.emit(3))
    assert set(endpoint.ids().values()) == {1}


@pytest.mark.parametrize("batch", [None, {"events_max": 10, "linger_ms": 50}], ids=["single", "batch"])
def test_kill_9_loses_none(bench: WebhookBench, endpoint: Endpoint, batch: dict[str, int] | None) -> None:
    """The deliverer killed again and again in mid-flight: every event arrives; what comes twice has the same id."""
    die = random.Random(7)
    endpoint.answering = lambda _: (204, {}) if die.random() < 0.9 else (500, {})
    made = bench.create(endpoint.url, batch=batch)
    ids = bench.emit(30)
    for _ in range(2):
        bench.until(lambda: bool(endpoint.received), "requests")
        time.sleep(die.uniform(0, 0.4))  # a moment of no meaning
        deliverer(bench).kill()
        endpoint.received.clear()
        ids += bench.emit(20)
        bench.start()
    bench.until_taken(endpoint, ids)
    assert set(endpoint.ids()) == set(ids)
    bodies: dict[str, set[bytes]] = {}
    for got in endpoint.taken:
        got.verify(made["secret"])
        bodies.setdefault(got.message_id, set()).add(got.body)
    assert all(len(each) == 1 for each in bodies.values())


def test_two_processes_share_the_work(bench: WebhookBench) -> None:
    """Webhooks are shared out; when one process dies the other takes its webhooks over, and none misses an event."""
    endpoints: list[Endpoint] = []

    def one_more() -> None:
        endpoints.append(Endpoint())
        bench.create(endpoints[-1].url)

    first = deliverer(bench)
    second = bench.start()

    def both_have_some() -> bool:
        have = [bench.metric(child, "clickledger_webhook_lines") for child in (first, second)]
        if sum(have) == len(endpoints) and 0 in have:
            one_more()  # whose a webhook is, its id decides
        return sum(have) == len(endpoints) and 0 not in have

    try:
        bench.until(both_have_some, "both to have webhooks")
        ids = bench.emit(9)
        for each in endpoints:
            bench.until_taken(each, ids)
        first.kill()
        ids += bench.emit(9)
        for each in endpoints:
            bench.until_taken(each, ids)
            assert set(each.ids()) == set(ids)
    finally:
        for each in endpoints:
            each.close()


def test_a_webhook_behind_retention(bench: WebhookBench, endpoint: Endpoint) -> None:
    """What Kafka deleted before it was read is counted and named, and the rest is delivered."""
    endpoint.answering = lambda _: (500, {})
    made = bench.create(endpoint.url)
    bench.ask("PATCH", f"/{made['id']}", {"enabled": False})
    bench.emit(9)
    bench.forget()
    ids = bench.emit(9)
    endpoint.answering = lambda _: (200, {})
    deliverer(bench).kill()  # so that it cannot have the records in memory
    bench.start()
    bench.ask("PATCH", f"/{made['id']}", {"enabled": True})
    bench.until_taken(endpoint, ids)
    assert set(endpoint.ids()) == set(ids)
    bench.until(lambda: bench.view(made)["lost_offsets"] == 9, "the loss to be counted")
    assert "are no longer in Kafka" in deliverer(bench).log.read_text()


def test_secrets_are_nowhere(bench: WebhookBench, endpoint: Endpoint) -> None:
    """Neither secret, URL nor header value stands in Kafka, in the copies on disk, in logs or in answers after the first."""
    made = bench.create(f"{endpoint.url}?token=misplaced-url-token", headers={"X-Key": "misplaced-header-value"})
    bench.until_taken(endpoint, bench.emit(2))
    bench.until(lambda: len(bench.deliveries(made)) == 2, "the log")
    said = json.dumps([bench.view(made) | {"url": ""}, bench.deliveries(made)]).encode()
    said += b"".join(child.log.read_bytes() for child in bench.children)
    said += b"".join(path.read_bytes() for path in Path(bench.env["CLICKLEDGER_DATA"]).rglob("*") if path.is_file())
    said += bench.run(bench.everything(bench.kafka.topic_catalog)) + bench.run(
        bench.everything(bench.kafka.topic_webhooks)
    )
    for secret in (made["secret"], "misplaced-url-token", "misplaced-header-value", SECRET_KEY):
        assert secret.encode() not in said


def test_the_key_is_replaced(
    bench: WebhookBench, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`webhooks reseal` writes all secrets under the first key, or, where one does not open, nothing; and back again."""
    made = bench.create(endpoint.url)
    new = "the key that follows it as long as it must be: 456789"
    for name, text in bench.env.items():
        monkeypatch.setenv(name, text)

    def reseal(*keys: str) -> int:
        monkeypatch.setenv("CLICKLEDGER_SECRET_KEY", ",".join(keys))
        return run_command(["webhooks", "reseal"])

    assert reseal(new) == 1
    assert made["id"] in capsys.readouterr().err
    assert bench.view(made)["url"] == endpoint.url
    assert reseal(new, SECRET_KEY) == 0
    assert capsys.readouterr().out == "1 webhooks sealed\n"
    bench.until(lambda: bench.view(made)["url"] is None, "the service with the former key not to open it")
    assert reseal(SECRET_KEY, new) == 0
    bench.until(lambda: bench.view(made)["url"] == endpoint.url, "it to open again")
    bench.until_taken(endpoint, bench.emit(1))
    endpoint.taken[-1].verify(made["secret"])


@pytest.mark.parametrize("service", ["reporting", "deliverer"])
def test_without_its_key_a_service_does_not_start(
    bench: WebhookBench, guard: Any, tmp_path: Path, service: str
) -> None:
    """Once a webhook exists, without the key or with another one the process ends and says what it needs."""
    bench.create("https://hooks.example/", enabled=False)
    for number, key in enumerate(("", "another key that is long enough too: 0123456789")):
        env = bench.env | {"CLICKLEDGER_DATA": str(tmp_path / "data"), "CLICKLEDGER_SECRET_KEY": key}
        child = spawn_service(guard, service, tmp_path / f"{number}.log", env)
        bench.until(lambda child=child: not child.alive, f"{service} to end")  # type: ignore[misc]
        assert child.stop() == 1
        assert "start with the CLICKLEDGER_SECRET_KEY that they were made with" in child.log.read_text()


def test_the_command_line(
    bench: WebhookBench, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Make, list, try, change, rotate, replay and delete; the secret alone is on standard output, once."""
    monkeypatch.setenv("CLICKLEDGER_WEBHOOKS_KEY", KEYS["acme"])

    def command(*arguments: str) -> tuple[int, str, str]:
        status = run_command(["webhooks", *arguments, "--api", f"http://127.0.0.1:{bench.port}"])
        return status, *capsys.readouterr()

    status, secret, told = command(
        *("create", "--url", endpoint.url, "--promotion", "spring", "--batch", "5", "--header", "X-Team: blue")
    )
    assert (status, secret[:6], secret.count("\n")) == (0, "whsec_", 1), told
    name = json.loads(command("list", "--json")[1])["id"]
    assert name in command("list")[1]
    assert command("test", name)[1].startswith("delivered, status 204")
    endpoint.taken[0].verify(secret.strip())
    assert command("rotate", name)[1].startswith("whsec_")
    assert command("update", name, "--disable", "--all-events")[0] == 0
    assert command("deliveries", name, "--json")[1].count("\n") == 1
    assert "disabled: by_user" in command("list")[1]
    assert command("replay", name, "--from", "2020-01-01T00:00:00Z")[0] == 1
    assert command("update", name)[0] == 2
    assert command("delete", name)[0] == 0
    assert command("delete", name) == (1, "", "clickledger: There is no such webhook\n")
    monkeypatch.setenv("CLICKLEDGER_WEBHOOKS_KEY", "wrong")
    assert "Invalid token" in command("list")[2]
