"""Clicks of one turn of the loop: judged together, answered and published as if each had come alone."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_api import endpoints
from ingest_api.endpoints import ClickPath, clock_ms
from ingest_api.handler import HandlerState, JudgedHead, PendingTurn, accept_together, judge_body, judge_head
from ingest_api.metrics import Tallies
from ingest_api.publish import GroupCommit, Told
from ingest_api.share import Share
from ingest_api.turns import ALIKE_MAX, TOGETHER, Turn
from shared.events import decode_raw
from shared.http.answer import AlikeAnswers
from shared.http.fastlane import FastLaneProtocol
from shared.http.lane import AnswerEncoder
from shared.ids import Tails
from tests.support.api import HEADERS, PATH, PEER, make_state
from tests.support.catalog import (
    EXAMPLE_BODY,
    EXAMPLE_URL,
    NOW_MS,
    SECRET,
    MemoryCatalog,
    digest,
    example_catalog,
    key_record,
    link_record,
)
from tests.support.destinations import begin
from tests.support.shares import OneClick, clicks_of
from tests.support.wire import Wire, connect

URL = EXAMPLE_URL.encode()
GOOD = b'{"short-url":"%b"}' % URL
SECOND_SECRET = "another-secret-0123456789"
WINDOW_MS = 3_600_000
"""So long that tests seldom see its end."""
BODIES = (
    GOOD,
    EXAMPLE_BODY,
    b'{"short-url":"https://shortdomain/dsltrack/employee/j460A8","user-agent":"caf\xc3\xa9","ip-address":null}',
    b"\xef\xbb\xbf" + GOOD,
    b'{"short-url":"shortdomain/dsltrack/employee/j460A8?x=1","user-agent":"\\""}',
    b'{"short-url":"%b","count":1,"more":[{}]}' % URL,
    b'{"short-url":"%b","clicked-at":%d}' % (URL, NOW_MS),
    b'{"short-url":"%b","clicked-at":"yesterday"}' % URL,
    b'{"short-url":"%b","idempotency-key":"k"}' % URL,
    b'{"short-url":"http://shortdomain/old"}',
    b'{"short-url":"http://shortdomain/off"}',
    b'{"short-url":"http://shortdomain/others"}',
    b'{"short-url":"http://shortdomain/from/here"}',
    b'{"short-url":"http://shortdomain/nothing"}',
    b'{"short-url":"%b","short-url":"b"}' % URL,
    b'{"short-url":"%b","x":"%b"}' % (URL, b"y" * 2_000),
    b'{"short-url":" "}',
    b"{}",
    b"1",
    b"",
    GOOD[:-1],
    b"%b,\n0,%b" % (GOOD, GOOD),
)


def catalog_of(now_ms: int, **key: Any) -> MemoryCatalog:
    """The example's, with links on which a click does not count, or not by its own key."""
    catalog = example_catalog()
    links: Mapping[str, Mapping[str, Any]] = {
        "dsltrack/employee/j460A8": {},
        "old": {"sent_at": 1},
        "off": {"disabled": True},
        "others": {"tenant": "other"},
        "from": {"match": "prefix"},
    }
    for path, changes in links.items():
        name = f"shortdomain/{path}"
        catalog.put("link", name, link_record(name, **{"sent_at": now_ms, "registered_at": now_ms} | changes))
    catalog.put("key", "k1", key_record(**key))
    return catalog


def one_partition(state: HandlerState) -> HandlerState:
    """The state as a group commit has it while its group is open."""
    state.next_partition = lambda: 3
    return state


@given(st.lists(st.sampled_from(BODIES[:3]) | st.sampled_from(BODIES), min_size=1, max_size=8), st.integers(1, 9))
def test_together_as_each_by_itself(bodies: list[bytes], limit: int) -> None:
    """Byte for byte what each click gives by itself, throttle included; or nothing, and nothing has been taken."""
    catalog = catalog_of(NOW_MS, rate_limit=limit)
    first, second = (one_partition(make_state(catalog, api_body_bytes_max=1_000)) for _ in range(2))
    head = judge_head(first, b"POST", PATH, HEADERS, PEER, NOW_MS)
    assert isinstance(head, JudgedHead)
    alone = [judge_body(first, head, body, NOW_MS) for body in bodies]
    taken = second.throttle.take("k1", limit, len(bodies), NOW_MS)
    together = accept_together(second, head, taken, bodies, NOW_MS)
    if together is None:
        assert not (set(bodies) <= set(BODIES[:3]) and len(bodies) <= limit)
    else:
        assert clicks_of([together.share]) == clicks_of(one.share for one in alone)
        assert [together.answers.at(place) for place in together.share.places] == [one.answer for one in alone]
        assert list(together.share.places) == list(range(len(bodies)))


