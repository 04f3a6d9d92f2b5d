"""Kafka first, the spool for what Kafka does not acknowledge: which way a click takes, and what its caller is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from ingest_api.destination import KafkaDestination, KafkaOrSpool
from ingest_api.share import Share, count_clicks
from ingest_api.spool import Spool, SpoolReason
from ingest_api.spool_folder import SpoolFolder
from shared.errors import DataError, OperatorError, OutcomeUnknown, TransientError
from tests.support.destinations import append
from tests.support.shares import share_of

CLICK = share_of([b"{}"])


class Kafka:
    """A way into Kafka that does as the test says."""

    def __init__(self) -> None:
        self.why_not = ""
        self.is_proved = True
        self.error: Exception | None = None
        self.fails_at_once = False
        self.taken = 0

    def why_not_ready(self) -> str:
        """As the test set it."""
        return self.why_not

    def send(self, partition: int, shares: Sequence[Share]) -> asyncio.Future[int]:
        """Take the clicks, or fail: at once, or when they were sent."""
        sent: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self.error is not None:
            if self.fails_at_once:
                raise self.error
            sent.set_exception(self.error)
        else:
            self.taken += count_clicks(shares)
            sent.set_result(0)
        return sent


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    """A spool with room for two clicks."""
    folder = SpoolFolder.claim(tmp_path / "0")
    assert folder is not None
    spool = Spool(folder, bytes_max=150, free_bytes_min=0)
    yield spool
    await spool.close()


def destination(kafka: Kafka, spool: Spool | None) -> KafkaOrSpool:
    """The pair."""
    return KafkaOrSpool(cast("KafkaDestination", kafka), spool)


@pytest.mark.parametrize(
    ("why_not", "error", "reason"),
    [
        ("not connected", None, SpoolReason.NOT_CONNECTED),
        ("", OutcomeUnknown("no answer"), SpoolReason.OUTCOME_UNKNOWN),
        ("", TransientError("no leader"), SpoolReason.NOT_SENT),
        ("", OperatorError("no right"), SpoolReason.NOT_SENT),
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
async def test_what_kafka_does_not_take_is_spooled(
    spool: Spool, why_not: str, error: Exception | None, reason: SpoolReason, *, at_once: bool
) -> None:
    """Each way of not getting into Kafka ends in the spool, counted by its reason, and is no error."""
    kafka = Kafka()
    kafka.why_not, kafka.error, kafka.fails_at_once = why_not, error, at_once
    await append(destination(kafka, spool), 0, [CLICK])
    assert (spool.folder.clicks, dict(spool.spooled), kafka.taken) == (1, {reason: 1}, 0)


async def test_what_kafka_takes_is_not_spooled(spool: Spool) -> None:
    """An acknowledged batch leaves nothing on disk; a record that is itself at fault is not kept either."""
    kafka = Kafka()
    await append(destination(kafka, spool), 0, [CLICK])
    kafka.error = DataError("too large")
    with pytest.raises(DataError):
        await append(destination(kafka, spool), 0, [CLICK])
    assert (spool.folder.clicks, kafka.taken) == (0, 1)


async def test_a_new_producer_is_tried_with_the_spool_first(spool: Spool) -> None:
    """Until one batch is acknowledged live clicks do not wait for a producer; with an empty spool they must."""
    kafka = Kafka()
    kafka.is_proved = False
    await append(destination(kafka, spool), 0, [CLICK])
    assert kafka.taken == 1
    await spool.append(0, [CLICK], SpoolReason.NOT_CONNECTED)
    await append(destination(kafka, spool), 0, [CLICK])
    assert (kafka.taken, spool.spooled[SpoolReason.NOT_PROVED]) == (1, 1)


async def test_full_spool(spool: Spool) -> None:
    """Without room the caller hears the truth: not stored, or, when Kafka may have it, unknown."""
    kafka = Kafka()
    kafka.why_not = "not connected"
    pair = destination(kafka, spool)
    assert pair.why_not_ready() == ""
    for _ in range(2):
        await append(pair, 0, [CLICK])
    with pytest.raises(TransientError) as refused:
        await append(pair, 0, [CLICK])
    assert not isinstance(refused.value, OutcomeUnknown)
    assert "not connected; the spool is full" in pair.why_not_ready()
    kafka.why_not, kafka.error = "", OutcomeUnknown("no answer")
    with pytest.raises(OutcomeUnknown, match=r"no answer.*spool is full"):
        await append(pair, 0, [CLICK])


@pytest.mark.parametrize("error", [OutcomeUnknown("no answer"), TransientError("away")])
async def test_switched_off(error: Exception) -> None:
    """Without a spool the caller hears what Kafka said."""
    kafka = Kafka()
    kafka.error, kafka.why_not = error, "not connected"
    assert destination(kafka, None).why_not_ready() == "not connected"
    with pytest.raises(type(error)):
        await append(destination(kafka, None), 0, [CLICK])


class HeldBatch:
    """A batch that takes everything."""

    def __init__(self) -> None:
        self.count = 0

    def extend(self, *, keys: Sequence[bytes], **_: object) -> bool:
        """Taken."""
        self.count += len(keys)
        return True

    def record_count(self) -> int:
        """See `Batch`."""
        return self.count


class HeldProducer:
    """A producer whose acknowledgements come when the test says; `retire` ends the waits as the real one does."""

    def __init__(self) -> None:
        self.waits: list[asyncio.Future[int]] = []
        self.closing = asyncio.Event()
        self.may_close = asyncio.Event()
        self.is_broken = ""

    async def start(self) -> None:
        """Connected at once."""

    def new_batch(self) -> HeldBatch:
        """See HeldBatch."""
        return HeldBatch()

    def begin_batch(self, *_: object, timeout_ms: int) -> asyncio.Future[int]:
        """Wait for the test or for `retire`."""
        wait: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.waits.append(wait)
        return wait

    def retire(self, why: str) -> None:
        """End all waits, for good."""
        self.is_broken = why
        for wait in self.waits:
            if not wait.done():
                wait.set_exception(OutcomeUnknown(why))

    async def close(self, deadline_s: float) -> bool:
        """Takes as long as the test wants."""
        self.closing.set()
        await self.may_close.wait()
        return True


async def connected() -> tuple[KafkaDestination, list[HeldProducer], asyncio.Task[None]]:
    """A way into Kafka with its first producer, all producers that are made for it, and the task that makes them."""
    made: list[HeldProducer] = []

    def make() -> Any:
        made.append(HeldProducer())
        return made[-1]

    kafka = KafkaDestination(make, "clicks.raw", ack_timeout_ms=1_000)
    running = asyncio.create_task(kafka.run())
    while kafka.why_not_ready():
        await asyncio.sleep(0)
    return kafka, made, running


async def test_the_first_unknown_outcome_retires_the_producer() -> None:
    """All waits end at once, nothing new is sent through it, and the next one is built only when it is closed."""
    kafka, made, running = await connected()
    sends = [asyncio.ensure_future(kafka.append(partition, [CLICK])) for partition in range(3)]
    await asyncio.sleep(0)
    made[0].waits[1].set_exception(OutcomeUnknown("no answer"))
    outcomes = await asyncio.gather(*sends, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown] * 3
    assert "being replaced" in kafka.why_not_ready()
    with pytest.raises(TransientError, match="being replaced"):
        await kafka.append(0, [CLICK])
    await made[0].closing.wait()
    await asyncio.sleep(0)
    assert len(made) == 1
    made[0].may_close.set()
    while kafka.why_not_ready():
        await asyncio.sleep(0)
    assert (len(made), kafka.rebuilt, kafka.is_proved) == (2, 1, False)
    send = asyncio.ensure_future(kafka.append(0, [CLICK]))
    await asyncio.sleep(0)
    made[1].waits[0].set_result(7)
    await send
    assert (kafka.is_proved, kafka.clicks) == (True, 1)
    made[1].may_close.set()
    running.cancel()
    await asyncio.wait([running])


async def test_a_cancelled_wait_leaves_the_batch_alone() -> None:
    """What was written goes on: its outcome is noted, and the producer stays."""
    kafka, made, running = await connected()
    waiting = asyncio.ensure_future(kafka.append(0, [CLICK]))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    made[0].waits[0].set_result(7)
    await asyncio.sleep(0)
    assert (kafka.clicks, kafka.why_not_ready()) == (1, "")
    made[0].may_close.set()
    running.cancel()
    await asyncio.wait([running])
