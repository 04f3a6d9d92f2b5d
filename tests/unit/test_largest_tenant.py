"""One tenant's flood leaves a place for the others in what waits for Kafka."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from ingest_api import publish
from ingest_api.answers import Refusal
from ingest_api.largest_tenant import SAMPLE, largest, tenant_of
from ingest_api.publish import RECORD_OVERHEAD_BYTES, GroupCommit
from ingest_api.share import Share
from shared.events import Source, encode_raw, raw_origin
from tests.support.shares import share_of
from tests.unit.test_publish import HeldDestination, Settled, commit_to, turns, until


def click(number: int, tenant: str, partition: int = 0) -> Share:
    """A click as the API makes it; its body names another tenant."""
    value = encode_raw(
        transaction_id=b"%036d" % number,
        received_at_ms=1_700_000_000_000,
        origin=raw_origin(tenant, "k", "node", Source.API),
        suspect=False,
        replay_of=b"null",
        clicked_at_ignored=False,
        caller_user_agent=b"",
        catalog_version=1,
        link=b"{}",
        click=b'{"tenant":"other"}',
    )
    return share_of([value], partition)


@pytest.mark.parametrize("tenant", ["acme", 'a"b', "a\\", "ü", "x" * 64])
def test_the_tenant_is_the_records_own(tenant: str) -> None:
    """Whatever its name, and whatever the body says; a value that is no record has none."""
    assert (
        tenant_of(click(1, tenant).values[0])
        == raw_origin(tenant, "", "", Source.API).partition(b":")[2].partition(b',"key_id"')[0]
    )
    assert tenant_of(b"{}") == b""


@pytest.mark.parametrize("total", [1, 2, 7, SAMPLE, SAMPLE + 1, 20 * SAMPLE + 3])
@pytest.mark.parametrize("group", [1, 3, 5_000])
def test_the_largest_has_more_than_half(total: int, group: int) -> None:
    """Of any number of clicks in groups of any size; half is not more than half."""
    values = [click(n, "small" if n % 4 == 0 and n else "large").values[0] for n in range(total)]
    waiting = [values[n : n + group] for n in range(0, total, group)]
    assert largest(waiting) == b'"large"'
    assert largest([click(1, "a").values, click(2, "b").values]) is None
    assert largest([]) is None


def fill(commit: GroupCommit, tenant: str, count: int, settled: Settled, partition: int = 0) -> list[Refusal | None]:
    """Submit so many clicks of a tenant; what became of each."""
    start = commit.pending_clicks * 1_000
    return [commit.submit(click(start + n, tenant, partition), settled, None) for n in range(count)]


async def held_commit(**limits: int) -> tuple[HeldDestination, GroupCommit, Settled]:
    """A group commit to a destination that takes nothing any more, one group under way."""
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination, group_ms=1, in_flight=1, wait_ms_max=60_000, **limits)
    assert fill(commit, "first", 1, settled) == [None]
    await until(lambda: len(destination.appends) == 1)
    return destination, commit, settled


async def test_a_flood_leaves_the_last_quarter_to_others() -> None:
    """The flooding tenant has three quarters of the queue; another's clicks are taken until it is full."""
    _, commit, settled = await held_commit(pending_clicks_max=400)
    assert fill(commit, "large", 298, settled) == [None] * 298
    await turns()
    assert fill(commit, "large", 1, settled) == [None]
    await turns()
    assert fill(commit, "large", 50, settled) == [Refusal.TENANT_SHARE] * 50
    assert fill(commit, "small", 100, settled) == [None] * 100
    assert fill(commit, "small", 1, settled) == [Refusal.OVERLOADED]


async def test_bytes_are_shared_like_clicks() -> None:
    """A few large clicks press as many small ones do."""
    size = len(click(1, "large").values[0]) + RECORD_OVERHEAD_BYTES
    _, commit, settled = await held_commit(pending_bytes_max=40 * size)
    assert fill(commit, "large", 29, settled) == [None] * 29
    await turns()
    assert fill(commit, "large", 1, settled) == [Refusal.TENANT_SHARE]
    assert fill(commit, "small", 5, settled) == [None] * 5


async def test_a_long_wait_is_shared_too() -> None:
    """From three quarters of the longest wait on the large tenant gets no more, and the others do until the bound."""
    destination, settled = HeldDestination(), Settled()
    commit = commit_to(destination, group_ms=1, in_flight=1, wait_ms_max=2_000)
    fill(commit, "first", 1, settled)
    await until(lambda: len(destination.appends) == 1)
    assert fill(commit, "large", 10, settled) == [None] * 10
    await asyncio.sleep(1.55)
    assert fill(commit, "large", 1, settled) == [Refusal.TENANT_SHARE]
    assert fill(commit, "small", 5, settled) == [None] * 5


async def test_with_room_again_everybody_is_taken() -> None:
    """The pressure ends when what waited is durable; every click that was taken is settled once."""
    destination, commit, settled = await held_commit(pending_clicks_max=40)
    taken = fill(commit, "large", 35, settled).count(None)
    await turns()
    assert fill(commit, "large", 1, settled) == [Refusal.TENANT_SHARE]
    destination.acknowledge(0)
    await until(lambda: len(destination.appends) == 2)
    destination.acknowledge(1)
    await until(lambda: commit.pending_clicks == 0)
    assert fill(commit, "large", 1, settled) == [None]
    assert len(settled.outcomes) == taken + 1


class SlowDestination(HeldDestination):
    """Takes few clicks at a time, and 5 ms for it."""

    async def _append(self, partition: int, shares: Sequence[Share]) -> None:
        """Always good."""
        await asyncio.sleep(0.005)


async def refused_beside_a_flood(rounds: int) -> Counter[Refusal | None]:
    """What becomes of a small tenant's clicks while another offers ten times what leaves."""
    settled = Settled()
    limits = {"group_bytes_max": 20 * 600, "pending_clicks_max": 400, "wait_ms_max": 60_000, "in_flight": 1}
    commit = commit_to(SlowDestination(), group_ms=1, **limits)
    found: Counter[Refusal | None] = Counter()
    for number in range(rounds):
        for n in range(200):
            commit.submit(click(1_000 * number + n, "large"), settled, None)
        found.update(commit.submit(click(1_000 * number + 900 + n, "small"), settled, None) for n in range(2))
        await asyncio.sleep(0.005)
    await commit.drain()
    return found


async def test_a_flood_costs_another_tenant_no_click(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its clicks is taken; where nobody looks who has most, most are refused."""
    assert (await refused_beside_a_flood(100))[None] >= 190
    monkeypatch.setattr(publish, "largest", lambda _waiting: None)
    assert (await refused_beside_a_flood(100))[None] <= 100


async def test_many_tenants_fill_the_queue_together() -> None:
    """Where nobody has more than half, only the bound itself refuses."""
    _, commit, settled = await held_commit(pending_clicks_max=90)
    for number in range(89):
        assert fill(commit, f"t{number % 3}", 1, settled) == [None]
        await turns(2)
    assert fill(commit, "t0", 1, settled) == [Refusal.OVERLOADED]
