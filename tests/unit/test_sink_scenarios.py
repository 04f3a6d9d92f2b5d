"""Two owners at once, in the few orders that only one rule each keeps from doubling rows; random search rarely meets them."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Collection

import pytest

from shared.ids import keyed_id
from sink.blocks import Block
from sink.plans import decode_plan
from sink.rows import Rows
from tests.support.sink_model import ModelFeed, Process, World
from tests.support.stepping import IDLE


def write(world: World, count: int) -> None:
    """The next records."""
    for _ in range(count):
        raw_offset = len(world.written)
        world.written[raw_offset] = (keyed_id("t", str(raw_offset), 1), False)
        world.write(raw_offset)


@pytest.fixture(params=[True, False], ids=["token first", "part first"])
def world(request: pytest.FixtureRequest) -> World:
    """Seven rows are stored; two more records come."""
    world = World(token_first=request.param)
    write(world, 7)
    Process(world).go_to(IDLE, answered=True)
    return world


def settle(world: World, *processes: Process) -> None:
    """All go on to their ends; each raw offset must have one row."""
    for _ in range(200):
        for process in processes:
            process.step()
    counts = Counter(row["raw_offset"] for row in world.rows())
    assert counts == Counter(range(len(world.written)))


def test_a_lost_group_waits_for_the_former_owners_insert(world: World) -> None:
    """With the plan lost, other boundaries are cut only when no insert under the old plan can be in flight."""
    former = Process(world, fetch=2)
    former.go_to(IDLE, answered=True)
    write(world, 2)
    former.go_to("insert", answered=False)
    world.committed = None
    owner = Process(world, fetch=1)
    owner.go_to(IDLE, answered=False)
    settle(world, former, owner)


def test_an_old_answer_of_the_table_is_not_acted_on(world: World) -> None:
    """Stopped between answer and insert for longer than an answer counts."""
    former = Process(world, fetch=2)
    former.go_to(IDLE, answered=True)
    write(world, 2)
    former.go_to("highest", answered=True)
    world.committed = None
    owner = Process(world, fetch=1)
    owner.go_to(IDLE, answered=False)
    settle(world, former, owner)


def test_a_fresh_answer_is_not_enough_without_a_fresh_commit(world: World) -> None:
    """Stopped between plan and question: the table still says "insert", but the partition is another's."""
    former = Process(world, fetch=2)
    former.go_to(IDLE, answered=True)
    write(world, 2)
    former.go_to("commit", answered=True)
    world.committed = None
    owner = Process(world, fetch=1)
    owner.go_to("insert", answered=False)
    settle(world, former, owner)


def test_the_next_owner_sends_the_token_that_may_be_in_flight(world: World) -> None:
    """An owner about to send `#1` loses the partition, and ClickHouse has forgotten the plain token with the part."""
    owner = Process(world, fetch=1)
    owner.go_to(IDLE, answered=True)
    write(world, 1)
    owner.go_to("insert", answered=False)
    owner.go_to(IDLE, answered=False)
    lost = world.parts.pop()
    assert list(lost.rows) == [7]
    world.tokens.pop("s1-0-7-7")
    write(world, 1)
    owner.go_to("insert", answered=False)
    assert world.committed is not None
    plan = decode_plan(world.committed[1])
    assert plan is not None
    assert plan.attempt == 1
    following = Process(world, fetch=1)
    following.go_to(IDLE, answered=False)
    settle(world, owner, following)


def test_a_token_without_its_part_gets_the_next_one(world: World) -> None:
    """However often: each acknowledged insert that left no rows is followed by another attempt."""
    owner = Process(world)
    owner.go_to(IDLE, answered=True)
    write(world, 1)
    for attempt in range(1, 4):
        world.tokens["s1-0-7-7" + (f"#{attempt}" if attempt > 1 else "")] = world.now_s
    world.tokens["s1-0-7-7#1"] = world.now_s
    settle(world, owner)
    assert "s1-0-7-7#4" in world.tokens


def test_the_rows_of_a_stored_block_are_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its owner waits for the next one: the buffer's room is counted so."""
    owner, cut, kept = Process(world), list[weakref.ref[Rows]](), list[bool]()
    following_block = ModelFeed.following_block

    async def noted(feed: ModelFeed, take_turn: Callable[[], Awaitable[None]]) -> Block | None:
        owner.watch.seen.clear()  # blocks, too
        kept.extend(rows() is not None for rows in cut)
        block = await following_block(feed, take_turn)
        if block is not None:
            cut.append(weakref.ref(block.rows))
        return block

    monkeypatch.setattr(ModelFeed, "following_block", noted)
    write(world, 12)
    settle(world, owner)
    assert len(kept) > 1
    assert not any(kept)


@pytest.mark.parametrize("expired", [range(7), [6], [2, 6]], ids=["all", "the highest", "some"])
@pytest.mark.parametrize("handover", ["none", "restart", "lost group"])
def test_expired_rows_are_not_stored_again(world: World, expired: Collection[int], handover: str) -> None:
    """The seal tells how far the table was, whichever rows are gone, to the same owner, the next one, or a lost group."""
    former = Process(world)
    former.go_to(IDLE, answered=True)
    world.now_s += 10_000
    while world.sealed_last() < 6:
        world.measure_seal()
        world.write_seal(0)
    world.expire(expired)
    write(world, 3)
    if handover == "lost group":
        world.committed = None
    owner = former if handover == "none" else Process(world)
    for _ in range(200):
        owner.step()
    stored = Counter(row["raw_offset"] for row in world.rows())
    assert stored == Counter(set(range(10)) - set(expired))


def _write_suspect_and_stop_its_owner(world: World) -> tuple[str, Process]:
    """The copy of a click from a spool comes; its block's owner stops right before the insert. The id, and the owner."""
    settle(world, Process(world))
    copied = keyed_id("t", "copied", 1)
    world.written[len(world.written)] = (copied, True)
    world.write(len(world.written) - 1)
    former = Process(world)
    former.go_to("insert", answered=False)
    return copied, former


def _is_told_apart(world: World, owner: Process, transaction_id: str) -> None:
    """The original, which nothing marks, comes behind its copy: one of the two is accepted."""
    owner.go_to(IDLE, answered=True)
    world.written[len(world.written)] = (transaction_id, False)
    world.write(len(world.written) - 1)
    settle(world, owner)
    statuses = [row["status"] for row in world.rows() if row["transaction_id"] == transaction_id]
    assert statuses == ["accepted", "duplicate"]


@pytest.mark.parametrize("asked", ["highest", "recent_suspects"])
def test_a_block_that_lands_while_a_new_owner_looks_is_remembered(world: World, asked: str) -> None:
    """What the table's answer counts as stored is also known as suspect, whatever landed between the two questions."""
    copied, former = _write_suspect_and_stop_its_owner(world)
    owner = Process(world)
    owner.go_to(asked, answered=True)
    for _ in range(4):
        former.step()
    _is_told_apart(world, owner, copied)


def test_a_block_that_lands_while_a_new_owner_waits_is_remembered(world: World) -> None:
    """With the group lost, the owner waits for such inserts; afterwards it must know their suspects."""
    copied, former = _write_suspect_and_stop_its_owner(world)
    world.committed = None
    owner = Process(world)
    owner.go_to("pause", answered=False)
    for _ in range(4):
        former.step()
    _is_told_apart(world, owner, copied)
