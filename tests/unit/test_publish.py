"""Group commit: what shares a batch, what waits, what is refused, and that every click is settled exactly once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from ingest_api.answers import Refusal
from ingest_api.publish import RECORD_OVERHEAD_BYTES, STAY_CLICKS, WAITING_CLICKS, GroupCommit, Told
from ingest_api.share import Share
from ingest_api.waits import BOUNDS_S, Waits
from shared.errors import ClickledgerError, DataError, OperatorError, OutcomeUnknown, TransientError
from tests.support.destinations import begin
from tests.support.shares import OneClick, clicks_of, share_of

PARTITIONS = 6


class HeldDestination:
    """A destination whose appends end when the test says so, or at once with an error."""

    def __init__(self) -> None:
        self.appends: list[tuple[int, list[OneClick], asyncio.Future[None]]] = []
        self.why_not = ""
        self.error: Exception | None = None

    def why_not_ready(self) -> str:
        """As the test set it."""
        return self.why_not

    def append(self, partition: int, shares: Sequence[Share], told: Told) -> None:
        """See `Destination`."""
        begin(self._append(partition, shares), told)

    async def _append(self, partition: int, shares: Sequence[Share]) -> None:
        """Wait for the test."""
        if self.error is not None:
            raise self.error
        held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.appends.append((partition, clicks_of(shares), held))
        await held

    def acknowledge(self, index: int) -> None:
        """End an append well."""
        self.appends[index][2].set_result(None)

    def acknowledge_oldest(self) -> None:
        """The same for the first that has not ended, if there is one."""
        held = next((held for _, _, held in self.appends if not held.done()), None)
        if held is not None:
            held.set_result(None)


class Settled:
    """Collects outcomes by click value."""

    def __init__(self) -> None:
        self.outcomes: dict[bytes, Refusal | None] = {}

    def __call__(self, _who: None, share: Share, refusal: Refusal | None) -> None:
        """Each click once."""
        assert self.outcomes.keys().isdisjoint(share.values)
        self.outcomes.update(dict.fromkeys(share.values, refusal))


def click(value: bytes, partition: int) -> Share:
    """A click of a few bytes."""
    return share_of([value], partition)


def commit_to(destination: HeldDestination, **limits: int) -> GroupCommit:
    """A group commit with room for what the test does not limit."""
    return commit_while(lambda: PARTITIONS, destination, **limits)


def commit_while(partitions: Callable[[], int], destination: HeldDestination, **limits: int) -> GroupCommit:
    """The same, for a topic whose number of partitions changes."""
    bounds = {
        "group_bytes_max": 1_000_000,
        "pending_bytes_max": 10_000_000,
        "pending_clicks_max": 10_000,
        "in_flight": 2,
    }
    return GroupCommit(destination, partitions=partitions, **(bounds | limits))


async def turns(count: int = 5) -> None:
    """Let the loop run what is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: object) -> None:
    """Wait for something that a timer of a few milliseconds brings about."""
    async with asyncio.timeout(10):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.001)


async def test_clicks_of_one_moment_share_a_batch() -> None:
    """Clicks without a key that arrive in one round of the loop are one append."""
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination)
    for number in range(10):
        assert commit.submit(click(b"%d" % number, commit.next_partition()), settled, None) is None
    await turns()
    assert [len(clicks) for _, clicks, _ in destination.appends] == [10]
    assert settled.outcomes == {}
    destination.acknowledge(0)
    await turns()
    assert set(settled.outcomes.values()) == {None}
    assert (commit.pending_clicks, commit.pending_bytes, commit.clicks, commit.batches) == (0, 0, 10, 1)


async def test_groups_wait_while_two_are_under_way() -> None:
    """The third group waits for an acknowledgement or the timer; what comes meanwhile joins it."""
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination, group_ms=60_000)
    for number, partition in enumerate((0, 1, 2, 2, 2, 2)):
        commit.submit(click(b"%d" % number, partition), settled, None)
        await turns()
    assert [len(clicks) for _, clicks, _ in destination.appends] == [1, 1]
    destination.acknowledge(0)
    await turns()
    assert [len(clicks) for _, clicks, _ in destination.appends] == [1, 1, 4]
    destination.acknowledge(1)
    destination.acknowledge(2)
    await commit.drain()


