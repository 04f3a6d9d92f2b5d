"""Webhooks as their owners make, change and read them: the shell between HTTP and the two compacted topics.

A change is read, made and written under a lock of this process, from a copy of the catalog that is level with its topic;
of two changes at once at two processes the later record stands, whole. What the deliverer notes is never written here,
but for replays and tests, which begin here.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol

import orjson

from reporting.metrics import refused_total
from reporting.webhooks.addresses import BadUrl, Reach
from reporting.webhooks.log import newest_first
from reporting.webhooks.model import (
    SECRET_BYTES,
    Confidential,
    Secret,
    Webhook,
    WebhookBody,
    WebhookChange,
    decode_webhook,
    encode_webhook,
    header_faults,
    make_secret,
    seal,
    stop_of,
    webhook_key,
)
from reporting.webhooks.offsets import Offsets
from reporting.webhooks.places import Progress, Window, decode_progress, encode_progress
from reporting.webhooks.writing import Writing
from shared.catalog import Catalog, Entry, Kind
from shared.errors import TransientError
from shared.rte import rfc3339
from shared.secret_box import NotOurs, SecretBox
from shared.settings import KafkaSettings, WebhookSettings

SEEN_S_MAX: Final = 5.0
"""Seconds that a write waits to be read back; after that it is written but may not be visible here yet."""
TEST_S_MAX: Final = 20.0
"""Seconds that a test waits for its outcome: an attempt's time-out and some for the way."""
LOOK_S: Final = 0.1
TESTS_MAX: Final = 20
"""Tests of all webhooks that wait for their outcome at once; half of them of one tenant."""
HOUR_MS: Final = 3_600_000


class Faulty(ValueError):
    """A request that cannot be met as it is; the message says why."""


class Conflicting(ValueError):
    """A request that cannot be met now; the message says why."""


class Unavailable(ValueError):
    """A request that this process cannot meet until its operator mends it, or has room; the message says what."""


class WebhookCatalog(Protocol):
    """The part of `shared.catalog.Catalog` that is needed here."""

    is_current: bool
    version: int

    def record(self, kind: Kind, record_id: str) -> dict[str, Any] | None:
        """One record."""

    def scan(self, kind: Kind, below: str = "") -> Any:
        """Records whose ids begin with `below`."""

    def stream(self, topic: str) -> dict[str, Any] | None:
        """The stream of a raw topic."""

    async def wait_for(self, version: int, timeout_s: float) -> None:
        """Wait until the copy holds a version. Raises TransientError."""

    def refresh(self) -> bool:
        """Renew the snapshot."""


class Made(NamedTuple):
    """A webhook and the signing secret that is shown once."""

    view: dict[str, Any]
    secret: str


