"""Replay: everything is published, in order, as suspect; a failure anywhere repeats and never leaves out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest_api.frames import encode_frame
from ingest_api.replay import CHUNK_CLICKS, Replayer
from ingest_api.share import Share
from ingest_api.spool_folder import Segment, SpoolFolder, segment_files, side_files
from shared.errors import DataError, OutcomeUnknown, TransientError
from shared.events import Source, decode_raw, encode_raw, raw_origin
from shared.ids import partition_of, uuid7_with_partition
from tests.support.shares import clicks_of

PARTITIONS = 3


def raw(number: int, size: int = 10) -> bytes:
    """The frame of one click as the API spools it; its partition is in its id."""
    key = uuid7_with_partition(1_000 + number, number % 5, number.to_bytes(8, "big")).encode()
    value = encode_raw(
        transaction_id=key,
        received_at_ms=1_000 + number,
        origin=raw_origin("acme", "k", "node", Source.API),
        suspect=False,
        clicked_at_ignored=False,
        catalog_version=1,
        link=b"{}",
        click=b'{"short-url":"%b"}' % (b"u" * size),
    )
    return encode_frame(number % 5, 1_000 + number, key, value)


class Broker:
    """Keeps what it is sent; fails as the test says, after or before it kept the batch."""

    def __init__(self, partitions: int = PARTITIONS) -> None:
        self.partitions = partitions
        self.batches: list[tuple[int, list[int]]] = []
        self.failures: list[Exception | None] = []
        self.too_large: set[int] = set()

    async def append(self, partition: int, shares: Sequence[Share]) -> None:
        """Keep a batch, all of its clicks suspect."""
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, TransientError) and not isinstance(failure, OutcomeUnknown):
            raise failure
        clicks = clicks_of(shares)
        numbers = [decode_raw(click.value).received_at_ms - 1_000 for click in clicks]
        if self.too_large & set(numbers):
            raise DataError("too large")
        for click in clicks:
            decoded = decode_raw(click.value)
            assert (decoded.origin.source, decoded.origin.suspect, click.suspect) == (Source.SPOOL, True, True)
            assert (click.key.decode(), click.timestamp_ms) == (decoded.transaction_id, decoded.received_at_ms)
            assert partition_of(decoded.transaction_id) % self.partitions == partition
        self.batches.append((partition, numbers))
        if failure is not None:
            raise failure

    @property
    def numbers(self) -> list[int]:
        """Every click that arrived, in order."""
        return [number for _, numbers in self.batches for number in numbers]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[SpoolFolder]:
    """A held folder."""
    found = SpoolFolder.claim(tmp_path / "0")
    assert found is not None
    yield found
    found.close()


def fill(folder: SpoolFolder, frames: Sequence[bytes]) -> Segment:
    """A closed segment with these bytes, counted."""
    segment = folder.append(b"".join(frames), 0)
    folder.close_segment()
    folder.note_appended(segment, len(frames), sum(map(len, frames)), 1_000)
    return segment


async def test_all_is_published_in_order_and_deleted(folder: SpoolFolder) -> None:
    """Each partition gets its clicks in order, in batches of a bounded size; the segment is deleted at the end."""
    broker = Broker()
    replayer = Replayer(broker, lambda: PARTITIONS, 1 << 20)
    segment = fill(folder, [raw(number) for number in range(3 * CHUNK_CLICKS + 1)])
    await replayer.replay(folder, segment)
    assert sorted(broker.numbers) == list(range(3 * CHUNK_CLICKS + 1))
    for partition in range(PARTITIONS):
        mine = [number for p, numbers in broker.batches for number in numbers if p == partition]
        assert mine == sorted(mine)
    assert max(len(numbers) for _, numbers in broker.batches) <= CHUNK_CLICKS
    assert (folder.clicks, folder.bytes, folder.oldest_at_ms, segment_files(folder.path)) == (0, 0, None, [])
    assert replayer.replayed == 3 * CHUNK_CLICKS + 1


async def test_batches_are_bounded_in_bytes(folder: SpoolFolder) -> None:
    """A chunk holds no more bytes than a Kafka batch takes, unless a single click is larger."""
    broker = Broker(1)
    await Replayer(broker, lambda: 1, 2_500).replay(
        folder, fill(folder, [raw(5 * n, 700) for n in range(9)] + [raw(45, 5_000)])
    )
    assert [len(numbers) for _, numbers in broker.batches] == [2, 2, 2, 2, 1, 1]


@pytest.mark.parametrize("failure", [TransientError("away"), OutcomeUnknown("no answer")])
async def test_a_failure_repeats_little(folder: SpoolFolder, failure: Exception) -> None:
    """After a failed chunk what was acknowledged before stays done; the rest is sent, by a later process too."""
    broker = Broker(1)
    replayer = Replayer(broker, lambda: 1, 1 << 20)
    segment = fill(folder, [raw(number) for number in range(2 * CHUNK_CLICKS + 10)])
    broker.failures = [None, failure]
    with pytest.raises(TransientError):
        await replayer.replay(folder, segment)
    assert (folder.clicks, folder.oldest_at_ms) == (CHUNK_CLICKS + 10, 1_000 + CHUNK_CLICKS)
    folder.close()
    again = SpoolFolder.claim(folder.path)
    assert again is not None
    await replayer.replay(again, again.segments[0])
    again.close()
    counts = [broker.numbers.count(number) for number in range(2 * CHUNK_CLICKS + 10)]
    repeated = CHUNK_CLICKS if isinstance(failure, OutcomeUnknown) else 0
    assert counts == [1] * CHUNK_CLICKS + [2 if repeated else 1] * CHUNK_CLICKS + [1] * 10


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.sampled_from(["ok", "away", "unknown", "killed"]), max_size=12), st.integers(1, 40))
async def test_no_fault_leaves_a_click_out(
    tmp_path_factory: pytest.TempPathFactory, faults: list[str], count: int
) -> None:
    """Whatever fails in whatever order, with restarts in between: every click arrives at least once, in its order."""
    broker, path = Broker(1), tmp_path_factory.mktemp("spool")
    replayer = Replayer(broker, lambda: 1, 1_000)
    folder = SpoolFolder.claim(path)
    assert folder is not None
    fill(folder, [raw(5 * number) for number in range(count)])
    for fault in [*faults, "ok"]:
        if fault == "killed":
            folder.close()
            folder = SpoolFolder.claim(path)
            assert folder is not None
        broker.failures = {"away": [None, TransientError("x")], "unknown": [None, OutcomeUnknown("x")]}.get(fault, [])
        for segment in list(folder.segments):
            try:
                await replayer.replay(folder, segment)
            except TransientError:
                break
        broker.failures = []
    folder.close()
    assert segment_files(path) == []
    assert list(dict.fromkeys(broker.numbers)) == [5 * number for number in range(count)]


async def test_damage_is_set_aside_and_the_rest_goes_on(folder: SpoolFolder) -> None:
    """Damaged bytes end in a side file, counted; a torn end is no damage; every other click is published."""
    broker = Broker()
    replayer = Replayer(broker, lambda: PARTITIONS, 1 << 20)
    frames = [raw(number) for number in range(6)]
    spoilt = frames[2][:20] + b"\xff" + frames[2][21:]
    segment = fill(folder, [*frames[:2], spoilt, *frames[3:], raw(6)[:-1]])
    await replayer.replay(folder, segment)
    assert sorted(broker.numbers) == [0, 1, 3, 4, 5]
    assert [path.read_bytes() for path in side_files(folder.path)] == [spoilt]
    assert (replayer.set_aside, folder.set_aside_count, folder.is_done) == (1, 1, False)
    assert segment_files(folder.path) == []


async def test_a_click_that_kafka_can_never_take_is_set_aside_alone(folder: SpoolFolder) -> None:
    """One click too large does not take its neighbours with it; its frame is kept."""
    broker = Broker()
    broker.too_large = {5}
    replayer = Replayer(broker, lambda: PARTITIONS, 1 << 20)
    await replayer.replay(folder, fill(folder, [raw(number) for number in range(10)]))
    assert sorted(broker.numbers) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert [path.read_bytes() for path in side_files(folder.path)] == [raw(5)]


async def test_a_partition_that_is_gone_gives_way(folder: SpoolFolder) -> None:
    """A topic made anew with fewer partitions: copies of one click still meet in one partition."""
    broker = Broker()
    await Replayer(broker, lambda: PARTITIONS, 1 << 20).replay(folder, fill(folder, [raw(4), raw(4), raw(3)]))
    assert broker.batches == [(4 % PARTITIONS, [4, 4]), (0, [3])]