@pytest.mark.parametrize("field", [b"idempotency-key: k\r\n", b"content-type: text/plain\r\n"])
def test_a_head_that_says_more_is_not_for_all(field: bytes) -> None:
    """Keys and what a head is refused for are judged click by click."""
    name, value = field.strip().split(b": ")
    head = judge_head(make_state(), b"POST", PATH, (HEADERS[2], (name, value)), PEER, NOW_MS)
    assert isinstance(head, JudgedHead)
    taken = make_state().throttle.take("k1", 10, 1, NOW_MS)
    assert accept_together(make_state(), head, taken, [GOOD], NOW_MS) is None


class Held:
    """Makes clicks durable when the test says so, and keeps them."""

    def __init__(self) -> None:
        self.clicks: list[OneClick] = []
        self.why_not = ""
        self.gate = asyncio.Event()
        self.gate.set()

    def why_not_ready(self) -> str:
        """As the test set it."""
        return self.why_not

    def append(self, _partition: int, shares: Sequence[Share], told: Told) -> None:
        """Wait for the gate."""
        begin(self._append(shares), told)

    async def _append(self, shares: Sequence[Share]) -> None:
        await self.gate.wait()
        self.clicks += clicks_of(shares)


class Api:
    """The click endpoint and connections to it."""

    def __init__(self, catalog: MemoryCatalog | None = None, **limits: int) -> None:
        self.stored = Held()
        bounds = {"group_bytes_max": 1_000_000, "pending_bytes_max": 1_000_000, "pending_clicks_max": 1_000}
        self.commit = GroupCommit(self.stored, partitions=lambda: 6, **(bounds | limits))
        state = make_state(catalog or catalog_of(clock_ms()), api_throttle_window_ms=WINDOW_MS)
        state.next_partition, state.tails = self.commit.next_partition, Tails(os.urandom)
        self.state, self.tallies = state, Tallies()
        self.path = ClickPath(state, self.commit, self.tallies, state.body_bytes_max)

    def connect(self) -> tuple[FastLaneProtocol, Wire]:
        """One more connection."""
        return connect({PATH: self.path})

    async def known(self, count: int, secret: str = SECRET) -> list[tuple[FastLaneProtocol, Wire]]:
        """Connections whose head is known, each with one click less of the limit."""
        made = [self.connect() for _ in range(count)]
        for connection, wire in made:
            connection.data_received(request(GOOD, secret))
            await settled()
            wire.written.clear()
        self.stored.clicks.clear()
        return made


def request(body: bytes, secret: str = SECRET, fields: bytes = b"") -> bytes:
    """A whole request."""
    head = b"POST %b HTTP/1.1\r\nauthorization: Bearer %b\r\n%b" % (PATH, secret.encode(), fields)
    return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


async def settled(rounds: int = 8) -> None:
    """Let the loop run what is ready."""
    for _ in range(rounds):
        await asyncio.sleep(0)


def shown(answers: Sequence[bytes]) -> list[bytes]:
    """Answers without what differs each time: the id and how many seconds of the window are left."""
    text = [re.sub(rb'"transaction-id":"[^"]{36}"', b"id", answer) for answer in answers]
    return [re.sub(rb"(x-ratelimit-reset|retry-after): \d+\r\n", rb"\1\r\n", answer) for answer in text]


def ids(answers: Sequence[bytes]) -> list[str]:
    """The ids that were told."""
    found = (re.search(rb'"transaction-id":"([^"]+)"', answer) for answer in answers)
    return [match[1].decode() for match in found if match]


def kept(api: Api) -> list[tuple[str, bytes]]:
    """Id and body of each click that is stored."""
    raws = [decode_raw(click.value) for click in api.stored.clicks]
    return [(raw.transaction_id, orjson.dumps(raw.click)) for raw in raws]


