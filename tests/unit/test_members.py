"""What members of the groups show and say when partitions come and go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from enricher import metrics as enricher_metrics
from enricher.member import Member as Enricher
from enricher.member import Stream as Raw
from shared.kafka import Assignment
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
