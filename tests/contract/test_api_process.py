"""The API process as a whole: limits, Kafka and catalog that are away, several workers, stops and deaths."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.api_service import BATCH, CLICKS, ApiService, Reply
from tests.support.brokers import LocalBrokers
from tests.support.catalog import EXAMPLE_BODY, EXAMPLE_URL
from tests.support.lane_server import Client, post

MakeApi = Callable[..., ApiService]
StartApi = Callable[..., ApiService]


async def started(make_api: MakeApi, **settings: str) -> ApiService:
    """A prepared and running service."""
    api = make_api(**settings)
    await api.prepare()
    api.start()
    return api


def worker_pids(api: ApiService) -> list[int]:
    """The worker processes, from the service's own children."""
    assert api.child is not None
    with open(f"/proc/{api.child.pid}/task/{api.child.pid}/children", encoding="ascii") as children:  # noqa: PTH123
        return [int(pid) for pid in children.read().split()]


LIMITS = {
    "api_throttle_window_ms": "600000",
    "api_failed_authentications_max": "3",
    "api_failed_authentications_window_ms": "600000",
    "api_trusted_proxies": "127.0.0.0/8",
}
"""Windows that do not end within a test."""
IMPATIENT = {"api_ack_timeout_ms": "500", "kafka_request_timeout_ms": "1000", "api_spool": "false"}


@pytest.fixture(scope="module")
def limited(start_api: StartApi) -> ApiService:
    """A process with small limits."""
    return start_api(**LIMITS)


@pytest.fixture(scope="module")
def impatient(start_api: StartApi) -> ApiService:
    """A process that does not wait long for Kafka, and keeps nothing on disk."""
    return start_api(**IMPATIENT)


async def test_throttle(limited: ApiService) -> None:
    """A key has its limit per window; beyond it 429 with Retry-After; a batch is cut at the limit."""
    api = limited
    await api.put([api.key_entry("few", "few-secret", rate_limit=5)])
    few = {"authorization": "Bearer few-secret"}
    await api.until(lambda: api.click(b"{", authorization="Bearer few-secret").status == 499)
    replies = [api.click(EXAMPLE_BODY, **few) for _ in range(2)]
    assert [reply.headers["x-ratelimit-remaining"] for reply in replies] == ["3", "2"]
    line = json.dumps({"short-url": EXAMPLE_URL}).encode()
    batch = api.request("POST", BATCH, b"\n".join([line] * 4), few)
    assert ["code" in result for result in batch.json] == [False, False, True, True]
    assert batch.json[2]["code"] == "429"
    assert int(batch.headers["retry-after"]) >= 1
    for reply in (api.click(EXAMPLE_BODY, **few), api.request("POST", BATCH, line, few)):
        assert (reply.status, reply.code) == (429, "429")
        assert reply.headers["x-ratelimit-remaining"] == "0"
        assert int(reply.headers["retry-after"]) >= 1
    assert api.click().code == ""


def test_failed_authentications(limited: ApiService) -> None:
    """Failures are limited per address, a trusted proxy's clients apart; a valid key never is."""
    api = limited
    wrong = {"authorization": "Bearer wrong", "x_forwarded_for": "198.51.100.8"}
    assert [api.click(EXAMPLE_BODY, **wrong).code for _ in range(4)] == ["498", "498", "498", "429"]
    assert api.click().code == ""
    assert api.click(EXAMPLE_BODY, x_forwarded_for="198.51.100.8").code == ""
    assert api.click(EXAMPLE_BODY, authorization="Bearer wrong", x_forwarded_for="198.51.100.9").code == "498"