async def answered(bodies: Sequence[bytes], limit: int, *, together: bool) -> tuple[list[bytes], list[bytes]]:
    """What connections get for one click each, and what is stored; all in one turn, or each in its own."""
    api = Api(catalog_of(clock_ms(), rate_limit=limit + len(bodies)))
    made = await api.known(len(bodies))
    for (connection, _), body in zip(made, bodies, strict=True):
        connection.data_received(request(body))
        if not together:
            await settled()
    await settled()
    answers = [b"".join(wire.written) for _, wire in made]
    assert ids(answers) == [id_ for id_, _ in kept(api)]
    assert api.commit.pending_clicks == api.commit.pending_bytes == 0
    return shown(answers), [body for _, body in kept(api)]


@given(
    st.lists(st.sampled_from(BODIES[:3]) | st.sampled_from(BODIES), min_size=1, max_size=8),
    st.integers(1, 9),
)
@settings(max_examples=30)
def test_one_turn_as_many(bodies: list[bytes], limit: int) -> None:
    """Status, headers, numbers left, bodies and records of clicks of one turn are those of clicks that come one by one."""
    together = asyncio.run(answered(bodies, limit, together=True))
    assert together == asyncio.run(answered(bodies, limit, together=False))


@pytest.mark.parametrize("bad", [b"{}", b'{"short-url":"http://shortdomain/nothing"}', b"\xff", b""])
async def test_a_bad_click_among_good_ones(bad: bytes) -> None:
    """It is refused, its neighbours are not."""
    answers, stored = await answered([GOOD, bad, GOOD], 100, together=True)
    assert [answer[9:12] for answer in answers] == [b"200", b"499", b"200"]
    assert len(stored) == 2


async def test_the_throttle_runs_out_inside_a_turn() -> None:
    """The first are granted, each with one less that is left; the others are told when to come again."""
    answers, stored = await answered([GOOD] * 5, 3, together=True)
    left = [re.findall(rb"x-ratelimit-remaining: (\d+)", answer)[0] for answer in answers]
    assert left == [b"2", b"1", b"0", b"0", b"0"]
    assert [answer[9:12] for answer in answers] == [b"200"] * 3 + [b"429"] * 2
    assert [b"retry-after" in answer for answer in answers] == [False] * 3 + [True] * 2
    assert len(stored) == 3


async def test_callers_are_judged_apart() -> None:
    """Clicks of two keys in one turn count against their own limits and say their own key."""
    catalog = catalog_of(clock_ms(), rate_limit=10)
    other = key_record(SECOND_SECRET, key_id="k2", rate_limit=20)
    catalog.put(
        "key", "k2", other | {"secrets": [{"digest": digest(SECOND_SECRET), "created_at": 0, "expires_at": None}]}
    )
    api = Api(catalog)
    secrets = [SECRET, SECOND_SECRET, SECRET, SECOND_SECRET]
    made = [(secret, *(await api.known(1, secret))[0]) for secret in secrets]
    for secret, connection, _ in made:
        connection.data_received(request(GOOD, secret))
    await settled()
    answers = [wire.written[0] for *_, wire in made]
    assert [re.findall(rb"x-ratelimit-(?:limit|remaining): (\d+)", answer) for answer in answers] == [
        [b"10", b"7"],
        [b"20", b"17"],
        [b"10", b"6"],
        [b"20", b"16"],
    ]
    keys = {raw.transaction_id: raw.origin.key_id for raw in (decode_raw(click.value) for click in api.stored.clicks)}
    assert [keys[id_] for id_ in ids(answers)] == ["k1", "k2", "k1", "k2"]


