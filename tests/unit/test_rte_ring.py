"""The ring of newest events: bounded, the same bytes for all, and a client from anywhere gets into it exactly."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reporting.rte.ring import BATCH_EVENTS_MAX, PIECE_BYTES_MAX, FellBehind, Mine, Ring, cut
from reporting.rte.sse import WORDS, Closed
from shared.enriched import Taken
from shared.rte import Filter, Position

RECORD: dict[str, Any] = orjson.loads((Path(__file__).parents[1] / "golden/enriched-v1.json").read_bytes())
ALL = Filter.of(tenant="acme")


def click(partition: int, raw_offset: int, **changes: Any) -> Taken:
    """A click of stream `s`."""
    names = {"stream": "s", "raw_partition": partition, "raw_offset": raw_offset, "transaction_id": str(uuid.uuid4())}
    return Taken(partition, raw_offset, orjson.dumps(RECORD | names | changes))


def events(data: bytes) -> list[tuple[str, int, int]]:
    """(id, partition, raw offset) of each event."""
    found = []
    for block in filter(None, data.decode().split("\n\n")):
        head, body = block.split("\n")
        inner = orjson.loads(body.removeprefix("data: "))["data"]
        found.append((head.removeprefix("id: "), inner["raw_partition"], inner["raw_offset"]))
    return found


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.lists(st.integers(1, 9)), st.data())
def test_a_client_from_anywhere_gets_in_exactly(order: list[int], sizes: list[int], data: st.DataObject) -> None:
    """From any position that the ring covers, ahead of it in some partitions: the rest once, with true positions."""
    counts = [0, 0, 0]
    taken = []
    for partition in order:
        taken.append(click(partition, counts[partition]))
        counts[partition] += 1
    ring = Ring(Position("s", (0, 0)), 30_000)  # some ten events; the third partition is added at the first batch
    start = Position("s", tuple(data.draw(st.integers(0, count)) for count in counts))
    mine: Mine | None = None
    found: list[tuple[str, int, int]] = []
    number = 0
    for size in [*sizes, len(taken)]:
        ring.add(taken[:size], 3)
        del taken[:size]
        if mine is None and number == 0 and ring.covers(start):
            mine, number = Mine(start), ring.first
        while mine is not None and (batch := ring.get(number)) is not None:
            found += [event for piece in mine.pieces(batch, ALL) for event in events(piece.data)]
            number += 1
    if mine is None:
        assert not ring.covers(start)
        return
    offsets = list(start.offsets)
    for position, partition, raw_offset in found:
        assert raw_offset == offsets[partition]
        offsets[partition] += 1
        assert position == str(Position("s", tuple(offsets)))
    assert offsets == counts
    assert mine.is_level(ring.position)


def test_clients_of_the_ring_get_the_same_bytes() -> None:
    """An event's id is the position behind it, whatever was filtered out before it; other tenants are not there."""
    ring = Ring(Position("s", (5, 0)), 1 << 20)
    ring.add(
        [click(0, 5), click(1, 0, tenant="rival"), click(0, 6, is_bot=True), click(1, 1, promotion_id="summer")], 2
    )
    batch = ring.get(0)
    assert batch is not None
    (piece,) = batch.pieces(ALL)
    assert (events(piece.data), piece.events) == ([("s.6.0", 0, 5), ("s.7.1", 0, 6), ("s.7.2", 1, 1)], 3)
    assert batch.pieces(ALL) is batch.pieces(ALL)
    (piece,) = batch.pieces(Filter.of(promotions=["summer"], tenant="acme"))
    assert events(piece.data) == [("s.7.2", 1, 1)]
    assert batch.pieces(Filter.of(tenant="nobody")) == []
    (piece,) = batch.pieces(Filter.of(tenant="rival"))
    assert events(piece.data) == [("s.6.1", 1, 0)]


