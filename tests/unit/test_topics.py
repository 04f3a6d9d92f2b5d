"""Decisions about topics and streams."""

from __future__ import annotations

from typing import Any

import pytest

from clickledger.topics import StreamPlan, TopicState, new_record, plan_stream, record_topic_config, refuse_config
from shared.errors import OperatorError
from shared.settings import KafkaSettings
from shared.topic_rules import TopicConfig

SETTINGS = KafkaSettings(partitions=6)
MISSING_RAW = TopicState("clicks.raw", 0, has_records=False)
MISSING_ENRICHED = TopicState("clicks.enriched", 0, has_records=False)


def plan(
    raw: TopicState = MISSING_RAW,
    enriched: TopicState = MISSING_ENRICHED,
    record: dict[str, Any] | None = None,
    *,
    rows_stored: bool = False,
    settings: KafkaSettings = SETTINGS,
) -> StreamPlan:
    """A plan with a fixed id and time."""
    return plan_stream(settings, raw, enriched, record, rows_stored=rows_stored, new_id="new", now_ms=1)


def test_a_first_run_makes_both_topics_and_a_stream() -> None:
    """Without anything there, both topics get the set partitions and a record that starts at 0."""
    assert plan() == StreamPlan(6, 6, new_record("clicks.raw", "new", 6, 1))
    assert new_record("clicks.raw", "new", 2, 1)["start_offsets"] == [0, 0]


def test_a_second_run_changes_nothing() -> None:
    """Topics and record as recorded: no new record."""
    raw = TopicState("clicks.raw", 6, has_records=True)
    assert plan(raw, TopicState("clicks.enriched", 6, has_records=True), new_record("clicks.raw", "old", 6, 0)) == (
        StreamPlan(6, 6, None)
    )


def test_growing_keeps_the_id_and_the_partitions_at_creation() -> None:
    """More partitions extend the record; keyed ids keep their modulus."""
    raw = TopicState("clicks.raw", 6, has_records=True)
    grown = plan(raw, raw, new_record("clicks.raw", "old", 6, 0), settings=KafkaSettings(partitions=8))
    assert grown.record is not None
    assert grown.record["stream"] == "old"
    assert grown.record["partitions_at_creation"] == 6
    assert grown.record["partitions"] == len(grown.record["start_offsets"]) == 8


def test_topics_never_shrink() -> None:
    """Fewer partitions in the settings than in Kafka: Kafka's number stays."""
    raw = TopicState("clicks.raw", 6, has_records=True)
    assert plan(raw, raw, new_record("clicks.raw", "old", 6, 0), settings=KafkaSettings(partitions=2)) == StreamPlan(
        6, 6, None
    )


def test_a_cut_off_growth_is_completed() -> None:
    """Topics that were grown before the record was written: the record follows."""
    raw = TopicState("clicks.raw", 8, has_records=True)
    completed = plan(raw, raw, new_record("clicks.raw", "old", 6, 0))
    assert completed.record is not None
    assert completed.record["partitions"] == 8


@pytest.mark.parametrize(
    ("raw", "rows_stored"),
    [
        (MISSING_RAW, False),
        (MISSING_RAW, True),
        (TopicState("clicks.raw", 6, has_records=False), True),
        (TopicState("clicks.raw", 3, has_records=False), False),
    ],
)
def test_a_topic_made_anew_is_a_new_stream(raw: TopicState, rows_stored: bool) -> None:
    """Missing, empty although rows are stored, or smaller than recorded: a new id, never the old offsets again."""
    made = plan(raw, record=new_record("clicks.raw", "old", 6, 0), rows_stored=rows_stored)
    assert made.record is not None
    assert made.record["stream"] == "new"


def test_records_without_a_stream_are_refused() -> None:
    """A raw topic with records and no stream record would mix offsets."""
    with pytest.raises(OperatorError, match=r"clicks\.raw has records"):
        plan(TopicState("clicks.raw", 6, has_records=True))


def test_old_enriched_records_are_refused_for_a_new_stream() -> None:
    """The enriched topic of an earlier stream must go too."""
    with pytest.raises(OperatorError, match=r"clicks\.enriched has records of an earlier stream"):
        plan(enriched=TopicState("clicks.enriched", 6, has_records=True))


@pytest.mark.parametrize(
    ("config", "compacted", "replicas", "message"),
    [
        ({"cleanup.policy": "compact"}, False, 1, "compacted"),
        ({"cleanup.policy": "compact,delete"}, False, 1, "compacted"),
        ({"cleanup.policy": "delete"}, True, 1, "set it to compact"),
        ({"cleanup.policy": "compact,delete"}, True, 1, "set it to compact"),
        ({"unclean.leader.election.enable": "true"}, False, 1, "unclean"),
        ({"min.insync.replicas": "1"}, False, 3, "min.insync.replicas"),
    ],
)
def test_configurations_that_lose_clicks_are_refused(
    config: dict[str, str], compacted: bool, replicas: int, message: str
) -> None:
    """Each dangerous configuration is named."""
    with pytest.raises(OperatorError, match=message):
        refuse_config("t", TopicConfig(config, frozenset(config)), compacted=compacted, replication_factor=replicas)


def test_a_topic_that_a_client_called_into_being_is_refused() -> None:
    """Nothing was ever set for it: its retention and its partitions are a broker's defaults."""
    config = record_topic_config(KafkaSettings())
    with pytest.raises(OperatorError, match=r"auto\.create\.topics\.enable"):
        refuse_config("t", TopicConfig(config, frozenset()), compacted=False, replication_factor=1)


@pytest.mark.parametrize("replicas", [1, 3])
def test_our_own_configuration_is_accepted(replicas: int) -> None:
    """What setup makes passes setup's own check."""
    config = record_topic_config(KafkaSettings(replication_factor=replicas))
    refuse_config("t", TopicConfig(config, frozenset(config)), compacted=False, replication_factor=replicas)