async def test_heads_that_all_differ_are_judged_together_too() -> None:
    """First requests of connections, with fields that nobody reads, share a record's moment and a group."""
    api = Api()
    made = [api.connect() for _ in range(5)]
    for number, (connection, _) in enumerate(made):
        connection.data_received(request(GOOD, fields=b"x-request-id: %d\r\n" % number))
    await settled()
    assert [answer[9:12] for _, wire in made for answer in wire.written] == [b"200"] * 5
    assert api.commit.batches == 1
    assert len({decode_raw(click.value).received_at_ms for click in api.stored.clicks}) == 1


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Requests of one read are judged in their order, good and bad, and a turn takes more than may be judged at once."""
    api = Api()
    ((connection, wire),) = await api.known(1)
    bodies = [b"{}" if number % 7 == 3 else GOOD for number in range(2 * TOGETHER + 5)]
    connection.data_received(b"".join(map(request, bodies[:50])))
    connection.data_received(b"".join(map(request, bodies[50:])))
    await settled(20)
    answers = wire.written
    assert [answer[9:12] for answer in answers] == [b"499" if body == b"{}" else b"200" for body in bodies]
    left = [int(re.findall(rb"x-ratelimit-remaining: (\d+)", answer)[0]) for answer in answers]
    assert left == list(range(left[0], left[0] - len(bodies), -1))
    assert sorted(ids(answers)) == sorted(id_ for id_, _ in kept(api))


async def test_a_body_over_the_limit_is_refused_among_others() -> None:
    """1001, and its connection closes; the others of the turn are answered and go on."""
    api = Api()
    made = await api.known(3)
    large = b'{"short-url":"%b","x":"%b"}' % (URL, b"y" * api.state.body_bytes_max)
    for (connection, _), body in zip(made, (GOOD, large, GOOD), strict=True):
        connection.data_received(request(body))
    await settled()
    assert [wire.written[0][9:12] for _, wire in made] == [b"200", b"499", b"200"]
    assert [b"connection: close" in wire.written[0] for _, wire in made] == [False, True, False]
    assert len(api.stored.clicks) == 2


async def test_a_connection_that_closes_while_its_click_waits() -> None:
    """The click is published as any that was taken, nothing is written, and its neighbours are answered."""
    api = Api()
    made = await api.known(3)
    for connection, _ in made:
        connection.data_received(request(GOOD))
    made[1][0].connection_lost(None)
    await settled()
    assert [len(wire.written) for _, wire in made] == [1, 0, 1]
    assert len(api.stored.clicks) == 3


async def test_a_stop_while_clicks_wait() -> None:
    """Each of them is answered: with 500 and not published once the stop has begun; the drain waits for that."""
    api = Api()
    made = await api.known(3)
    for connection, _ in made:
        connection.data_received(request(GOOD))
    async with asyncio.timeout(10):
        await api.commit.drain()
    assert [wire.written[0][9:12] for _, wire in made] == [b"500"] * 3
    assert api.stored.clicks == []


async def test_a_drain_ends_when_all_that_waited_was_refused() -> None:
    """A turn that leaves nothing to publish does not keep the process."""
    api = Api()
    made = await api.known(2)
    for connection, _ in made:
        connection.data_received(request(b"{}"))
    await settled()
    await asyncio.wait_for(api.commit.drain(), 10)


async def test_a_server_that_stops_answers_what_waits() -> None:
    """A connection that is told to stop while its click waits answers it, then closes."""
    api = Api()
    ((connection, wire),) = await api.known(1)
    connection.data_received(request(GOOD))
    connection.shutdown()
    await settled()
    assert wire.written[0].startswith(b"HTTP/1.1 200")
    assert wire.closed


def _revoke(api: Api, catalog: MemoryCatalog) -> None:
    catalog.put("key", "k1", key_record(revoked=True))


def _lose(api: Api, catalog: MemoryCatalog) -> None:
    catalog.is_ready = False


def _break(api: Api, catalog: MemoryCatalog) -> None:
    api.stored.why_not = "no Kafka"


@pytest.mark.parametrize(("change", "status"), [(_revoke, b"401"), (_lose, b"500"), (_break, b"500")])
async def test_what_changes_while_clicks_wait_counts(
    change: Callable[[Api, MemoryCatalog], None], status: bytes
) -> None:
    """A revocation, a catalog that got too old, and no way to make clicks durable are told to all of the turn."""
    catalog = catalog_of(clock_ms())
    api = Api(catalog)
    made = await api.known(3)
    for connection, _ in made:
        connection.data_received(request(GOOD))
    change(api, catalog)
    await settled()
    assert [wire.written[0][9:12] for _, wire in made] == [status] * 3
    assert api.stored.clicks == []


async def test_what_there_is_room_for_is_taken() -> None:
    """Of a turn that does not fit what may wait, the rest is 500; each has an answer, each 200 a record."""
    api = Api(pending_clicks_max=4)
    made = await api.known(9)
    for connection, _ in made:
        connection.data_received(request(GOOD))
    await settled()
    statuses = [wire.written[0][9:12] for _, wire in made]
    assert 3 <= statuses.count(b"200") <= 4
    assert statuses.count(b"200") + statuses.count(b"500") == 9
    assert sorted(ids([wire.written[0] for _, wire in made])) == sorted(id_ for id_, _ in kept(api))


async def test_a_bug_in_one_click_stays_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unhandled error while clicks are judged together, and in one of them, is that one's 500."""
    api = Api()
    made = await api.known(3)
    judge = endpoints.judge_taken

    def broken(state: HandlerState, head: JudgedHead, taken: Any, body: bytes, now_ms: int) -> Any:
        if b"bug" in body:
            raise RuntimeError("a bug")
        return judge(state, head, taken, body, now_ms)

    def all_broken(*_: Any) -> PendingTurn | None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(endpoints, "judge_taken", broken)
    monkeypatch.setattr(endpoints, "accept_together", all_broken)
    for (connection, _), body in zip(made, (GOOD, b'{"bug":1}', GOOD), strict=True):
        connection.data_received(request(body))
    await settled()
    assert [wire.written[0][9:12] for _, wire in made] == [b"200", b"500", b"200"]


