"""Webhooks are bounded, where the settings say so; and so are tests of them: one at a time of each, so many of all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr

from reporting.webhooks.model import FilterBody, Webhook, WebhookBody, encode_webhook
from reporting.webhooks.places import Mark
from reporting.webhooks.registry import TESTS_MAX, Conflicting, Registry, Unavailable
from shared.secret_box import SecretBox
from shared.settings import KafkaSettings, SecretSettings, WebhookSettings

MANY = 150


class Copy:
    """A catalog with every webhook that is asked for."""

    def record(self, _: Any, record_id: str) -> dict[str, Any]:
        """One."""
        tenant, _, webhook_id = record_id.partition("/")
        webhook = Webhook(tenant, webhook_id, "", True, FilterBody(), None, "", "s", {0: Mark(0)}, 0, 0, 0, 0)  # noqa: FBT003
        return encode_webhook(webhook)


class Waiting(Registry):
    """Tests of it wait for an outcome until they are told to end."""

    may_end: asyncio.Event

    async def _test(self, webhook: Webhook) -> dict[str, Any]:
        await self.may_end.wait()
        return {"id": webhook.key}


class Crowded(Copy):
    """One in which the tenant has many."""

    is_current = True

    def refresh(self) -> bool:
        """Nothing changes."""
        return False

    def scan(self, _kind: Any, below: str) -> list[tuple[str, bytes]]:
        """All of them."""
        return [(f"{below}wh_{number}", b"") for number in range(MANY)]

    def stream(self, _: str) -> dict[str, Any]:
        """The one there is."""
        return {"stream": "s"}


class Ends:
    """Where a new webhook begins."""

    async def latest(self) -> dict[int, Mark]:
        """An empty topic."""
        return {0: Mark(0)}


class Unwritten(Registry):
    """Without Kafka."""

    async def _put(self, webhook: Webhook) -> None:
        pass

    def _view(self, webhook: Webhook) -> dict[str, Any]:
        return {"id": webhook.webhook_id}


@pytest.mark.parametrize(("limit", "is_refused"), [(MANY, True), (MANY + 1, False), (0, False)])
async def test_webhooks_of_a_tenant_are_bounded(limit: int, *, is_refused: bool) -> None:
    """As many as the setting says; any number with 0."""
    catalog: Any = Crowded()
    box = SecretBox(SecretSettings(secret_key=SecretStr("x" * 32)), "test")
    settings = WebhookSettings(webhooks_per_tenant_max=limit)
    registry = Unwritten(KafkaSettings(), settings, box, catalog, catalog)
    registry._offsets = Ends()  # type: ignore[assignment]
    body = WebhookBody(url="https://hooks.example/")
    if is_refused:
        with pytest.raises(Conflicting, match=f"{MANY} webhooks"):
            await registry.create("a", body)
    else:
        assert (await registry.create("a", body)).secret


async def test_tests_are_bounded() -> None:
    """Each that ends makes room."""
    catalog: Any = Copy()
    box = SecretBox(SecretSettings(secret_key=SecretStr("x" * 32)), "test")
    registry = Waiting(KafkaSettings(), WebhookSettings(), box, catalog, catalog)
    registry.may_end = asyncio.Event()
    half = TESTS_MAX // 2
    running = [asyncio.create_task(registry.test("a", f"wh_{number}")) for number in range(half)]
    await asyncio.sleep(0)
    with pytest.raises(Conflicting):
        await registry.test("a", "wh_0")
    with pytest.raises(Unavailable):
        await registry.test("a", "wh_more")
    running += [asyncio.create_task(registry.test("b", f"wh_{number}")) for number in range(half)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await registry.test("c", "wh_0")
    running.pop().cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.append(asyncio.create_task(registry.test("c", "wh_0")))
    registry.may_end.set()
    assert {"id": "c/wh_0"} in await asyncio.gather(*running)
    assert await registry.test("a", "wh_0") == {"id": "a/wh_0"}
