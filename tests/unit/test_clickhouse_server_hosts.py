"""Who may read without a password."""

from __future__ import annotations

import pytest

from clickledger.clickhouse_server.app import is_local_host


@pytest.mark.parametrize("host", ["127.0.0.1:8082", "localhost:8082", "[::1]:8082", "localhost", "[::1]"])
def test_this_machine_by_its_own_names(host: str) -> None:
    """Loopback names, with any port or none."""
    assert is_local_host([(b"accept", b"*/*"), (b"host", host.encode())])


@pytest.mark.parametrize(
    "host", ["evil.example:8082", "127.0.0.1.evil.example:8082", "localhost.evil.example", "", "192.168.1.2:8082"]
)
def test_any_other_name_is_a_strangers(host: str) -> None:
    """A web page behind a name that was pointed at this machine gets nothing; neither does a request without a host."""
    assert not is_local_host([(b"host", host.encode())] if host else [])