def test_a_client_that_knows_more_partitions() -> None:
    """Its position is ahead of the ring; once it reads from the ring it is level when the ring knows them too."""
    ring = Ring(Position("s", (0, 0)), 1 << 20)
    assert ring.is_behind(Position("s", (0, 0, 0)))
    mine = Mine(Position("s", (0, 1, 1)))
    ring.add([click(0, 0), click(1, 0)], 2)
    ring.add([click(2, 0), click(2, 1)], 3)
    batches = [batch for number in range(2) if (batch := ring.get(number)) is not None]
    found = [[event for piece in mine.pieces(batch, ALL) for event in events(piece.data)] for batch in batches]
    assert found == [[("s.1.1.1", 0, 0)], [("s.1.1.2", 2, 1)]]
    assert mine.is_level(ring.position)


def test_what_no_enricher_wrote_is_no_event() -> None:
    """Bytes that are no record, and records of another stream, move the position on and show nothing."""
    ring = Ring(Position("s", (0,)), 1 << 20)
    ring.add([Taken(0, 0, b"{"), click(0, 1, stream="other"), click(0, 2)], 1)
    batch = ring.get(0)
    assert batch is not None
    assert [event for piece in batch.pieces(ALL) for event in events(piece.data)] == [("s.3", 0, 2)]


def test_the_ring_is_bounded() -> None:
    """The oldest batches go; whoever needs one of them fell behind; the newest stays however large it is."""
    ring = Ring(Position("s", (0,)), 10_000)
    for raw_offset in range(20):
        ring.add([click(0, raw_offset)], 1)
    assert ring.first > 10
    assert ring.before.offsets == (ring.first,)
    with pytest.raises(FellBehind):
        ring.get(ring.first - 1)
    assert ring.get(ring.next) is None
    assert ring.covers(Position("s", (ring.first,)))
    assert not ring.covers(Position("s", (ring.first - 1,)))
    assert not ring.covers(Position("t", (20,)))
    ring.add([click(0, raw_offset) for raw_offset in range(20, 21 + BATCH_EVENTS_MAX)], 1)
    newest = ring.get(ring.first)
    assert newest is not None
    assert len(newest.taken) == 1  # a read is cut into batches, and only the last of them fits


def test_a_large_read_is_put_in_by_portions() -> None:
    """Nothing is left out, and none is more than a quarter of the ring by more than one click."""
    ring = Ring(Position("s", (0,)), 40_000)
    taken = [click(0, raw_offset) for raw_offset in range(30)]
    portions = list(ring.portions(taken))
    assert [each for portion in portions for each in portion] == taken
    assert all(len(portion) <= 4 for portion in portions)
    assert not list(ring.portions([]))


def test_pieces_are_bounded() -> None:
    """As many events as fit, one at least."""
    pieces = cut([b"x" * (PIECE_BYTES_MAX // 2)] * 3 + [b"y" * (PIECE_BYTES_MAX + 1)] + [b"z"])
    assert [(len(data), count) for data, count in pieces] == [
        (PIECE_BYTES_MAX, 2),
        (PIECE_BYTES_MAX // 2, 1),
        (PIECE_BYTES_MAX + 1, 1),
        (1, 1),
    ]


async def test_waiting_ends_with_news_the_end_or_the_time() -> None:
    """Whoever waits is woken by a batch and by the end; the first reason for the end is kept."""
    ring = Ring(Position("s", (0,)), 1 << 20)
    await ring.news(0, 0.01)
    waiting = asyncio.ensure_future(ring.news(0, 60))
    await asyncio.sleep(0)
    ring.add([click(0, 0)], 1)
    await waiting
    waiting = asyncio.ensure_future(ring.news(1, 60))
    await asyncio.sleep(0)
    ring.end(Closed.LOST)
    ring.end(Closed.STOPPING)
    await waiting
    assert ring.ended is Closed.LOST
    await ring.news(1, 60)


def test_every_end_has_its_words() -> None:
    """A client is told in words why its stream ends."""
    assert set(WORDS) == set(Closed)
