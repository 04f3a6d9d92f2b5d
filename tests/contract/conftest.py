"""The API as a process on the real broker: one for the tests of a module, or one of a test's own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator

import pytest

from clickledger.stack.guard import Guard
from tests.support.api_service import ApiService
from tests.support.stack import Names


@pytest.fixture(scope="module")
def api(kafka_bootstrap: str, guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiService]:
    """A running API with room for many failed authentications."""
    service = ApiService(
        kafka_bootstrap,
        Names(secrets.token_hex(4)),
        tmp_path_factory.mktemp("api"),
        guard,
        api_failed_authentications_max="100000",
    )
    asyncio.run(service.prepare())
    service.start()
    yield service
    assert service.stop() == 0


@pytest.fixture
def make_api(
    kafka_bootstrap: str, guard: Guard, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., ApiService]]:
    """Makes services with settings of the test's own; the test prepares and starts them."""
    made: list[ApiService] = []

    def make(**settings: str) -> ApiService:
        names = Names(secrets.token_hex(4))
        service = ApiService(kafka_bootstrap, names, tmp_path_factory.mktemp("api"), guard, **settings)
        made.append(service)
        return service

    yield make
    for service in made:
        if service.child is not None:
            service.stop()
