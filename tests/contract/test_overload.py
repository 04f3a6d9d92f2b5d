"""The API as a process among clients that behave badly: whoever behaves well gets his 200s, and memory stays.

The long form opens as many connections as a process takes by default: OVERLOAD_CONNECTIONS=10000.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from tests.support.api_service import BATCH, CLICKS, ApiService, Reply
from tests.support.catalog import EXAMPLE_BODY
from tests.support.crowd import Crowd, raise_own_file_limit, resident_mib
from tests.support.processes import wait_until

CONNECTIONS = int(os.environ.get("OVERLOAD_CONNECTIONS", "2000"))
ANSWER_S_MAX = 60.0
"""Against hanging; the slowest answer is printed. What counts is that there is one, and that it is a 200."""
GROWTH_MIB_MAX = 160
"""Bounds of held and unread bytes, and 10 KiB a connection."""


@pytest.fixture(scope="module")
def small_api(start_api: Callable[..., ApiService]) -> ApiService:
    """An API that takes no more connections than the silent crowd alone has."""
    return start_api(
        api_connections_max=str(CONNECTIONS),
        api_displace_ms="50",
        api_held_bytes_max=str(16 << 20),
        api_unread_bytes_max=str(16 << 20),
        api_write_stall_ms="5000",
        api_catalog_requests_max="1",
    )


@pytest.fixture
def crowd(small_api: ApiService) -> Iterator[Crowd]:
    """Nobody yet."""
    raise_own_file_limit()
    crowd = Crowd(small_api.port)
    yield crowd
    crowd.close()


def request(api: ApiService, path: str, fields: str, body: bytes) -> bytes:
    """A request with another tenant's key: its rate is its own."""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {api.rival_key}\r\n{fields}\r\n"
    return head.encode() + body


def click(api: ApiService) -> bytes:
    """A whole click."""
    body = b'{"short-url":"http://s.example/rival"}'
    return request(api, CLICKS, f"content-length: {len(body)}\r\n", body)


def half_batch(api: ApiService) -> bytes:
    """Half of a batch of 1 MiB."""
    return request(api, BATCH, "content-type: application/x-ndjson\r\ncontent-length: 1048576\r\n", b" " * (1 << 19))


def counted(api: ApiService, series: str) -> float:
    """The sum of the API's series that match."""
    text = api.request("GET", "/metrics", port=api.health_port()).body.decode()
    pattern = series.replace("{", r"\{").replace("}", r"\}")
    lines = (line for line in text.splitlines() if re.match(f"clickledger_api_{pattern} ", line))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


class WellBehaved:
    """One client with one connection, which it opens again when it was closed between two requests."""

    def __init__(self, api: ApiService) -> None:
        self._api = api
        self._connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=ANSWER_S_MAX)
        self.reopened = 0
        self.slowest_s = 0.0

    def click(self) -> int:
        """The status of one click; fails when there is no answer in time."""
        fields = {"authorization": f"Bearer {self._api.click_key}", "content-type": "application/json"}
        begun = time.monotonic()
        try:
            self._connection.request("POST", CLICKS, EXAMPLE_BODY, fields)
            response = self._connection.getresponse()
        except (ConnectionError, http.client.RemoteDisconnected):
            self._connection.close()
            self.reopened += 1
            assert self.reopened < 5
            return self.click()
        response.read()
        self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
        return response.status

    def close(self) -> None:
        """Leave."""
        self._connection.close()


def test_silent_slow_deaf_and_greedy_clients(small_api: ApiService, crowd: Crowd) -> None:
    """Beside a crowd that holds every connection, half-sent bodies and unread answers, a client gets only 200s."""
    assert small_api.child is not None
    api, pid = small_api, small_api.child.pid
    with closing(WellBehaved(api)) as good:
        assert good.click() == 200
        before = resident_mib(pid)
        crowd.add_silent(CONNECTIONS)
        statuses = {good.click() for _ in range(100)}
        crowd.add_slow(click(api), 30)
        crowd.add_slow(half_batch(api)[:400], 30)
        crowd.add_half_sent(half_batch(api), 80)
        crowd.add_greedy(click(api) * 1_000, 10)
        statuses |= {good.click() for _ in range(100)}
        halfway = resident_mib(pid)
        statuses |= {good.click() for _ in range(100)}
        after = resident_mib(pid)
    assert statuses == {200}
    assert after - before < GROWTH_MIB_MAX, (before, halfway, after)
    for name in (
        'connections_cut_total{reason="displaced"}',
        'answers_total{code="500",reason="unfinished_full"}',
        'connections_cut_total{reason="(unread|stalled)"}',
    ):
        wait_until(lambda name=name: counted(api, name) > 0, api.child, name)  # type: ignore[misc]
    print(f"{CONNECTIONS:,} connections: {before}, {halfway}, {after} MiB, slowest answer {good.slowest_s:.3f} s")  # noqa: T201 a figure


async def test_listings_at_once(small_api: ApiService) -> None:
    """While as many listings as may be are under way, further ones are 503 with Retry-After; registrations are not."""
    line = '{"short_url":"http://listed.example/%d","promotion_id":"p"}'
    body = "\n".join(line % number for number in range(5_000)).encode()
    assert small_api.admin("POST", "/v1/links", body).status == 200
    replies: list[Reply] = []
    while not any(reply.status == 503 for reply in replies):  # a busy machine may do them one after the other
        asked = (asyncio.to_thread(small_api.admin, "GET", "/v1/links?promotion_id=none") for _ in range(6))
        *some, registered = await asyncio.gather(
            *asked, asyncio.to_thread(small_api.admin, "POST", "/v1/links", (line % 0).encode())
        )
        assert registered.status == 200
        replies += some
    refused = [reply for reply in replies if reply.status == 503]
    assert {reply.status for reply in replies} == {200, 503}
    assert all(reply.headers["retry-after"] == "1" for reply in refused)
    assert small_api.child is not None
    wait_until(
        lambda: counted(small_api, 'answers_total{code="503",reason="listings_full"}') == len(refused),
        small_api.child,
        "the count",
    )


async def test_registrations_at_once(small_api: ApiService) -> None:
    """While as many registrations as may be are under way, further ones are 503 with Retry-After, and can be repeated."""
    line = '{"short_url":"http://many.example/%d","promotion_id":"p"}'
    body = "\n".join(line % number for number in range(5_000)).encode()
    replies: list[Reply] = []
    while not any(reply.status == 503 for reply in replies):  # a busy machine may do them one after the other
        asked = (asyncio.to_thread(small_api.admin, "POST", "/v1/links", body) for _ in range(6))
        replies += await asyncio.gather(*asked)
    refused = [reply for reply in replies if reply.status == 503]
    assert {reply.status for reply in replies} == {200, 503}
    assert all(
        reply.headers["retry-after"] == "1" and "being registered" in reply.json["description"] for reply in refused
    )
    assert small_api.admin("POST", "/v1/links", body).status == 200
    assert small_api.child is not None
    wait_until(
        lambda: counted(small_api, 'answers_total{code="503",reason="registrations_full"}') == len(refused),
        small_api.child,
        "the count",
    )