async def test_partitions_get_even_shares() -> None:
    """Whatever comes between two acknowledgements, in the long run each partition gets as many clicks as any other."""
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination, group_ms=60_000, pending_clicks_max=10 * STAY_CLICKS * PARTITIONS)
    for number in range(4 * STAY_CLICKS * PARTITIONS):
        commit.submit(click(b"%d" % number, commit.next_partition()), settled, None)
        if number % 20 == 0:
            await turns(3)
        if len(destination.appends) > 1 and number % 30 == 0:
            destination.acknowledge_oldest()
            await turns(3)
    commit_all = asyncio.ensure_future(commit.drain())
    while not commit_all.done():
        destination.acknowledge_oldest()
        await turns(3)
    clicks: Counter[int] = Counter()
    for partition, some, _ in destination.appends:
        clicks[partition] += len(some)
    assert set(clicks) == set(range(PARTITIONS))
    assert max(clicks.values()) - min(clicks.values()) <= STAY_CLICKS
    assert set(settled.outcomes.values()) == {None}


async def test_clicks_stay_with_a_partition_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few wait for its batch; what is too much for that goes to the next one, until it is free again."""
    monkeypatch.setattr("ingest_api.publish.STAY_S", 60.0)
    monkeypatch.setattr("ingest_api.publish.WAITING_S", 60.0)
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination, group_ms=60_000)

    async def goes_to(number: int) -> int:
        chosen = commit.next_partition()
        commit.submit(click(b"%d" % number, chosen), settled, None)
        await turns()
        return chosen

    assert [await goes_to(number) for number in range(WAITING_CLICKS + 2)] == [0] * (WAITING_CLICKS + 1) + [1]
    assert [(partition, len(clicks)) for partition, clicks, _ in destination.appends] == [(0, 1), (1, 1)]
    destination.acknowledge(0)
    await turns()
    assert [(partition, len(clicks)) for partition, clicks, _ in destination.appends[2:]] == [(0, WAITING_CLICKS)]
    destination.acknowledge(1)
    destination.acknowledge(2)
    await turns()
    assert await goes_to(100) == 0
    commit._home_until = 0.0
    destination.acknowledge(3)
    await turns()
    assert await goes_to(101) == 1
    destination.acknowledge(4)
    await commit.drain()


async def test_a_partition_without_an_acknowledgement_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once somebody has waited for a batch too long, clicks without a key go to other partitions; keyed ones wait for it."""
    monkeypatch.setattr("ingest_api.publish.WAITING_S", 0.0)
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination, group_ms=60_000)
    stuck = commit.next_partition()
    commit.submit(click(b"stuck", stuck), settled, None)
    await turns()
    commit.submit(click(b"keyed", stuck), settled, None)
    for number in range(4 * PARTITIONS):
        chosen = commit.next_partition()
        assert chosen != stuck
        commit.submit(click(b"%d" % number, chosen), settled, None)
        await turns()
        destination.acknowledge(len(destination.appends) - 1)
        await turns()
    assert b"keyed" not in settled.outcomes
    assert len(settled.outcomes) == 4 * PARTITIONS
    destination.appends[0][2].set_exception(OutcomeUnknown("no acknowledgement"))
    await turns()
    assert settled.outcomes[b"stuck"] is Refusal.OUTCOME_UNKNOWN
    assert [item.value for item in destination.appends[-1][1]] == [b"keyed"]
    destination.acknowledge(len(destination.appends) - 1)
    await commit.drain()
    assert settled.outcomes[b"keyed"] is None


@pytest.mark.parametrize("in_flight", [1, 2])
async def test_the_timer_sends_what_has_waited(in_flight: int) -> None:
    """With slow acknowledgements a group leaves after `group_ms` all the same, on a free partition."""
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination, group_ms=1, in_flight=in_flight)
    for number in range(4):
        commit.submit(click(b"%d" % number, number), settled, None)
        await turns()
    await until(lambda: len(destination.appends) >= 3)
    assert len({partition for partition, _, _ in destination.appends}) == len(destination.appends)
    await until(lambda: sum(len(clicks) for _, clicks, _ in destination.appends) == 4)
    for index in range(len(destination.appends)):
        destination.acknowledge(index)
    await commit.drain()


