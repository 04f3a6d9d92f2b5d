"""Commands that read the catalog, where no Kafka answers."""

from __future__ import annotations

import re
import socket

import pytest

from clickledger.directory import read_catalog
from shared.catalog import Kind
from shared.errors import TransientError
from shared.settings import CatalogSettings, KafkaSettings


@pytest.mark.parametrize("is_frozen", [False, True])
async def test_no_kafka(*, is_frozen: bool) -> None:
    """Nobody listens, or somebody does and says nothing: told within the time of a request, with the address and its setting."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if is_frozen:
            listener.listen()
        address = "{}:{}".format(*listener.getsockname())
        kafka = KafkaSettings(kafka_bootstrap=address, kafka_request_timeout_ms=500)
        with pytest.raises(TransientError, match=re.escape(f"Kafka at {address} (CLICKLEDGER_KAFKA_BOOTSTRAP)")):
            async with read_catalog(kafka, CatalogSettings(), (Kind.KEY,)):
                pass
