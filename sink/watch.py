"""What an operator sees of a partition: metrics, alarms, log lines. Nothing here changes what is stored."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import zip_longest
from typing import Final, Protocol, get_args

from prometheus_client import Counter, Gauge

from shared import metrics
from shared.alarms import Alarms
from shared.errors import ClickledgerError, OffsetLost, OutcomeUnknown, TransientError
from shared.events import Status
from sink.blocks import Block, Gap, Unbuildable
from sink.plans import Decision
from sink.rows import Row

log = logging.getLogger(__name__)

SERVICE: Final = "sink"

rows_stored = Counter("clickledger_sink_rows", "Rows stored, by status", ["status"])
blocks_stored = Counter("clickledger_sink_blocks", "Blocks stored")
bytes_stored = Counter("clickledger_sink_bytes", "Bytes of the stored blocks as sent to ClickHouse")
records_read = Counter("clickledger_sink_records", "Enriched records read, by what became of them", ["outcome"])
records_lost = Counter("clickledger_sink_records_lost", "Enriched records that Kafka deleted before they were read")
decisions = Counter("clickledger_sink_decisions", "What the table said about planned blocks", ["decision"])
copy_queries = Counter("clickledger_sink_copy_queries", "Queries for copies of suspects: at most one per block tried")
retries = Counter("clickledger_sink_retries", "Steps tried again after an error of the environment", ["kind"])
partitions_owned = Gauge("clickledger_sink_partitions", "Partitions this member owns")
lag_records = Gauge("clickledger_sink_lag_records", "Records behind the end of the topic", ["partition"])
freshness_seconds = Gauge(
    "clickledger_sink_freshness_seconds", "Age of the newest stored row at its insert", ["partition"]
)
buffered_bytes = Gauge("clickledger_sink_buffered_bytes", "Bytes of rows read and not yet stored, all partitions")

_STATUSES: Final = [(status, b'"status":"%b"' % status.encode()) for status in Status]
_STATUS_BYTES_MAX: Final = 512
"""The status stands within the first bytes of an enriched record, behind its position and id."""


class Alarm(StrEnum):
    """Why a partition, or the whole member, stands still and needs a human; docs/runbook.md has an entry for each."""

    GAP = "gap"
    """Raw offsets are missing in Kafka; which, is known."""
    LOST = "lost"
    """Kafka deleted records before they were read, and no later record tells yet which raw offsets are missing."""
    OPERATOR = "operator"
    """ClickHouse or Kafka refuses what a human must mend."""
    STALLED = "stalled"
    """A passing error does not pass."""
    START = "start"
    """The sink refuses to begin."""
    SEAL = "seal"
    """Rows cannot be sealed; storing goes on."""
    NAME_TAKEN = "name_taken"
    """Another process is in the group under this one's name; both work on."""


metrics.begin(SERVICE, Alarm)
for _status in Status:
    rows_stored.labels(_status)
for _outcome in ("taken", "dropped", "foreign", "awaiting"):
    records_read.labels(_outcome)
for _decision in get_args(Decision):
    decisions.labels(_decision.__name__)
for _kind in ("transient", "operator", "unknown_outcome"):
    retries.labels(_kind)


class Watch(Protocol):
    """What an `Owner` reports."""

    def decided(self, decision: Decision) -> None:
        """The table's answer about a block."""

    def stored(self, block: Block, replaced: Mapping[int, bytes], body_bytes: int) -> None:
        """An insert was acknowledged; `replaced`: rewritten rows by raw offset."""

    def retried(self, exc: ClickledgerError) -> None:
        """A step failed and is tried again."""

    def raise_alarm(self, alarm: Alarm, detail: str) -> None:
        """The partition stands still until a human acts."""

    def clear_alarm(self, alarm: Alarm) -> None:
        """It goes on."""

    def poison(self, row: Row, cause: Exception) -> None:
        """A row that cannot be stored was found."""

    def plan_lost(self, lost: Unbuildable) -> None:
        """A plan cannot be built again."""

    def settling(self, seconds: float) -> None:
        """Waiting until a former owner's insert cannot be in flight any more."""