async def test_a_group_leaves_when_it_has_waited_itself() -> None:
    """What an earlier group has waited does not count: it has left with an acknowledgement."""
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination, group_ms=60_000, in_flight=1)
    for number in range(3):
        commit.submit(click(b"%d" % number, number), settled, None)
        await turns()
    commit._open[0].since -= 61
    commit._tick()
    await turns()
    assert [partition for partition, _, _ in destination.appends] == [0, 1]
    destination.acknowledge(1)
    await turns()
    assert len(destination.appends) == 2
    destination.acknowledge(0)
    await turns()
    assert [partition for partition, _, _ in destination.appends] == [0, 1, 2]
    destination.acknowledge(2)
    await commit.drain()


async def test_who_was_just_answered_travels_with_the_next_group() -> None:
    """After an acknowledgement the sockets are read once before the group that waited for it leaves."""
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination, in_flight=1)

    def answered(_who: None, _share: Share, _refusal: Refusal | None) -> None:
        asyncio.get_running_loop().call_soon(commit.submit, click(b"next", 1), settled, None)

    commit.submit(click(b"first", 0), answered, None)
    await turns()
    commit.submit(click(b"waits", 1), settled, None)
    await turns()
    destination.acknowledge(0)
    await turns()
    assert [[each.value for each in clicks] for _, clicks, _ in destination.appends] == [
        [b"first"],
        [b"waits", b"next"],
    ]
    destination.acknowledge(1)
    await commit.drain()


@pytest.mark.parametrize("group_ms", [0, 2])
async def test_waiting_costs_next_to_nothing(group_ms: int) -> None:
    """However long a partition's acknowledgement takes, what waits for it is looked at now and then and not in every round."""
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination, group_ms=group_ms, in_flight=1)
    looks, tick = 0, commit._tick

    def counted() -> None:
        nonlocal looks
        looks += 1
        tick()

    commit._tick = counted  # type: ignore[method-assign]
    for number in range(2):
        commit.submit(click(b"%d" % number, 0), settled, None)
        await turns()
    await asyncio.sleep(0.1)
    assert 1 <= looks <= 110
    destination.acknowledge(0)
    await turns()
    destination.acknowledge(1)
    await commit.drain()


async def test_an_append_that_breaks_is_told() -> None:
    """A bug before anything was begun is not taken for a success, and what comes after it is tried."""
    settled, broken = Settled(), HeldDestination()
    commit = commit_to(broken)
    append = broken.append
    broken.append = lambda *_: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    commit.submit(click(b"a", 0), settled, None)
    await turns()
    assert settled.outcomes == {b"a": Refusal.OUTCOME_UNKNOWN}
    broken.append = append  # type: ignore[method-assign]
    commit.submit(click(b"b", 0), settled, None)
    await turns()
    broken.acknowledge(0)
    await commit.drain()
    assert settled.outcomes[b"b"] is None


async def test_one_group_per_partition_under_way() -> None:
    """A partition's next group never leaves before its last one is acknowledged, and order is kept."""
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination, group_ms=1)
    for number in range(3):
        commit.submit(click(b"%d" % number, 4), settled, None)
        await turns()
    await asyncio.sleep(0.01)
    assert len(destination.appends) == 1
    destination.acknowledge(0)
    await until(lambda: len(destination.appends) == 2)
    assert [item.value for item in destination.appends[1][1]] == [b"1", b"2"]
    destination.acknowledge(1)
    await commit.drain()


async def test_groups_are_cut_at_their_byte_limit() -> None:
    """No group is larger than a batch may be; the rest of a partition follows it."""
    destination, settled = HeldDestination(), Settled()
    size = 1_000 + RECORD_OVERHEAD_BYTES
    commit = commit_to(destination, group_bytes_max=3 * size, group_ms=1)
    for number in range(7):
        commit.submit(click(b"%d" % number * 1_000, 2), settled, None)
    for index, expected in enumerate([3, 3, 1]):
        await until(lambda index=index: len(destination.appends) == index + 1)
        assert len(destination.appends[index][1]) == expected
        destination.acknowledge(index)
    await commit.drain()
    assert len(settled.outcomes) == 7


