"""Clicks over one connection: what is concluded from its head once, and when it is concluded again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import orjson
import pytest

from ingest_api.endpoints import ClickPath, clock_ms
from ingest_api.handler import HandlerState, JudgedHead, judge_head
from ingest_api.metrics import Tallies
from ingest_api.publish import Destination, GroupCommit, Told
from ingest_api.share import Share
from tests.support.api import HEADERS, PATH, PEER, make_state
from tests.support.catalog import (
    EXAMPLE_BODY,
    NOW_MS,
    SECRET,
    MemoryCatalog,
    digest,
    example_catalog,
    key_record,
    link_record,
)
from tests.support.wire import connect

LINK = "shortdomain/dsltrack/employee/j460A8"
REQUEST = b"POST %b HTTP/1.1\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (
    PATH,
    SECRET.encode(),
    len(EXAMPLE_BODY),
    EXAMPLE_BODY,
)


class AtOnce:
    """Everything is durable at once."""

    def why_not_ready(self) -> str:
        """Always ready."""
        return ""

    def append(self, partition: int, shares: Sequence[Share], told: Told) -> None:
        """Done."""
        asyncio.get_running_loop().call_soon(told, None)


def fresh_catalog() -> MemoryCatalog:
    """The example's, with a link sent just now."""
    catalog = example_catalog()
    catalog.put("link", LINK, link_record(LINK, sent_at=clock_ms()))
    return catalog


def path_of(state: HandlerState, destination: Destination | None = None) -> ClickPath:
    """The click endpoint over this state."""
    bounds = {"group_bytes_max": 1_000_000, "pending_bytes_max": 1_000_000, "pending_clicks_max": 1_000}
    return ClickPath(
        state, GroupCommit(destination or AtOnce(), partitions=lambda: 6, **bounds), Tallies(), state.body_bytes_max
    )


async def outcomes(path: ClickPath, changes: Sequence[object]) -> list[bytes]:
    """What the same request is answered over one connection, made again after each change."""
    connection, wire = connect({PATH: path})
    for change in changes:
        if callable(change):
            change()
        connection.data_received(REQUEST)
        for _ in range(6):
            await asyncio.sleep(0)
    return [b"id" if b"transaction-id" in answer else answer[9:12] for answer in wire.written]


async def test_a_revocation_ends_what_was_concluded() -> None:
    """A key that was revoked between two requests with the same head gets 401 for the next one."""
    catalog = fresh_catalog()
    state = make_state(catalog)
    revoke = lambda: catalog.put("key", "k1", key_record(revoked=True))  # noqa: E731 one step of a table
    assert await outcomes(path_of(state), [None, None, None, revoke, None]) == [b"id"] * 3 + [b"401"] * 2


class Kept(AtOnce):
    """Durable at once, and kept."""

    def __init__(self) -> None:
        self.values: list[dict[str, object]] = []

    def append(self, partition: int, shares: Sequence[Share], told: Told) -> None:
        """Keep it."""
        self.values += [orjson.loads(value) for share in shares for value in share.values]
        super().append(partition, shares, told)


async def ask_in_turn(
    catalog: MemoryCatalog, heads: Sequence[bytes]
) -> tuple[list[dict[str, object]], list[bytes], int]:
    """What is stored and answered for clicks with these fields over one connection, and how many heads were known."""
    kept, state = Kept(), make_state(catalog)
    path = path_of(state, kept)
    connection, wire = connect({PATH: path})
    known = 0
    for fields in heads:
        head = b"POST %b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n" % (PATH, fields, len(EXAMPLE_BODY))
        former = connection.head
        connection.data_received(head + EXAMPLE_BODY)
        known += connection.head is former is not None
        for _ in range(6):
            await asyncio.sleep(0)
    return kept.values, [answer[9:12] for answer in wire.written], known


BEARER = b"authorization: Bearer %b\r\n" % SECRET.encode()


