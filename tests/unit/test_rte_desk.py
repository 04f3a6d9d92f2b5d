"""Streams are bounded, those of one tenant too."""

from __future__ import annotations

from typing import Any

import pytest

from reporting.problems import Refused
from reporting.rte.desk import Desk
from reporting.rte.hub import Hub
from reporting.rte.ring import Ring
from shared.rte import Filter, Position
from shared.settings import KafkaSettings, ReportingSettings


async def test_streams_of_one_tenant_are_bounded() -> None:
    """With its share open it is refused, another tenant is not; a stream that ends gives its place back."""
    nothing: Any = None
    settings = ReportingSettings(reporting_rte_clients_max=3, reporting_rte_tenant_clients_max=2)
    hub = Hub(KafkaSettings(), settings, nothing, nothing)
    hub.ring, hub.is_away = Ring(Position("s", (0,)), 1_000), False
    desk = Desk(hub)

    async def opened(tenant: str) -> Any:
        return await desk.open(Filter.of(tenant=tenant), "latest", lambda: True)

    first = await opened("a")
    await opened("a")
    with pytest.raises(Refused) as refused:
        await opened("a")
    assert refused.value.status == 503
    await opened("b")
    with pytest.raises(Refused):
        await opened("c")
    first.close()
    await opened("a")