@pytest.mark.parametrize("limits", [{"pending_clicks_max": 3}, {"pending_bytes_max": 3 * (1 + RECORD_OVERHEAD_BYTES)}])
async def test_refuses_beyond_its_bounds(limits: dict[str, int]) -> None:
    """Exactly the limit is taken, sent or not; room comes back with the acknowledgement."""
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination, **limits)
    for number in range(3):
        assert commit.submit(click(b"%d" % number, 0), settled, None) is None
    assert commit.submit(click(b"x", 0), settled, None) is Refusal.OVERLOADED
    await turns()
    assert commit.submit(click(b"x", 0), settled, None) is Refusal.OVERLOADED
    destination.acknowledge(0)
    await turns()
    assert commit.submit(click(b"y", 0), settled, None) is None
    await turns()
    destination.acknowledge(1)
    await commit.drain()
    assert b"x" not in settled.outcomes


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (TransientError("no broker"), Refusal.NOT_DURABLE),
        (OperatorError("password"), Refusal.NOT_DURABLE),
        (OutcomeUnknown("no acknowledgement"), Refusal.OUTCOME_UNKNOWN),
        (DataError("too large"), Refusal.INTERNAL_ERROR),
        (RuntimeError("a bug"), Refusal.OUTCOME_UNKNOWN),
    ],
)
async def test_every_failure_is_told(error: Exception, refusal: Refusal) -> None:
    """An append that failed settles all its clicks with the reason, and the next one is tried."""
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination)
    destination.error = error
    commit.submit(click(b"a", 0), settled, None)
    commit.submit(click(b"b", 0), settled, None)
    await turns()
    assert settled.outcomes == {b"a": refusal, b"b": refusal}
    assert (commit.pending_clicks, commit.clicks) == (0, 0)
    destination.error = None
    commit.submit(click(b"c", 0), settled, None)
    await turns()
    destination.acknowledge(0)
    await commit.drain()
    assert settled.outcomes[b"c"] is None
    assert issubclass(type(error), ClickledgerError) or refusal is Refusal.OUTCOME_UNKNOWN


async def test_refuses_what_cannot_become_durable() -> None:
    """Without a connection, without a stream record or while stopping, a click is refused at once."""
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination)
    destination.why_not = "not connected"
    assert commit.submit(click(b"a", 0), settled, None) is Refusal.NOT_DURABLE
    assert commit.why_not_ready() == "not connected"
    destination.why_not = ""
    assert commit.submit(click(b"a", PARTITIONS), settled, None) is Refusal.CATALOG_NOT_READY
    await commit.drain()
    assert commit.submit(click(b"a", 0), settled, None) is Refusal.STOPPING
    assert settled.outcomes == {}


def share(count: int, partition: int = 0) -> Share:
    """So many clicks of one byte."""
    return share_of([b"%d" % n for n in range(count)], partition)


async def test_a_share_travels_and_is_settled_as_one() -> None:
    """The clicks of a share are one append with what else is in the group, in order, and have one outcome."""
    destination, told = HeldDestination(), list[tuple[object, ...]]()
    commit = commit_to(destination)
    mine = share(3)
    assert commit.submit(click(b"before", 0), lambda *outcome: told.append(outcome), "single") is None
    assert commit.submit(mine, lambda *outcome: told.append(outcome), "batch") is None
    assert commit.pending_clicks == 4
    await turns()
    assert [item.value for item in destination.appends[0][1]] == [b"before", b"0", b"1", b"2"]
    assert told == []
    destination.acknowledge(0)
    await commit.drain()
    assert told[1:] == [("batch", mine, None)]
    assert (commit.pending_clicks, commit.pending_bytes, commit.clicks) == (0, 0, 4)