class Registry:
    """Webhooks of the caller's tenant. Everything raises TransientError and OperatorError as Kafka does."""

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: WebhookSettings,
        box: SecretBox,
        catalog: WebhookCatalog,
        places: Catalog | WebhookCatalog,
    ) -> None:
        self._kafka, self._settings, self._box = kafka, settings, box
        self._catalog, self._places = catalog, places
        self._reach = Reach.of(settings)
        self._writing, self._offsets = Writing(kafka, "clickledger-webhooks"), Offsets(kafka)
        self._one = asyncio.Lock()
        self._tested: set[str] = set()

    async def close(self) -> None:
        """Disconnect."""
        await self._writing.close()
        await self._offsets.close()

    # Reading

    def all(self, tenant: str) -> list[dict[str, Any]]:
        """Every webhook of the tenant, oldest first."""
        self._places.refresh()
        found = (decode_webhook(orjson.loads(value)) for _, value in self._catalog.scan(Kind.WEBHOOK, f"{tenant}/"))
        return [self._view(webhook) for webhook in sorted(found, key=lambda each: each.created_at_ms)]

    def one(self, tenant: str, webhook_id: str) -> dict[str, Any] | None:
        """One of them."""
        self._places.refresh()
        webhook = self._find(tenant, webhook_id)
        return None if webhook is None else self._view(webhook)

    def deliveries(self, tenant: str, webhook_id: str, limit: int) -> list[dict[str, Any]] | None:
        """Its newest attempts; None when there is no such webhook."""
        self._places.refresh()
        webhook = self._find(tenant, webhook_id)
        return None if webhook is None else [_delivery(entry) for entry in self._attempts(webhook)[:limit]]

    # Changing

    async def create(self, tenant: str, body: WebhookBody) -> Made:
        """A new one, which begins with the next event. Raises Faulty, Conflicting, Unavailable."""
        secret = make_secret(secrets.token_bytes(SECRET_BYTES))
        url = self._checked(body.url, body.headers)
        if not self._box.is_lasting:
            raise Unavailable("Webhooks need CLICKLEDGER_SECRET_KEY, which is not set")
        async with self._one:
            self._require_current()
            count = sum(1 for _ in self._catalog.scan(Kind.WEBHOOK, f"{tenant}/"))
            if 0 < self._settings.webhooks_per_tenant_max <= count:
                raise Conflicting(f"The tenant has {count} webhooks, and at most so many are allowed")
            now_ms, webhook_id = _clock_ms(), f"wh_{secrets.token_hex(12)}"
            key = webhook_key(tenant, webhook_id)
            webhook = Webhook(
                tenant=tenant,
                webhook_id=webhook_id,
                description=body.description,
                is_enabled=body.enabled,
                filter=body.filter,
                batch=body.batch,
                sealed=seal(self._box, key, Confidential(url, body.headers, (Secret(secret),))),
                stream=self._stream(),
                start=await self._offsets.latest(),
                reset=0,
                enablings=0,
                created_at_ms=now_ms,
                updated_at_ms=now_ms,
            )
            await self._put(webhook)
        return Made(self._view(webhook), secret)

    async def change(self, tenant: str, webhook_id: str, body: WebhookChange) -> dict[str, Any] | None:
        """The webhook as it is then; None when there is none. Raises Faulty, Unavailable."""
        async with self._one:
            webhook = self._current(tenant, webhook_id)
            if webhook is None:
                return None
            sealed = self._open(webhook)
            url = sealed.url if body.url is None else body.url
            headers = sealed.headers if body.headers is None else body.headers
            if (body.url, body.headers) != (None, None):
                url = self._checked(url, headers)
                sealed = replace(sealed, url=url, headers=headers)
                webhook = replace(webhook, sealed=seal(self._box, webhook.key, sealed))
            webhook = replace(
                webhook,
                description=webhook.description if body.description is None else body.description,
                filter=body.filter or webhook.filter,
                batch=body.batch if "batch" in body.model_fields_set else webhook.batch,
                is_enabled=webhook.is_enabled if body.enabled is None else body.enabled,
                enablings=webhook.enablings + bool(body.enabled),
                updated_at_ms=_clock_ms(),
            )
            if body.position is not None:
                start, reset = await self._offsets.latest(), webhook.reset + 1
                webhook = replace(webhook, stream=self._stream(), start=start, reset=reset)
            await self._put(webhook)
        return self._view(webhook)

    async def rotate(self, tenant: str, webhook_id: str) -> Made | None:
        """A new signing secret; the former one signs beside it for a day. Raises Unavailable."""
        secret = make_secret(secrets.token_bytes(SECRET_BYTES))
        async with self._one:
            webhook = self._current(tenant, webhook_id)
            if webhook is None:
                return None
            now_ms = _clock_ms()
            sealed = seal(self._box, webhook.key, self._open(webhook).rotated(secret, now_ms))
            webhook = replace(webhook, sealed=sealed, updated_at_ms=now_ms)
            await self._put(webhook)
        return Made(self._view(webhook), secret)

    async def delete(self, tenant: str, webhook_id: str) -> bool:
        """Whether there was one. What is noted of it the deliverer deletes."""
        async with self._one:
            webhook = self._current(tenant, webhook_id)
            if webhook is not None:
                await self._write(self._catalog, self._kafka.topic_catalog, Entry(Kind.WEBHOOK, webhook.key, None))
        return webhook is not None

    # Asking the deliverer

    async def test(self, tenant: str, webhook_id: str) -> dict[str, Any] | None:
        """Have a test event sent: its attempt; without an `outcome` when there is none in time. None: no such webhook.

        Raises Conflicting, Unavailable.
        """
        webhook = self._find(tenant, webhook_id)
        if webhook is None:
            return None
        if webhook.key in self._tested:
            raise self._refused("webhook_test_running", Conflicting("A test of this webhook is under way"))
        of_tenant = sum(key.startswith(f"{tenant}/") for key in self._tested)
        if len(self._tested) >= TESTS_MAX or of_tenant >= TESTS_MAX // 2:
            raise self._refused("webhook_tests_full", Unavailable("Too many webhooks are being tested. Try again."))
        self._tested.add(webhook.key)
        try:
            return await self._test(webhook)
        finally:
            self._tested.discard(webhook.key)

    async def _test(self, webhook: Webhook) -> dict[str, Any]:
        test_id = f"test_{secrets.token_hex(12)}"
        asked = {"v": 1, "id": test_id, "at": _clock_ms()}
        await self._write(self._places, self._kafka.topic_webhooks, Entry(Kind.TEST, webhook.key, asked))
        deadline, looked_at = time.monotonic() + TEST_S_MAX, -1
        while time.monotonic() < deadline:
            await asyncio.sleep(LOOK_S)
            self._places.refresh()
            if self._places.version == looked_at:
                continue
            looked_at = self._places.version
            for entry in self._attempts(webhook):
                if entry["id"] == test_id:
                    return _delivery(entry)
        return {"id": test_id}

    async def replay(self, tenant: str, webhook_id: str, from_ms: int, to_ms: int) -> dict[str, Any] | None:
        """Have the events of a range sent again, beside the live ones. Raises Faulty, Conflicting."""
        now_ms = _clock_ms()
        kept_ms = self._kafka.retention_hours * HOUR_MS
        if not now_ms - kept_ms <= from_ms < to_ms <= now_ms:
            hours = self._kafka.retention_hours
            raise Faulty(
                f"from and to: a range of the last {hours} hours, as long as Kafka keeps events, from before to"
            )
        async with self._one:
            webhook = self._current(tenant, webhook_id)
            if webhook is None:
                return None
            self._places.refresh()
            if self._places.record(Kind.REPLAY, webhook.key) is not None:
                raise Conflicting("A replay of this webhook is under way")
            marks, ends = await self._offsets.since(from_ms)
            window = Window(f"replay_{secrets.token_hex(12)}", from_ms, to_ms, ends)
            record = encode_progress(Progress(self._stream(), marks, window=window))
            await self._write(self._places, self._kafka.topic_webhooks, Entry(Kind.REPLAY, webhook.key, record))
        return _replay(window)

    # Inside

    def _refused(self, reason: str, refusal: Conflicting | Unavailable) -> Conflicting | Unavailable:
        refused_total.labels(reason).inc()
        return refusal

    def _find(self, tenant: str, webhook_id: str) -> Webhook | None:
        record = self._catalog.record(Kind.WEBHOOK, webhook_key(tenant, webhook_id))
        return None if record is None else decode_webhook(record)

    def _current(self, tenant: str, webhook_id: str) -> Webhook | None:
        self._require_current()
        return self._find(tenant, webhook_id)

    def _require_current(self) -> None:
        self._catalog.refresh()
        if not self._catalog.is_current:
            raise TransientError("the catalog's copy is behind its topic: nothing is changed now")

    def _stream(self) -> str:
        record = self._catalog.stream(self._kafka.topic_raw)
        if record is None:
            raise TransientError("the catalog has no stream yet: run `clickledger setup`")
        return str(record["stream"])

    def _checked(self, url: str, headers: Mapping[str, str]) -> str:
        """The URL as it is kept. Raises Faulty."""
        if faults := list(header_faults(headers)):
            raise Faulty("; ".join(faults))
        try:
            return self._reach.target(url).url
        except BadUrl as exc:
            raise Faulty(str(exc)) from exc

    def _open(self, webhook: Webhook) -> Confidential:
        try:
            return webhook.opened(self._box)
        except NotOurs as exc:
            raise Unavailable("This webhook was sealed with another CLICKLEDGER_SECRET_KEY") from exc

    async def _put(self, webhook: Webhook) -> None:
        entry = Entry(Kind.WEBHOOK, webhook.key, encode_webhook(webhook))
        await self._write(self._catalog, self._kafka.topic_catalog, entry)

    async def _write(self, copy: WebhookCatalog, topic: str, entry: Entry) -> None:
        version = await self._writing.put(topic, [entry])
        with contextlib.suppress(TransientError):  # written all the same
            await copy.wait_for(version, SEEN_S_MAX)

    def _attempts(self, webhook: Webhook) -> list[dict[str, Any]]:
        return newest_first(self._places.scan(Kind.DELIVERY, f"{webhook.key}/"))

    def _view(self, webhook: Webhook) -> dict[str, Any]:
        """What its owner is shown: header fields by name only, no secret."""
        try:
            sealed = webhook.opened(self._box)
        except NotOurs:  # it can still be seen, and deleted
            sealed = Confidential("", {}, ())
        stop = stop_of(webhook, self._places.record(Kind.STOP, webhook.key))
        record = self._places.record(Kind.PROGRESS, webhook.key)
        progress = record and decode_progress(record)
        replay = self._places.record(Kind.REPLAY, webhook.key)
        window = replay and decode_progress(replay).window
        pending = progress and progress.pending
        return {
            "id": webhook.webhook_id,
            "url": sealed.url or None,
            "description": webhook.description,
            "enabled": stop is None,
            "disabled": stop and {"reason": stop.reason, "at": rfc3339(stop.at_ms)},
            "filter": webhook.filter.model_dump(),
            "batch": webhook.batch and webhook.batch.model_dump(),
            "headers": sorted(sealed.headers),
            "created_at": rfc3339(webhook.created_at_ms),
            "updated_at": rfc3339(webhook.updated_at_ms),
            "failures": progress.failures if progress else 0,
            "skipped_events": progress.skipped if progress else 0,
            "lost_offsets": progress.lost if progress else 0,
            "next_attempt_at": rfc3339(pending.next_at_ms) if pending and pending.next_at_ms else None,
            "replay": window and _replay(window),
        }


def _delivery(entry: Mapping[str, Any]) -> dict[str, Any]:
    next_at_ms = entry["next_attempt_at"]
    return {
        **{name: entry[name] for name in ("id", "kind", "events", "attempt")},
        "at": rfc3339(entry["at"]),
        **{name: entry[name] for name in ("duration_ms", "outcome", "status", "skipped", "disabled")},
        "next_attempt_at": None if next_at_ms is None else rfc3339(next_at_ms),
    }


def _replay(window: Window) -> dict[str, Any]:
    times = {"from": rfc3339(window.from_ms), "to": rfc3339(window.to_ms)}
    return {"id": window.replay_id, **times, "delivered_events": window.delivered}


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000
