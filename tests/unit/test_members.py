"""What members of the groups show and say when partitions come and go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from enricher import metrics as enricher_metrics
from enricher.member import Member as Enricher
from enricher.member import Stream as Raw
from shared.errors import NotOwned
from shared.kafka import Assignment, Committed
from shared.settings import KafkaSettings
from sink import watch
from sink.member import Member as Sink
from sink.member import Stream as Enriched

ANYTHING = cast("Any", SimpleNamespace())


def enricher() -> Enricher:
    """One that has not joined."""
    return Enricher(
        KafkaSettings(),
        Raw("s", ()),
        instance_id="n-enricher-0",
        producing=ANYTHING,
        tools=ANYTHING,
        catalog=ANYTHING,
        catalog_wait_s=1,
        look_every_s=1,
    )


def sink() -> Sink:
    """One that has not joined."""
    store = cast("Any", SimpleNamespace(clickhouse=SimpleNamespace(database="d", cluster="")))
    return Sink(
        KafkaSettings(),
        store,
        Enriched("s", ()),
        instance_id="n-sink-0",
        limits=ANYTHING,
        bounds=ANYTHING,
        buffer_bytes_max=1 << 20,
        seal_limits=ANYTHING,
        partitions=4,
    )


def shown(partition: str) -> set[str]:
    """The metrics with a figure of a partition."""
    return {
        sample.name
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.labels.get("partition") == partition
    }


@pytest.fixture(params=["enricher", "sink"])
async def member(request: pytest.FixtureRequest) -> AsyncIterator[Enricher | Sink]:
    """Of each group."""
    made = enricher() if request.param == "enricher" else sink()
    yield made
    await made._consumer.close()
    if isinstance(made, Sink):
        await made._reader.close()


async def test_a_refused_commit_needs_nobody_who_waits(
    member: Enricher | Sink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A member that wakes after its session was over: its commit is refused while its work is cancelled. No traceback, and it is counted."""
    service = "enricher" if isinstance(member, Enricher) else "sink"

    async def refused(_request: object) -> None:
        with contextlib.suppress(
            asyncio.CancelledError
        ):  # as `wait_for` does when it has the answer, before Python 3.12
            await asyncio.sleep(60)
        raise NotOwned("UnknownMemberIdError")

    def count() -> float:
        return REGISTRY.get_sample_value("clickledger_group_commits_refused_total", {"service": service}) or 0

    monkeypatch.setattr(member._consumer, "_send_commit", refused)
    before = count()
    committing = asyncio.create_task(member._consumer.commit(Assignment(0, 1, "m"), Committed(1)))
    await asyncio.sleep(0.01)
    committing.cancel()
    await asyncio.wait([committing])
    assert committing.cancelled()
    del committing
    await asyncio.sleep(0.01)
    gc.collect()
    assert "never retrieved" not in caplog.text
    assert count() == before + 1


async def test_the_figures_of_a_partition_leave_with_it(member: Enricher | Sink) -> None:
    """A lag that is another member's now would be alarmed for ever."""
    for gauge in (enricher_metrics.lag, watch.lag_records, watch.freshness_seconds):
        gauge.labels("91").set(5)
    before = shown("91")
    await member._on_revoked([Assignment(90, 1, "m"), Assignment(91, 1, "m")])
    service = "enricher" if isinstance(member, Enricher) else "sink"
    mine = {name for name in before if name.startswith(f"clickledger_{service}_")}
    assert mine
    assert shown("91") == before - mine