@pytest.mark.parametrize(
    "limits",
    [
        {"pending_clicks_max": 3},
        {"pending_bytes_max": 3 * (1 + RECORD_OVERHEAD_BYTES)},
        {"group_bytes_max": 3 * (1 + RECORD_OVERHEAD_BYTES)},
    ],
)
async def test_a_share_beyond_a_bound_is_refused_whole(limits: dict[str, int]) -> None:
    """Exactly the limit is taken; of a share with one click more none is."""
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination, **limits)
    assert commit.submit(share(4), settled, None) is Refusal.OVERLOADED
    assert (commit.pending_clicks, commit.pending_bytes) == (0, 0)
    assert commit.submit(share(3), settled, None) is None
    assert commit.submit(share(1, PARTITIONS), settled, None) is Refusal.CATALOG_NOT_READY


async def test_a_topic_made_anew_with_fewer_partitions_takes_clicks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The partition in use is gone with the old topic: the next click goes to one that there is."""
    monkeypatch.setattr("ingest_api.publish.STAY_CLICKS", 1)
    count = PARTITIONS
    destination, settled = HeldDestination(), Settled()
    commit = commit_while(lambda: count, destination, in_flight=PARTITIONS)
    for index in range(PARTITIONS - 1):
        commit.submit(click(b"%d" % index, commit.next_partition()), settled, None)
        await turns()
    assert commit.next_partition() == PARTITIONS - 1
    count = 2
    assert commit.next_partition() < count


async def test_drain_waits_for_everything_taken() -> None:
    """A stop ends only when every click taken before it is settled."""
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination)
    commit.submit(click(b"a", 0), settled, None)
    commit.submit(click(b"b", 1), settled, None)
    draining = asyncio.ensure_future(commit.drain())
    await turns()
    assert not draining.done()
    destination.acknowledge(0)
    await turns()
    assert not draining.done()
    destination.acknowledge(1)
    await draining
    assert settled.outcomes == {b"a": None, b"b": None}


async def test_a_partition_that_waits_too_long_takes_no_more() -> None:
    """While a partition's oldest click has waited too long, further ones are refused at once; other partitions go on."""
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination, group_ms=1, wait_ms_max=20)
    assert commit.submit(click(b"sent", 0), settled, None) is None
    await until(lambda: len(destination.appends) == 1)
    assert commit.submit(click(b"waits", 0), settled, None) is None
    refused: list[Refusal | None] = []

    def is_refused() -> bool:
        refused.append(commit.submit(click(b"more %d" % len(refused), 0), settled, None))
        return refused[-1] is not None

    await until(is_refused)
    assert refused[-1] is Refusal.WAIT_TOO_LONG
    assert commit.submit(click(b"elsewhere", 1), settled, None) is None
    destination.acknowledge(0)
    await until(lambda: len(destination.appends) == 3)
    assert commit.submit(click(b"again", 0), settled, None) is None
    assert len(destination.appends[2][1] + destination.appends[1][1]) == len(refused) + 1


async def test_it_is_known_how_long_clicks_waited() -> None:
    """All clicks of a group as long as the first of it, whatever became of them; each is counted once."""
    destination = HeldDestination()
    commit = commit_to(destination)
    for value in (b"a", b"b"):
        commit.submit(click(value, 1), Settled(), None)
    await asyncio.sleep(0.03)
    destination.acknowledge(0)
    await commit.drain()
    counts, seconds = commit.waits.take()
    assert sum(counts) == 2
    assert 0.055 < seconds < 2
    assert sum(counts[: BOUNDS_S.index(0.025) + 1]) == 0
    assert commit.waits.take() == ([0] * (len(BOUNDS_S) + 1), 0)


def test_a_wait_on_a_bound_is_within_it() -> None:
    """As in the metric, whose bounds are inclusive; beyond the last one there is no bound."""
    for place, bound in enumerate(BOUNDS_S):
        waits = Waits()
        waits.add(bound, 3)
        waits.add(bound + 1e-6, 4)
        counts, seconds = waits.take()
        assert counts[place : place + 2] == [3, 4]
        assert seconds == pytest.approx(7 * bound, abs=1e-3)
