"""The spool on a real broker: a 200 while Kafka is away, and exactly one copy that counts when it is back."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable

from ingest_api.spool_folder import segment_files
from shared.events import Source, decode_raw, is_suspect
from tests.support.api_service import ApiService
from tests.support.brokers import LocalBrokers

MakeApi = Callable[..., ApiService]
QUICK = {"kafka_request_timeout_ms": "1000", "api_spool_heard_ms": "500", "api_start_patience_ms": "500"}


async def started(make_api: MakeApi, **settings: str) -> ApiService:
    """A prepared and running service."""
    api = make_api(**(QUICK | settings))
    await api.prepare()
    api.start()
    return api


async def click(api: ApiService) -> str:
    """One click that must be accepted; its id."""
    reply = await asyncio.to_thread(api.click)
    assert reply.status == 200, reply
    return str(reply.json["transaction-id"])


def metric(api: ApiService, name: str) -> float:
    """The sum of a metric over its labels."""
    text = api.request("GET", "/metrics", port=api.health_port()).body.decode()
    return sum(float(found) for found in re.findall(rf"^clickledger_api_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


async def copies(api: ApiService) -> dict[str, list[bool]]:
    """For each id in the raw topic, whether each of its records is suspect; checks that a replayed one says so."""
    found: dict[str, list[bool]] = {}
    for record in await api.raw_records():
        raw = decode_raw(record.value)
        assert raw.transaction_id == (record.key or b"").decode()
        assert raw.suspect == is_suspect(record.headers) == (raw.source is Source.SPOOL)
        assert raw.received_at_ms == record.timestamp
        found.setdefault(raw.transaction_id, []).append(raw.suspect)
    return found


async def test_frozen_broker(make_api: MakeApi, brokers: LocalBrokers) -> None:
    """A broker that stands still: 200 within the acknowledgement's bound, from the spool; afterwards each is in Kafka."""
    api = await started(make_api)
    before = await click(api)
    os.kill(brokers.pid(), signal.SIGSTOP)
    try:
        spooled = [await click(api) for _ in range(20)]
        assert api.get("/readyz").status == 200
        await api.until(lambda: metric(api, "spool_clicks") == len(spooled))
        assert metric(api, "spool_bytes") > 0
    finally:
        os.kill(brokers.pid(), signal.SIGCONT)
    await api.until(lambda: metric(api, "spool_clicks") == 0)
    after = await click(api)
    found = await copies(api)
    assert set(found) == {before, *spooled, after}
    assert found[before] == found[after] == [False]
    assert all(sum(found[each]) >= 1 and found[each].count(False) <= 1 for each in spooled)
    assert metric(api, "producers_replaced_total") >= 1
    assert not segment_files(api.folder / "data" / "api" / "spool" / "0")
