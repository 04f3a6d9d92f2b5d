"""What the API refuses at start because two settings contradict each other."""

from __future__ import annotations

import pytest

from ingest_api.config import BESIDE_BODY_BYTES, ServiceSettings
from shared.errors import OperatorError


def test_stop_shorter_than_an_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop must leave time for what still waits for Kafka; the message names both settings."""
    monkeypatch.setenv("CLICKLEDGER_API_ACK_TIMEOUT_MS", "5000")
    monkeypatch.setenv("CLICKLEDGER_STOP_DEADLINE_MS", "10000")
    with pytest.raises(OperatorError, match=r"API_ACK_TIMEOUT_MS.*STOP_DEADLINE_MS"):
        ServiceSettings.load()


def test_wait_shorter_than_an_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clicks behind a batch whose acknowledgement is waited for must not be refused meanwhile."""
    monkeypatch.setenv("CLICKLEDGER_API_ACK_TIMEOUT_MS", "3000")
    with pytest.raises(OperatorError, match=r"API_WAIT_MS_MAX.*API_ACK_TIMEOUT_MS"):
        ServiceSettings.load()


def test_held_bytes_below_two_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on unfinished requests must leave room for two of the largest; the message names both settings."""
    monkeypatch.setenv("CLICKLEDGER_API_BATCH_BYTES_MAX", "16777216")
    monkeypatch.setenv("CLICKLEDGER_API_HELD_BYTES_MAX", "33554431")
    with pytest.raises(OperatorError, match=r"API_HELD_BYTES_MAX.*API_BATCH_BYTES_MAX"):
        ServiceSettings.load()
    monkeypatch.setenv("CLICKLEDGER_API_HELD_BYTES_MAX", "33554432")
    ServiceSettings.load()


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
def test_body_larger_than_a_batch(monkeypatch: pytest.MonkeyPatch, spare: int, fits: bool) -> None:
    """The largest click must fit the smallest batch; the message names both settings."""
    monkeypatch.setenv("CLICKLEDGER_API_BODY_BYTES_MAX", "100000")
    monkeypatch.setenv("CLICKLEDGER_KAFKA_BATCH_BYTES_MAX", str(100_000 + BESIDE_BODY_BYTES + spare))
    if fits:
        ServiceSettings.load()
    else:
        with pytest.raises(OperatorError, match=r"KAFKA_BATCH_BYTES_MAX.*API_BODY_BYTES_MAX"):
            ServiceSettings.load()
