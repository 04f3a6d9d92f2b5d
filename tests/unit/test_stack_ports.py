"""Choice of ports."""

from __future__ import annotations

import socket

from clickledger.stack.ports import HOST, Ports, choose_ports, free_ports, taken


def test_four_ports_follow_the_first() -> None:
    """API N, reports N+1, ClickHouse N+2, Kafka N+3."""
    assert choose_ports(8080) == Ports(8080, 8081, 8082, 8083)


def test_zero_picks_different_free_ports() -> None:
    """Four free ports, none twice."""
    ports = choose_ports(0)
    assert len({ports.api, ports.reports, ports.clickhouse, ports.kafka}) == 4


def test_none_and_excluded_ports() -> None:
    """None wanted gives none; an excluded port is never given."""
    assert free_ports(0) == []
    first = free_ports(3)
    assert not set(free_ports(3, besides=first)) & set(first)


def test_a_listening_port_is_taken() -> None:
    """What something listens on cannot be bound."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert taken([port]) == [port]
