"""Who may read without a password."""

from __future__ import annotations

import pytest

from clickledger.clickhouse_server.app import is_foreign_page, is_local_host


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


@pytest.mark.parametrize(
    ("headers", "is_foreign"),
    [
        ({}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-origin", "origin": "http://localhost:8082"}, False),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "same-site"}, True),
        ({"origin": "https://evil.example"}, True),
        ({"origin": "null"}, True),
        ({"origin": "http://localhost:3000"}, True),
    ],
)
def test_pages_of_other_origins(headers: dict[str, str], is_foreign: bool) -> None:
    """Programs send neither header; a browser says where a page comes from, another port of this machine included."""
    sent = [(name.encode(), value.encode()) for name, value in {"host": "localhost:8082", **headers}.items()]
    assert is_foreign_page(sent) is is_foreign
