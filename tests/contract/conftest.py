"""The API as a process on the real broker: one for all tests, or one of a module's or a test's own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator

import pytest

from clickledger.stack.guard import Guard
from tests.support.api_service import ApiService
from tests.support.processes import wait_until
from tests.support.stack import Names


@pytest.fixture(scope="session")
def _shared_api(kafka_bootstrap: str, guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiService]:
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


@pytest.fixture(scope="module")
def api(_shared_api: ApiService) -> ApiService:
    """The running API of this test run, with room for many failed authentications.

    Another module may have killed the broker: wait until clicks are taken and a missing link is known to be missing.
    """
    assert _shared_api.child is not None
    wait_until(lambda: _shared_api.click().status == 200, _shared_api.child, "the API")
    wait_until(lambda: _shared_api.click(b'{"short-url":"x"}').code == "1003", _shared_api.child, "the API")
    return _shared_api


@pytest.fixture(scope="module")
def start_api(
    kafka_bootstrap: str, guard: Guard, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., ApiService]]:
    """Starts services with settings of the module's own."""
    running: list[ApiService] = []

    def start(**settings: str) -> ApiService:
        names = Names(secrets.token_hex(4))
        service = ApiService(kafka_bootstrap, names, tmp_path_factory.mktemp("api"), guard, **settings)
        asyncio.run(service.prepare())
        service.start()
        running.append(service)
        return service

    yield start
    for service in running:
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
