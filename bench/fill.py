"""Fills topics fast: links by the million, raw records. Bytes are made from templates, in as few batches as possible."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator

import orjson

from shared.catalog import PARTITION, CatalogWriter, Entry, Kind
from shared.events import Source, encode_raw, raw_origin
from shared.ids import uuid7_with_partition
from shared.kafka import Producer
from shared.settings import KafkaSettings
from tests.support.catalog import digest

TENANT = "acme"
KEY = "bench-secret"
RATE_LIMIT = 16_777_215
PROMOTION = "spring"
POOL = 2_000
"""Agents and addresses that come again and again."""
AGENT = (
    "Mozilla/5.0 (Linux; Android 14; Pixel {}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/12{}.0.{}.144 "
    "Mobile Safari/537.36"
)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def link_of(number: int) -> str:
    """The key of link `number`."""
    return f"go.example/s/{number:07d}"


def agent_of(number: int) -> str:
    """A phone's user agent, another one for each number."""
    return AGENT.format(number % 9, number % 7, 1000 + number)


def address_of(number: int) -> str:
    """A public address; about ten million different ones."""
    return f"203.{number % 199}.{number // 199 % 250}.{number // 49_750 % 200}"


def link_record(number: int, at_ms: int) -> bytes:
    """A link's record in the catalog."""
    return (
        b'{"v":1,"tenant":"%b","link":"%b","promotion_id":"%b","recipient":"r%d","link_name":"offer",'
        b'"long_url":"https://shop.example/landing?utm_source=sms&id=%d","sent_at":%d,"expires_at":null,"disabled":false,'
        b'"match":"exact","registered_at":%d}'
        % (TENANT.encode(), link_of(number).encode(), PROMOTION.encode(), number, number, at_ms - 1000, at_ms)
    )


async def put_tenant(kafka: KafkaSettings) -> int:
    """A tenant, a key for clicks and reports, and a promotion; the catalog's version."""
    tenant = {"v": 1, "tenant": TENANT, "retention_days": 90, "privacy": "store", "zone": "UTC", "rate_limit": None}
    key = {
        "v": 1,
        "key_id": "bench",
        "tenant": TENANT,
        "grants": ["shortlinkclicks", "reports"],
        "secrets": [{"digest": digest(KEY), "created_at": 0, "expires_at": None}],
        "rate_limit": RATE_LIMIT,
        "revoked": False,
        "caller_user_agent": False,
    }
    promotion = {"v": 1, "tenant": TENANT, "promotion_id": PROMOTION, "campaign_id": "c1", "deployment_id": "d1"}
    producer = Producer(kafka, "bench")
    await producer.start()
    try:
        return await CatalogWriter(kafka, producer).put_many(
            [
                Entry(Kind.TENANT, TENANT, tenant),
                Entry(Kind.KEY, "bench", key),
                Entry(Kind.PROMOTION, f"{TENANT}/{PROMOTION}", promotion),
            ]
        )
    finally:
        await producer.close()


async def put_links(kafka: KafkaSettings, first: int, count: int) -> int:
    """Register links `first` to `first + count - 1`; the catalog's version."""
    at_ms = now_ms()
    pairs = ((b"link:" + link_of(n).encode(), link_record(n, at_ms)) for n in range(first, first + count))
    return await append(kafka, kafka.topic_catalog, PARTITION, pairs)


async def append(
    kafka: KafkaSettings,
    topic: str,
    partition: int,
    pairs: Iterable[tuple[bytes, bytes]],
    producer: Producer | None = None,
) -> int:
    """Append (key, value) pairs to one partition; the last offset."""
    own = producer or Producer(kafka, "bench")
    if producer is None:
        await own.start()
    try:
        at_ms, batch, last = now_ms(), own.new_batch(), -1
        for key, value in pairs:
            while batch.append(timestamp=at_ms, key=key, value=value, headers=[]) is None:
                last = await own.send_batch(topic, partition, batch) + int(batch.record_count()) - 1
                batch = own.new_batch()
        if batch.record_count():
            last = await own.send_batch(topic, partition, batch) + int(batch.record_count()) - 1
        return last
    finally:
        if producer is None:
            await own.close()


def raw_clicks(partition: int, count: int, first: int, version: int, new: int = 5) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of raw records as the API writes them, beginning with click `first`.

    Of a hundred clicks `new` come from an agent and an address that were never seen before, the others from a pool of 2,000.
    """
    at_ms = now_ms()
    links = [link_record(n, at_ms) for n in range(1000)]
    origin = raw_origin(TENANT, "bench", "node-1", Source.API)
    known = [_visitor(n) for n in range(POOL)]
    for n in range(first, first + count):
        transaction_id = uuid7_with_partition(at_ms, partition, os.urandom(8)).encode()
        visitor = _visitor(POOL + n) if n % 100 < new else known[n % POOL]
        value = encode_raw(
            transaction_id=transaction_id,
            received_at_ms=at_ms,
            origin=origin,
            suspect=False,
            clicked_at_ignored=False,
            catalog_version=version,
            link=links[n % 1000],
            click=b'{"short-url":"http://%b",%b}' % (link_of(n % 1000).encode(), visitor),
        )
        yield transaction_id, value


def _visitor(number: int) -> bytes:
    return b'"user-agent":%b,"ip-address":"%b"' % (orjson.dumps(agent_of(number)), address_of(number).encode())