async def test_a_throttle_that_breaks_once_stays_with_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clicks are judged each by itself, and those behind an acknowledgement that is under way leave as ever."""
    api = Api()
    made = await api.known(4)
    api.stored.gate.clear()
    made[0][0].data_received(request(GOOD))
    await settled()
    take = api.state.throttle.take

    def broken(*_: Any) -> Any:
        monkeypatch.setattr(api.state.throttle, "take", take)
        raise OSError("no lock")

    monkeypatch.setattr(api.state.throttle, "take", broken)
    for connection, _ in made[1:3]:
        connection.data_received(request(GOOD))
    await settled()
    made[3][0].data_received(request(GOOD))
    await settled()
    api.stored.gate.set()
    await api.commit.drain()
    await settled()
    assert [wire.written[0][9:12] for _, wire in made] == [b"200"] * 4
    assert len(api.stored.clicks) == 4


async def test_a_turn_that_breaks_keeps_no_other_back() -> None:
    """What is to be done at its end may raise: all else is sent, then and later."""
    api = Api()
    made = await api.known(2)
    api.commit.at_turn_end(lambda: 1 // 0)
    for connection, _ in made:
        connection.data_received(request(GOOD))
        await settled()
    assert [wire.written[0][9:12] for _, wire in made] == [b"200"] * 2
    api.commit.at_turn_end(lambda: 1 // 0)
    await api.commit.drain()


async def test_a_connection_that_cannot_be_written_to_stays_alone() -> None:
    """An error while one answer is written does not keep the others' back."""
    api = Api()
    made = await api.known(3)

    def broken(_: Any) -> None:
        raise RuntimeError("a bug")

    made[1][1].write = broken  # type: ignore[method-assign]
    for connection, _ in made:
        connection.data_received(request(GOOD))
    await settled()
    assert [len(wire.written) for _, wire in made] == [1, 0, 1]


def test_heads_are_told_apart_within_a_bound() -> None:
    """The same head is the same group; a new catalog, or too many heads, begins anew."""
    state = make_state()
    head = judge_head(state, b"POST", PATH, HEADERS, PEER, NOW_MS)
    assert isinstance(head, JudgedHead)
    turn = Turn(lambda _head, _exchanges: None)
    first = turn.alike(head)
    assert turn.alike(head._replace()) is first
    for number in range(ALIKE_MAX):
        turn.alike(head._replace(agent=b'"%d"' % number))
    assert len(turn._by_head) <= ALIKE_MAX
    first = turn.alike(head)
    assert turn.alike(head._replace(catalog_version=head.catalog_version + 1)) is not first
    assert len(turn._by_head) == 1
    keyed = head._replace(idempotency_key="k")
    assert turn.alike(keyed) is not turn.alike(keyed)


def test_alike_answers_are_encoded_as_each_by_itself() -> None:
    """The same bytes, the server's own header fields included."""
    alike = AlikeAnswers(200, ((b"x-a", b"1"),), b"x-left", range(12, 7, -2), b'{"id":"', [b"%e", b"%d", b"ab"], b'"}')
    encoder, defaults = AnswerEncoder(), [(b"date", b"Sun, 29 Nov 2026 19:00:00 GMT")]
    each = [encoder.encode(alike.at(place), defaults, close=False, head_only=False) for place in range(3)]
    assert encoder.encode_alike(alike, defaults) == each
    assert each[0].endswith(b'x-left: 12\r\n\r\n{"id":"%e"}')
