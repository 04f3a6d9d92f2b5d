"""A month of clicks on the demo's promotions for two tenants, in every status, and the naive recounts of them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson

from clickledger.clickhouse_server.tenant_filter import TABLES
from clickledger.demo_data import PROMOTIONS
from shared.catalog.store import Store, db_key, heard_file
from shared.keys import digest_of
from tests.support.clickhouse_http import ClickHouseHttp

Row = dict[str, Any]
OURS, THEIRS = "demo", "o'their\\s"
"""The tenant whose clicks are recounted, in a zone with a change of the clock in the month; one whose name needs care."""
ZONE = "Europe/Berlin"
FIRST_DAY = datetime(2026, 10, 5, tzinfo=UTC)  # clocks go back on the 25th
DAYS = 30
MARK = "of-them-alone"
"""Stands in every text of the other tenant's rows and in nothing of ours."""

_STATUSES = ("accepted",) * 17 + ("duplicate", "rejected", "malformed")
_REASONS = {"accepted": "", "duplicate": "replayed", "rejected": "link_expired", "malformed": "not_json"}


def rows(tenant: str, count: int, seed: int, first_offset: int = 0) -> Iterator[Row]:
    """Rows of one tenant; dimensions are missing in some."""
    rng = random.Random(seed)
    mark = "" if tenant == OURS else MARK
    for offset in range(first_offset, first_offset + count):
        status = rng.choice(_STATUSES)
        promotion = rng.choice(PROMOTIONS)
        clicked = FIRST_DAY + timedelta(milliseconds=rng.randrange(DAYS * 86_400_000))
        is_bot = rng.random() < 0.2
        link = rng.randrange(40)
        yield {
            "v": 1,
            "stream": f"s{mark}",
            "raw_partition": 0,
            "raw_offset": offset,
            "transaction_id": str(UUID(int=rng.getrandbits(128))),
            "status": status,
            "reason": _REASONS[status],
            "received_at": _text(clicked + timedelta(seconds=rng.randrange(90_000))),
            "clicked_at": _text(clicked),
            "enriched_at": _text(clicked),
            "expires_at": "2099-01-01 00:00:00.000",
            "tenant": tenant,
            "key_id": f"{mark}key",
            "source": rng.choice(("api", "api", "batch", "spool")),
            "node": "n",
            "short_url": f"http://short.example/{mark}{link}",
            "link": f"short.example/{mark}{link}",
            "promotion_id": mark + promotion.promotion_id,
            "campaign_id": mark + rng.choice((promotion.campaign_id, "")),
            "deployment_id": mark + ("d1", "d2", "")[offset % 3],
            "link_name": mark + rng.choice(("offer", "more", "")),
            "recipient": mark + rng.choice(("", *(f"9198{number:04}" for number in range(60)))),
            "user_agent": mark,
            "browser": mark + rng.choice(("Chrome Mobile", "Mobile Safari", "")),
            "os": mark + rng.choice(("Android", "iOS", "")),
            "device": mark + ("iPhone", "Pixel 9", "")[offset % 3],
            "device_brand": mark + ("Apple", "Google", "")[offset % 3],
            "resolution": mark + ("1170x2532", "")[offset % 2],
            "device_type": rng.choice(("phone", "tablet", "pc", "")),
            "country": rng.choice(("DE", "IN", "US", "")),
            "is_bot": is_bot,
            "bot_reason": mark + ("link_preview" if is_bot else ""),
            "raw": "" if status in ("accepted", "duplicate") else f"{mark}{{not json",
            "block_at": _text(clicked),
        }


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.000")


def insert(owner: ClickHouseHttp, table: str, rows_: Iterable[Mapping[str, Any]]) -> None:
    """Write rows; fails the test when ClickHouse does not take them."""
    body = b"\n".join(map(orjson.dumps, rows_))
    done = owner.ask(body, query=f"INSERT INTO {table} FORMAT JSONEachRow", max_partitions_per_insert_block=1000)
    assert done.status == 200, done.text


def insert_promotions(owner: ClickHouseHttp, tenant: str, version: int = 1) -> None:
    """The tenant, and the demo's promotions as its own; one has no denominators."""
    mark = "" if tenant == OURS else MARK
    zone = {"tenant": tenant, "zone": ZONE, "retention_days": 90, "privacy": "store", "version": version}
    insert(owner, "tenants", [zone])
    insert(
        owner,
        "promotions",
        (
            {
                "tenant": tenant,
                "promotion_id": mark + each.promotion_id,
                "name": mark + each.name,
                "campaign_id": mark + each.campaign_id,
                "sent": each.sent if number else None,
                "delivered": each.delivered if number else 0,
                "version": version,
            }
            for number, each in enumerate(PROMOTIONS)
        ),
    )


def write_keys(folder: Path, secrets: Mapping[str, tuple[str, list[str]]]) -> None:
    """A copy of the catalog as the follower leaves it, with one key for each `secret: (tenant, grants)`."""
    store = Store.at(folder, 1 << 24)
    with store.env.begin(write=True) as txn:
        for number, (secret, (tenant, grants)) in enumerate(secrets.items()):
            digest = digest_of(secret.encode())
            record = {"key_id": f"k{number}", "tenant": tenant, "grants": grants, "secrets": [{"digest": digest}]}
            txn.put(db_key(f"key:k{number}".encode()), orjson.dumps(record), db=store.records)
            txn.put(digest.encode(), f"k{number}".encode(), db=store.digests)
        txn.put(b"complete", b"1", db=store.meta)
    heard_file(folder).touch()


# --- naive recounts


def local_day(row: Row) -> str:
    """The day of the click in the tenant's zone."""
    moment = datetime.fromisoformat(row["clicked_at"]).replace(tzinfo=UTC)
    return moment.astimezone(ZoneInfo(ZONE)).date().isoformat()


def recount(of: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, dict[str, int]]:
    """The five numbers by key, one row at a time; keys without a click that counts or a duplicate are left out."""
    numbers: dict[Any, dict[str, int]] = defaultdict(
        lambda: dict.fromkeys(("clicks", "clicks_all", "bot_clicks", "duplicate_clicks"), 0)
    )
    people: dict[Any, set[str]] = defaultdict(set)
    for row in of:
        found = key(row)
        if row["status"] == "duplicate":
            numbers[found]["duplicate_clicks"] += 1
        if row["status"] != "accepted":
            continue
        numbers[found]["clicks_all"] += 1
        if row["is_bot"]:
            numbers[found]["bot_clicks"] += 1
        else:
            numbers[found]["clicks"] += 1
            people[found].add(f"r{row['recipient']}" if row["recipient"] else f"l{row['link']}")
    return {found: {**each, "unique_recipients": len(people[found])} for found, each in numbers.items()}


def empty_tables(owner: ClickHouseHttp) -> None:
    """Take all rows out of what tenants may read."""
    for table in TABLES:
        owner.rows(f"TRUNCATE TABLE {table}")
