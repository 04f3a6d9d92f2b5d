"""Decisions of `clickledger setup` about topics and streams, without I/O.

A stream is the life of one raw topic: a random id, kept in the catalog with its start offsets and partition count. A
topic that was made anew is a new stream, so that its offsets never meet those of old rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared.errors import OperatorError
from shared.settings import KafkaSettings
from shared.topic_rules import TopicConfig, in_sync_min, refuse_config

_HOUR_MS = 3_600_000
__all__ = [
    "WEBHOOKS_TOPIC_CONFIG",
    "StreamPlan",
    "TopicState",
    "catalog_topic_config",
    "differences",
    "in_sync_min",
    "plan_stream",
    "record_topic_config",
    "refuse_config",
]

_RECORD_BYTES_MAX = 8 << 20  # the largest batch that settings allow to be produced
_ANY_TIME_MS = (1 << 63) - 1  # brokers refuse records from more than an hour ahead: a wrong clock must not stop intake


WEBHOOKS_TOPIC_CONFIG: Final[Mapping[str, str]] = {
    "segment.bytes": str(16 << 20),
    "segment.ms": str(_HOUR_MS),
    "min.cleanable.dirty.ratio": "0.2",
}
"""Places and logs of webhooks are overwritten all the time: small segments are compacted soon."""


_SET_BY: Final = {"retention.ms": "CLICKLEDGER_RETENTION_HOURS"}
_NOT_LOWERED: Final = ("min.insync.replicas", "unclean.leader.election.enable")
"""What would lose clicks is refused (`refuse_config`); what is stricter than ours is welcome."""


def record_topic_config(settings: KafkaSettings) -> dict[str, str]:
    """Configuration of the raw and the enriched topic."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(settings.retention_hours * _HOUR_MS),
        "retention.bytes": "-1",
        "min.insync.replicas": str(in_sync_min(settings.replication_factor)),
        "unclean.leader.election.enable": "false",
        "max.message.bytes": str(_RECORD_BYTES_MAX),
        "message.timestamp.after.max.ms": str(_ANY_TIME_MS),
    }


def catalog_topic_config(settings: KafkaSettings) -> dict[str, str]:
    """Configuration of the catalog: the last record of each key is kept for ever, tombstones for a week."""
    return {
        "cleanup.policy": "compact",
        "delete.retention.ms": str(7 * 24 * _HOUR_MS),
        "min.insync.replicas": str(in_sync_min(settings.replication_factor)),
        "unclean.leader.election.enable": "false",
        "max.message.bytes": str(_RECORD_BYTES_MAX),
        "message.timestamp.after.max.ms": str(_ANY_TIME_MS),
    }


def differences(topic: str, found: TopicConfig, wanted: Mapping[str, str]) -> list[str]:
    """What an existing topic is set to otherwise than set-up would make it, each in words, with the way to change it."""
    told = []
    for name, value in wanted.items():
        now = found.effective.get(name, value)  # a broker that does not know it has no other
        if now == value or name in _NOT_LOWERED:
            continue
        setting = f" (or set {_SET_BY[name]})" if name in _SET_BY else ""
        told.append(
            f"topic {topic} has {name}={now}, by the settings it would be {value}: "
            f"kafka-configs.sh --alter --topic {topic} --add-config {name}={value}{setting}"
        )
    return told


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic as Kafka shows it; `partitions` 0 when it does not exist."""

    name: str
    partitions: int
    has_records: bool  # or had: its offsets do not begin at 0, or end above it


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What to do so that the raw topic and the stream record agree. Steps are taken in the order of the fields."""

    enriched_partitions: int  # create or grow to
    raw_partitions: int  # create or grow to
    record: dict[str, Any] | None  # to be written at the end; None when the catalog has it already


def plan_stream(
    settings: KafkaSettings,
    raw: TopicState,
    enriched: TopicState,
    record: Mapping[str, Any] | None,
    *,
    rows_stored: bool,
    new_id: str,
    now_ms: int,
) -> StreamPlan:
    """Decide about topics and the stream record. `rows_stored`: the table has rows of the recorded stream.

    Raises OperatorError where going on would mix two streams.
    """
    partitions = max(settings.partitions, raw.partitions)
    plan_partitions = max(partitions, enriched.partitions), partitions
    if record is None or _was_made_anew(raw, record, rows_stored=rows_stored):
        _refuse_old_records(raw, enriched)
        return StreamPlan(*plan_partitions, new_record(raw.name, new_id, partitions, now_ms))
    if record["partitions"] == partitions:
        return StreamPlan(*plan_partitions, None)
    starts = list(record["start_offsets"])
    starts += [0] * (partitions - len(starts))
    return StreamPlan(*plan_partitions, {**record, "partitions": partitions, "start_offsets": starts})


def _was_made_anew(raw: TopicState, record: Mapping[str, Any], *, rows_stored: bool) -> bool:
    """Whether the recorded stream's topic is gone: missing, smaller than recorded, or empty though it has rows."""
    if raw.partitions < record["partitions"]:
        return True
    return rows_stored and not raw.has_records


def _refuse_old_records(raw: TopicState, enriched: TopicState) -> None:
    if raw.has_records:
        raise OperatorError(
            f"topic {raw.name} has records but the catalog has no stream for it: its offsets would mix with a new "
            "stream's. Restore the catalog topic, or delete the raw and the enriched topic and run setup again"
        )
    if enriched.has_records:
        raise OperatorError(
            f"topic {enriched.name} has records of an earlier stream but {raw.name} is new: delete {enriched.name} "
            "too, and run setup again"
        )


def new_record(topic: str, stream: str, partitions: int, now_ms: int) -> dict[str, Any]:
    """Make the catalog's record of a new stream; `partitions_at_creation` never changes (keyed ids depend on it)."""
    starts: Sequence[int] = [0] * partitions
    return {
        "v": 1,
        "stream": stream,
        "topic": topic,
        "partitions": partitions,
        "partitions_at_creation": partitions,
        "start_offsets": list(starts),
        "created_at": now_ms,
    }
