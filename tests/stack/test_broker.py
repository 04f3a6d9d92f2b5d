"""The local Kafka broker."""

from __future__ import annotations

from tests.support.brokers import LocalBrokers


def test_it_keeps_its_port_and_starts_again_after_a_kill(brokers: LocalBrokers) -> None:
    """A killed broker comes back on the same address from the same folder."""
    before = brokers.bootstrap
    brokers.kill(1)
    brokers.start(1)
    assert brokers.bootstrap == before