async def test_each_click_has_its_own_agent_where_the_key_asks_for_it() -> None:
    """Though the head is known but for the agent, and although it does not matter for other keys."""
    heads = [b"%buser-agent: app/%d\r\n" % (BEARER, number) for number in range(6)]
    for asks in (True, False):
        catalog = fresh_catalog()
        catalog.put("key", "k1", key_record(caller_user_agent=asks))
        values, answers, known = await ask_in_turn(catalog, heads)
        agents = [f"app/{number}" for number in range(6)] if asks else [None] * 6
        assert ([value.get("caller_user_agent") for value in values], answers, known) == (agents, [b"200"] * 6, 4)


async def test_each_click_is_judged_by_its_own_secret_key_and_type() -> None:
    """Where these differ nothing is concluded from the head, known or not."""
    secrets = [
        b"authorization: Bearer %b\r\n" % (each.encode()) for each in (SECRET, "wrong1", SECRET, "wrong2", SECRET)
    ]
    _, answers, known = await ask_in_turn(fresh_catalog(), secrets)
    assert (answers, known) == ([b"200", b"401", b"200", b"401", b"200"], 3)
    keys = [b"%bidempotency-key: %d\r\n" % (BEARER, number) for number in (1, 2, 3, 3, 4)]
    values, answers, known = await ask_in_turn(fresh_catalog(), keys)
    ids = [value["transaction_id"] for value in values]
    assert (len(set(ids)), ids[2] == ids[3], answers, known) == (4, True, [b"200"] * 5, 3)
    types = [
        b"%bcontent-type: %b\r\n" % (BEARER, each)
        for each in (b"application/json", b"text/x", b"text/y", b"application/json")
    ]
    _, answers, known = await ask_in_turn(fresh_catalog(), types)
    assert (answers[0], answers[1] == answers[2] != b"200", answers[3], known) == (b"200", True, b"200", 2)
    encodings = [b"%bcontent-encoding: %b\r\n" % (BEARER, each) for each in (b"identity", b"br", b"identity", b"gzip")]
    _, answers, known = await ask_in_turn(fresh_catalog(), encodings)
    assert (answers[0], answers[1] == answers[3] != b"200", answers[2], known) == (b"200", True, b"200", 2)


async def test_a_catalog_that_is_not_ready_is_told() -> None:
    """The same for a catalog that got too old: 500, to be tried again, and 200 when it is back."""
    catalog = fresh_catalog()
    lose, regain = (lambda: setattr(catalog, "is_ready", False)), (lambda: setattr(catalog, "is_ready", True))
    steps = [None, None, None, lose, regain]
    assert await outcomes(path_of(make_state(catalog)), steps) == [b"id"] * 3 + [b"500", b"id"]


async def test_every_click_is_throttled() -> None:
    """Each request takes from its key's limit, known or not."""
    catalog = fresh_catalog()
    catalog.put("key", "k1", key_record(rate_limit=4))
    state = make_state(catalog, api_throttle_window_ms=3_600_000)
    assert await outcomes(path_of(state), [None] * 6) == [b"id"] * 4 + [b"429"] * 2


@pytest.mark.parametrize(
    ("expires_at_ms", "version", "is_ready", "holds"),
    [
        (None, 0, True, True),
        (NOW_MS + 1, 0, True, True),
        (NOW_MS, 0, True, False),
        (None, 1, True, False),
        (None, 0, False, False),
    ],
)
def test_what_was_concluded_holds(expires_at_ms: int | None, version: int, is_ready: bool, holds: bool) -> None:
    """Until the secret expires, the catalog changes in any way, or it is not ready."""
    catalog = example_catalog()
    catalog.put(
        "key", "k1", key_record(secrets=[{"digest": digest(SECRET), "created_at": 0, "expires_at": expires_at_ms}])
    )
    judged = judge_head(make_state(catalog), b"POST", PATH, HEADERS, PEER, NOW_MS - 1)
    assert isinstance(judged, JudgedHead)
    catalog.version += version
    catalog.is_ready = is_ready
    assert judged.holds(catalog, NOW_MS) is holds