class PartitionWatch(Alarms[Alarm]):
    """`Watch` with metrics and log lines."""

    def __init__(self, topic: str, partition: int) -> None:
        super().__init__(SERVICE, f"{topic}/{partition}", log)
        self.topic, self.partition = topic, partition

    def decided(self, decision: Decision) -> None:
        """Count the table's answer."""
        decisions.labels(type(decision).__name__).inc()

    def stored(self, block: Block, replaced: Mapping[int, bytes], body_bytes: int) -> None:
        """Count blocks, bytes and rows by status."""
        blocks_stored.inc()
        bytes_stored.inc(body_bytes)
        freshness_seconds.labels(self.partition).set(max(0.0, time.time() - block.rows[-1].timestamp_ms / 1000))
        for run in block.rows.runs:
            for status, count in count_statuses(run.values_with(replaced)).items():
                rows_stored.labels(status).inc(count)

    def retried(self, exc: ClickledgerError) -> None:
        """Count; log what passes by itself, since the rest is an alarm."""
        kind = "transient" if isinstance(exc, TransientError) else "operator"
        kind = "unknown_outcome" if isinstance(exc, OutcomeUnknown) else kind
        retries.labels(kind).inc()
        metrics.errors.labels(SERVICE, kind).inc()
        if kind != "operator":
            log.warning("%s: trying again: %s", self.name, exc)

    def gap(self, gap: Gap) -> None:
        """Alarm for missing raw offsets."""
        first, last = gap.missing.first, gap.missing.last
        self.raise_alarm(
            Alarm.GAP,
            f"raw offsets {first} to {last} are missing before Kafka offset {gap.kafka_offset}: run `clickledger refill`, "
            f'or accept the loss with `clickledger audit --accept-gap {self.partition}:{first}-{last} --reason "…"`',
        )

    def lost(self, lost: OffsetLost, first_missing: int) -> None:
        """Alarm for records that are gone from Kafka: which raw offsets these were, the next record tells."""
        records_lost.inc(max(0, lost.earliest - lost.wanted))
        self.raise_alarm(
            Alarm.LOST,
            f"{lost}: raw offsets from {first_missing} on may be among them, the next record tells; "
            "`clickledger audit` compares with the raw topic now, `clickledger refill` has them written again",
        )

    def foreign(self, offsets: Sequence[int]) -> None:
        """Log records that are not this stream's; they are counted and make no row."""
        log.warning(
            "%s: %d records are not clicks of this stream, offsets %d to %d: dropped",
            self.name,
            len(offsets),
            offsets[0],
            offsets[-1],
        )

    def poison(self, row: Row, cause: Exception) -> None:
        """Log where it stands; its bytes are in the row's column `raw`."""
        log.error(
            "%s: offset %d (raw offset %d) cannot be stored and becomes a malformed row: %s",
            self.name,
            row.kafka_offset,
            row.raw_offset,
            cause,
        )

    def plan_lost(self, lost: Unbuildable) -> None:
        """Log what was planned and found."""
        log.error("%s: %s cannot be built again, Kafka has up to raw offset %d", self.name, lost.plan, lost.found)

    def settling(self, seconds: float) -> None:
        """Log how long."""
        log.warning("%s: waiting %.0f s until no earlier insert can be in flight", self.name, seconds)


def forget(partition: int) -> None:
    """What another member stores now is not shown here: its figures would stand for ever as they were."""
    lag_records.remove(partition)
    freshness_seconds.remove(partition)


def count_statuses(values: Sequence[bytes]) -> dict[Status, int]:
    """How many rows have which status, without decoding them.

    Most are accepted and say so at the same place, because the numbers and ids before it are equally long: there they are counted
    without a search.
    """
    accepted, marker = _STATUSES[0]
    place = values[0].find(marker, 0, _STATUS_BYTES_MAX)
    found = [value[place : place + len(marker)] for value in values] if place >= 0 else []
    counts = {accepted: found.count(marker)}
    if counts[accepted] == len(values):
        return counts
    rest = [value for value, there in zip_longest(values, found) if there != marker]
    for status, sought in _STATUSES:
        others = [value for value in rest if value.find(sought, 0, _STATUS_BYTES_MAX) < 0]
        counts[status] = counts.get(status, 0) + len(rest) - len(others)
        rest = others
    return {status: count for status, count in counts.items() if count}
