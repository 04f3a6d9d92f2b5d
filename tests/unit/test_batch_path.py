"""Batches from request to answer: what is taken of one that does not fit, and that each click has its own outcome."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Sequence

import orjson
import pytest

from ingest_api.batch import PendingBatch
from ingest_api.endpoints import BatchPath, answer_async, clock_ms
from ingest_api.metrics import Tallies
from ingest_api.publish import RECORD_OVERHEAD_BYTES, GroupCommit, Told
from ingest_api.share import Share
from shared.errors import TransientError
from shared.events import decode_raw
from shared.http.answer import Answer
from shared.ids import Tails
from tests.support.api import HEADERS, PEER, make_state
from tests.support.catalog import EXAMPLE_URL, example_catalog, link_record
from tests.support.destinations import begin
from tests.support.shares import OneClick, clicks_of

LINK = "shortdomain/dsltrack/employee/j460A8"


class Stored:
    """Keeps everything, but for one partition when told so."""

    def __init__(self, broken: int | None = None) -> None:
        self.appends: list[list[OneClick]] = []
        self._broken = broken

    def why_not_ready(self) -> str:
        """Always ready."""
        return ""

    def append(self, partition: int, shares: Sequence[Share], told: Told) -> None:
        """Done, after a turn of the loop."""
        begin(self._append(partition, shares), told)

    async def _append(self, partition: int, shares: Sequence[Share]) -> None:
        await asyncio.sleep(0)
        if partition == self._broken:
            raise TransientError("no leader")
        self.appends.append(clicks_of(shares))

    def ids(self) -> set[str]:
        """Of all that is kept."""
        return {decode_raw(click.value).transaction_id for clicks in self.appends for click in clicks}


async def send(stored: Stored, lines: Sequence[bytes], **limits: int) -> Answer:
    """A batch's answer, from an API with these limits."""
    bounds = {"group_bytes_max": 1_000_000, "pending_bytes_max": 1_000_000, "pending_clicks_max": 1_000}
    catalog = example_catalog()
    catalog.put("link", LINK, link_record(LINK, sent_at=clock_ms()))
    commit = GroupCommit(stored, partitions=lambda: 6, **(bounds | limits))
    state = make_state(catalog)
    state.tails = Tails(os.urandom)
    path = BatchPath(state, commit, Tallies(), 1_000_000)
    answer = await answer_async(path, b"POST", b"/v1/clicks", HEADERS, b"\n".join(lines), PEER)
    await commit.drain()
    assert (commit.pending_clicks, commit.pending_bytes) == (0, 0)
    return answer


def line(**fields: str) -> bytes:
    """A click on the example's link."""
    return orjson.dumps({"short-url": EXAMPLE_URL} | {name.replace("_", "-"): text for name, text in fields.items()})


def accepted(answer: Answer) -> list[str]:
    """The id of each click, or its code."""
    return [result.get("transaction-id", result.get("code")) for result in orjson.loads(answer.body)]


async def test_an_answered_batch_is_gone() -> None:
    """No batch waits for the collector of cycles with all its clicks."""
    gc.collect()
    gc.disable()
    try:
        await send(Stored(), [line()] * 3)
        assert not [each for each in gc.get_objects() if isinstance(each, PendingBatch)]
    finally:
        gc.enable()


async def test_a_batch_is_one_append() -> None:
    """Clicks without keys of their own leave together, each once, and every id that is told is kept."""
    stored = Stored()
    answer = await send(stored, [line()] * 100)
    assert [len(clicks) for clicks in stored.appends] == [100]
    assert len(stored.ids()) == 100
    assert set(accepted(answer)) == stored.ids()


@pytest.mark.parametrize(("room", "taken"), [(0, 0), (1, 1), (3, 3), (5, 3), (7, 7), (8, 7)])
async def test_what_there_is_room_for_is_taken(room: int, taken: int) -> None:
    """Of a batch of seven what may wait is taken, and exactly that is told its ids; the last quarter is other tenants'."""
    stored = Stored()
    answer = await send(stored, [line()] * 7, pending_clicks_max=room)
    kept = stored.ids()
    assert len(kept) == taken
    assert answer.status == (200 if taken else 500)
    if taken:
        results = accepted(answer)
        assert set(results) - {"500"} == kept
        assert results.count("500") == 7 - len(kept)


async def test_a_batch_larger_than_a_group_is_several() -> None:
    """No append is larger than a group may be; all are kept."""
    stored = Stored()
    long = line(user_agent="x" * 1_000)
    answer = await send(stored, [long] * 10, group_bytes_max=4 * (2_000 + RECORD_OVERHEAD_BYTES))
    assert len(stored.appends) > 1
    assert set(accepted(answer)) == stored.ids()
    assert len(stored.ids()) == 10


async def test_each_share_has_its_own_outcome() -> None:
    """Clicks whose keys send them to a partition that fails are 500 at their places; the others are kept."""
    lines = [line(idempotency_key=f"k{number}") for number in range(40)]
    everything = accepted(await send(Stored(), lines))
    broken = int(everything[0][15:18], 16)
    stored = Stored(broken)
    results = accepted(await send(stored, lines))
    assert set(results) - {"500"} == stored.ids()
    assert [result == "500" for result in results] == [int(id_[15:18], 16) == broken for id_ in everything]