async def test_no_stream_record(make_api: MakeApi) -> None:
    """Before `setup` has run the service is alive, not ready, says why, and refuses with 500 and Retry-After."""
    api = make_api(api_start_patience_ms="200")
    await api.prepare(with_stream=False)
    api.start_unready()
    reply = await asyncio.to_thread(api.click)
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (500, "500", "1")
    ready = api.get("/readyz")
    assert (ready.status, ready.code) == (503, "503")
    await api.until(lambda: "setup" in api.get("/readyz").json["description"])
    assert api.get("/livez").status == 200
    await api.put([api.stream_entry()])
    await api.until(lambda: api.get("/readyz").status == 200)
    assert api.click().code == ""


async def test_no_kafka_at_start(make_api: MakeApi) -> None:
    """Without Kafka and a catalog every click is 500 with Retry-After, never 498 or 1003."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    api = make_api(kafka_bootstrap=f"127.0.0.1:{port}", kafka_request_timeout_ms="500", api_start_patience_ms="200")
    api.start_unready()
    reply = await asyncio.to_thread(api.click)
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (500, "500", "1")
    assert api.get("/readyz").status == 503
    assert api.stop() == 0


async def accepted_click(api: ApiService) -> str:
    """The id of a click that was taken, as soon as one is: half a second is not always enough for an acknowledgement."""
    replies: list[Reply] = []

    def is_taken() -> bool:
        replies.append(api.click())
        return replies[-1].status == 200

    await api.until(is_taken)
    return str(replies[-1].json["transaction-id"])


async def test_kafka_stands_still(impatient: ApiService, brokers: LocalBrokers) -> None:
    """Without a spool a click is 500 within its bound while the broker does not answer; afterwards 200 again, nothing answered is lost."""
    api = impatient
    accepted = [await accepted_click(api)]
    os.kill(brokers.pid(), signal.SIGSTOP)
    try:
        replies = [await asyncio.to_thread(api.click) for _ in range(4)]
    finally:
        os.kill(brokers.pid(), signal.SIGCONT)
    assert all((reply.status, reply.code) == (500, "500") for reply in replies)
    assert all(reply.headers["retry-after"] == "1" for reply in replies)
    assert any("not known" in reply.json["description"] for reply in replies)
    accepted.append(await accepted_click(api))

    def is_replacement_counted() -> bool:  # counters reach the page within half a second
        metrics = api.request("GET", "/metrics", port=api.health_port()).body.decode()
        return re.search(r"producers_replaced_total [1-9]", metrics) is not None

    await api.until(is_replacement_counted)
    keys = Counter(record.key.decode() for record in await api.raw_records() if record.key)
    assert all(keys[transaction_id] == 1 for transaction_id in accepted)


async def test_kafka_dies_and_comes_back(impatient: ApiService, brokers: LocalBrokers) -> None:
    """A killed broker, no spool: 500 meanwhile, links still resolve from the local catalog, 200 when it is back."""
    api = impatient
    await api.until(lambda: api.click().status == 200)
    brokers.kill(1)
    try:
        reply = await asyncio.to_thread(api.click)
        assert (reply.status, reply.code) == (500, "500")
        assert api.click(b'{"short-url":"http://s.example/disabled"}').code == "1010"
    finally:
        brokers.start(1)
    await api.until(lambda: api.click().status == 200)
    await api.until(lambda: api.get("/readyz").status == 200)


async def test_several_workers(make_api: MakeApi) -> None:
    """Workers share port, throttle and metrics; one that is killed is replaced; none outlives its parent."""
    api = await started(make_api, api_workers="2", api_throttle_window_ms="600000")
    await api.put([api.key_entry("few", "few-secret", rate_limit=50)])
    few = {"authorization": "Bearer few-secret"}
    await api.until(lambda: api.click(EXAMPLE_BODY, **few).status == 200)
    outcomes = Counter(api.click(EXAMPLE_BODY, **few).status for _ in range(60))
    assert 40 <= outcomes[200] <= 50
    assert outcomes[429] >= 10

    def counted() -> float:
        text = api.request("GET", "/metrics", port=api.health_port()).body.decode()
        assert text.count("# TYPE clickledger_api_answers_total counter") <= 1
        found = re.findall(r'answers_total\{code="200",reason="accepted"\} (\S+)', text)
        return float(found[0]) if found else 0

    await api.until(lambda: counted() > outcomes[200])
    first, second = worker_pids(api)
    os.kill(first, signal.SIGKILL)
    await api.until(lambda: _listening(api.port) == 1)
    metrics = api.request("GET", "/metrics", port=api.health_port()).body.decode()
    assert re.findall(r"^clickledger_catalog_age_seconds\{.*", metrics, re.MULTILINE)
    assert "pid=" not in metrics  # of a worker that is dead nobody would take it away
    assert 'clickledger_api_worker_restarts_total{reason="died"} 1.0' in metrics
    assert metrics.count("# TYPE clickledger_api_worker_restarts_total") == 1
    assert [api.click().status for _ in range(20)] == [200] * 20
    await api.until(lambda: len(worker_pids(api)) == 2 and first not in worker_pids(api))
    assert second in worker_pids(api)
    await api.until(lambda: api.request("GET", "/readyz", port=api.health_port()).status == 200)
    await api.until(lambda: _listening(api.port) == 2)
    workers = worker_pids(api)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    await api.until(lambda: not any(_runs(pid) for pid in workers) and _listening(api.port) == 1)
    assert api.click().status == 200  # waits for the next life
    await api.until(lambda: len(worker_pids(api)) == 2)
    workers = worker_pids(api)
    assert api.child is not None
    os.kill(api.child.pid, signal.SIGKILL)
    await api.until(lambda: not any(_runs(pid) for pid in workers))


async def test_a_worker_that_hangs_is_replaced(make_api: MakeApi) -> None:
    """Its clients hear nothing more than those of one that died; what it did not answer is theirs to send again."""
    api = await started(make_api, api_workers="2")
    hanging, other = worker_pids(api)
    os.kill(hanging, signal.SIGSTOP)
    await api.until(lambda: not _runs(hanging) and _listening(api.port) == 1)
    assert [api.click().status for _ in range(20)] == [200] * 20
    await api.until(lambda: _listening(api.port) == 2)
    assert other in worker_pids(api)
    assert hanging not in worker_pids(api)
    assert [api.click().status for _ in range(20)] == [200] * 20


async def test_workers_share_connections(make_api: MakeApi) -> None:
    """Of connections that come at once each worker has its share, and all are served."""
    api = await started(make_api, api_workers="2")
    request = post(EXAMPLE_BODY, CLICKS.encode(), f"authorization: Bearer {api.click_key}\r\n".encode())
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_connection(("127.0.0.1", api.port), timeout=30)) for _ in range(64)]
        for sock in socks:
            client = Client(sock)
            client.send(request)
            assert client.response()[0] == 200
        shares = [_connections(pid, api.port) for pid in worker_pids(api)]
    assert sum(shares) == 64
    assert min(shares) > 8  # less happens once in 10^9


async def test_a_worker_that_stops_gets_no_connections(make_api: MakeApi) -> None:
    """One that is told to stop, or stops by itself, finishes what was begun; new connections are the other one's meanwhile."""
    api = await started(make_api, api_workers="2")
    request = post(EXAMPLE_BODY, CLICKS.encode(), f"authorization: Bearer {api.click_key}\r\n".encode())
    with contextlib.ExitStack() as stack:
        clients = [
            Client(stack.enter_context(socket.create_connection(("127.0.0.1", api.port), timeout=30)))
            for _ in range(32)
        ]
        for client in clients:
            client.send(request)
            assert client.response()[0] == 200
            client.send(request[:-1])
        stopped, _other = worker_pids(api)
        os.kill(stopped, signal.SIGTERM)
        await api.until(lambda: _listening(api.port) == 1)
        assert [api.click().status for _ in range(20)] == [200] * 20
        assert _runs(stopped)
        for client in clients:
            client.send(request[-1:])
            assert client.response()[0] == 200
    await api.until(lambda: stopped not in worker_pids(api) and _listening(api.port) == 2)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_stop_refuses_connections_at_once(make_api: MakeApi, workers: str) -> None:
    """A balancer goes elsewhere while what was begun is finished."""
    api = await started(make_api, api_workers=workers)
    request = post(EXAMPLE_BODY, CLICKS.encode(), f"authorization: Bearer {api.click_key}\r\n".encode())
    with socket.create_connection(("127.0.0.1", api.port), timeout=30) as sock:
        client = Client(sock)
        client.send(request)
        assert client.response()[0] == 200
        client.send(request[:-1])
        assert api.child is not None
        os.kill(api.child.pid, signal.SIGTERM)
        await api.until(lambda: _listening(api.port) == 0)
        with pytest.raises(ConnectionRefusedError):
            api.click()
        client.send(request[-1:])
        assert client.response()[0] == 200
    assert await asyncio.to_thread(api.stop) == 0


