"""The Kafka library's repeated log lines."""

from __future__ import annotations

import logging

from shared.quiet import GROUP_LOGGER, LINES_MAX, SAME_EVERY_S, START_S, QuietLibrary

STARTED_S = 1_000.0


def line(text: str, at_s: float, name: str = "aiokafka.conn", *args: object) -> logging.LogRecord:
    """A log record made at that time."""
    record = logging.LogRecord(name, logging.ERROR, "", 0, text, args, None)
    record.created = at_s
    return record


def test_the_same_line_is_shown_once_in_a_while_and_counts_the_others() -> None:
    """Whatever the arguments: an outage is one line each ten seconds."""
    quiet = QuietLibrary(STARTED_S)
    later = STARTED_S + 100
    assert quiet.filter(line("Unable connect to node %s", later, "aiokafka.client", 1))
    assert not any(quiet.filter(line("Unable connect to node %s", later + n, "aiokafka.client", n)) for n in range(10))
    again = line("Unable connect to node %s", later + SAME_EVERY_S, "aiokafka.client", 2)
    assert quiet.filter(again)
    assert again.getMessage() == "Unable connect to node 2 (10 more like this were left out)"
    assert quiet.filter(line("Unable to update metadata", later, "aiokafka.client"))


def test_other_loggers_are_never_filtered() -> None:
    """Our own lines, and a module whose name only begins like the library's."""
    quiet = QuietLibrary(STARTED_S)
    for name in ("sink.watch", "aiokafkaesque"):
        assert quiet.filter(line("stands still", STARTED_S, name))
        assert quiet.filter(line("stands still", STARTED_S, name))


def test_a_missing_coordinator_is_told_only_when_it_lasts() -> None:
    """Just after the start it is ordinary; ten seconds later it is not."""
    quiet = QuietLibrary(STARTED_S)
    assert not quiet.filter(line("Marking the coordinator dead", STARTED_S + START_S - 0.001, GROUP_LOGGER))
    assert quiet.filter(line("Marking the coordinator dead", STARTED_S + START_S, GROUP_LOGGER))


def test_a_rebalance_is_no_warning() -> None:
    """Members come and go; our own lines say what is assigned."""
    text = "Heartbeat failed for group %s because it is rebalancing"
    assert not QuietLibrary(STARTED_S).filter(line(text, STARTED_S + 100, GROUP_LOGGER, "sinks"))


def test_memory_is_bounded() -> None:
    """Lines that are never the same do not add up."""
    quiet = QuietLibrary(STARTED_S)
    for number in range(2 * LINES_MAX + 10):
        assert quiet.filter(line(f"line {number}", STARTED_S))
    assert len(quiet._shown) <= LINES_MAX