def _listening(port: int) -> int:
    """Sockets that listen on a port of 127.0.0.1."""
    return sum(line[1].endswith(f":{port:04X}") and line[3] == "0A" for line in _tcp_table())


def _connections(pid: int, port: int) -> int:
    """Connections to a port that a process holds."""
    held: set[Path] = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            held.add(file.readlink())
    # Read piece by piece, the table shows a socket twice when others come meanwhile: each counts once.
    ours = {line[9] for line in _tcp_table() if line[1].endswith(f":{port:04X}") and line[3] == "01"}
    return sum(Path(f"socket:[{inode}]") in held for inode in ours)


def _tcp_table() -> list[list[str]]:
    return [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:  # noqa: PTH123
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_stop_under_load_loses_no_answered_click(make_api: MakeApi, workers: str) -> None:
    """Every 200 that was given before or during a stop is in Kafka, exactly once (a busy machine is given time)."""
    api = await started(make_api, api_workers=workers, api_ack_timeout_ms="14000", api_wait_ms_max="14000")
    accepted: list[str] = []
    threads = [threading.Thread(target=_click_until_closed, args=(api, accepted)) for _ in range(8)]
    for thread in threads:
        thread.start()
    await api.until(lambda: len(accepted) > 200)
    processes = worker_pids(api)
    assert len(processes) == (2 if workers == "2" else 0)
    assert await asyncio.to_thread(api.stop) == 0
    assert not any(_runs(pid) for pid in processes)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    keys = Counter(record.key.decode() for record in await api.raw_records() if record.key)
    assert len(accepted) == len(set(accepted)) > 200
    assert all(keys[transaction_id] == 1 for transaction_id in accepted)


def _click_until_closed(api: ApiService, accepted: list[str]) -> None:
    request = post(EXAMPLE_BODY, CLICKS.encode(), f"authorization: Bearer {api.click_key}\r\n".encode())
    try:
        with socket.create_connection(("127.0.0.1", api.port), timeout=30) as sock:
            client = Client(sock)
            while True:
                client.send(request)
                status, fields, body = client.response()
                assert status == 200
                accepted.append(json.loads(body)["transaction-id"])
                if fields.get(b"connection") == b"close":
                    return
    except (OSError, AssertionError):
        return


async def test_restarts(make_api: MakeApi) -> None:
    """A killed process comes back with the catalog it had, but takes nothing for a key that was revoked meanwhile."""
    api = await started(make_api)
    assert api.child is not None
    api.child.kill()
    api.start()
    assert api.click().code == ""
    api.child.kill()
    heard = api.folder / "data" / "api" / "catalog" / "heard"
    os.utime(heard, (0, heard.stat().st_mtime - 3600))
    await api.put([api.link_entry(f"s.example/{number}") for number in range(5_000)])
    await api.put([api.key_entry("clicks", api.click_key, revoked=True)])
    api.start_unready()
    assert (await asyncio.to_thread(api.click)).code == "498"
