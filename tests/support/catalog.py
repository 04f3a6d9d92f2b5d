"""A catalog in memory with the methods of `shared.catalog.Catalog`, and a tenant with keys and links to test against."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from shared.catalog import Match
from shared.stored_links import StoredLink, record_of, store_link

NOW_MS = 1_760_000_000_000
"""2025-10-09T08:53:20Z: the `now` of pure tests."""
DAY_MS = 86_400_000

SECRET = "click-secret-0123456789"
EXAMPLE_URL = "http://shortdomain/dsltrack/employee/j460A8"
EXAMPLE_BODY = b"""{
  "short-url":"http://shortdomain/dsltrack/employee/j460A8",
  "user-agent":" Mozilla/5.0 (Windows NT 6.1; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/64.0.3282.186 Safari/537.36",
  "ip-address":"203.199.178.211"
}
"""


class MemoryCatalog:
    """The catalog's look-ups over dictionaries; `version` rises with every change, as the topic's offsets do."""

    def __init__(self) -> None:
        self.version = -1
        self.is_ready = True
        self.is_current = True
        self.age_ms = 0
        self._records: dict[str, bytes] = {}
        self._links: dict[str, StoredLink] = {}

    def put(self, kind: str, record_id: str, value: dict[str, Any] | None) -> None:
        """Write or delete one record."""
        self.version += 1
        if value is None:
            self._records.pop(f"{kind}:{record_id}", None)
            if kind == "link":
                self._links.pop(record_id, None)
            return
        raw = self._records[f"{kind}:{record_id}"] = orjson.dumps(value)
        if kind == "link":
            self._links[record_id] = store_link(raw, value)

    def refresh(self) -> bool:
        """Nothing to renew: changes are seen at once."""
        return False

    def link(self, key: str) -> bytes | None:
        """The link registered under exactly this key."""
        return self._records.get(f"link:{key}")

    def links_behind(self, name: bytes, links_max: int) -> list[tuple[bytes, StoredLink]]:
        """The links that follow a name, in the order of their keys."""
        names = sorted(key for each in self._links if (key := each.encode()) > name)
        return [(each, self._links[each.decode()]) for each in names[:links_max]]

    def exact_links(self, keys: Sequence[str]) -> list[StoredLink] | None:
        """The links registered under exactly these keys, None when any is missing."""
        links = [self._links[key] for key in keys if key in self._links]
        return links if len(links) == len(keys) else None

    def resolve(self, key: str) -> Match | None:
        """Exact link, else the longest registered prefix of whole segments."""
        link = self._links.get(key)
        if link is not None:
            return Match("exact", link)
        while "/" in key:
            key = key.rpartition("/")[0]
            link = self._links.get(key)
            if link is not None and orjson.loads(record_of(link))["match"] == "prefix":
                return Match("prefix", link)
        return None

    def _record(self, name: str) -> dict[str, Any] | None:
        value = self._records.get(name)
        return None if value is None else orjson.loads(value)

    def tenant(self, tenant: str) -> dict[str, Any] | None:
        """A tenant's record."""
        return self._record(f"tenant:{tenant}")

    def key_by_digest(self, digest: str) -> dict[str, Any] | None:
        """The key with this secret."""
        for name in self._records:
            record = self._record(name) if name.startswith("key:") else None
            if record and any(secret["digest"] == digest for secret in record["secrets"]):
                return record
        return None

    def promotion(self, tenant: str, promotion_id: str) -> dict[str, Any] | None:
        """A promotion's record."""
        return self._record(f"promotion:{tenant}/{promotion_id}")

    def scan(self, kind: str) -> Iterator[tuple[str, bytes]]:
        """Every record of a kind."""
        for name, value in self._records.items():
            if name.startswith(f"{kind}:"):
                yield name.partition(":")[2], value

    def stream(self, topic: str) -> dict[str, Any] | None:
        """The stream record of a topic."""
        return self._record(f"stream:{topic}")


def digest(secret: str) -> str:
    """What the catalog keeps of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def key_record(secret: str = SECRET, /, **changes: Any) -> dict[str, Any]:
    """A key of tenant `acme` that may report clicks."""
    record = {
        "v": 1,
        "key_id": "k1",
        "tenant": "acme",
        "grants": ["shortlinkclicks"],
        "secrets": [{"digest": digest(secret), "created_at": NOW_MS - DAY_MS, "expires_at": None}],
        "rate_limit": None,
        "revoked": False,
        "caller_user_agent": False,
    }
    return record | changes


def link_record(key: str, **changes: Any) -> dict[str, Any]:
    """A link of tenant `acme`, sent yesterday."""
    record = {
        "v": 1,
        "tenant": "acme",
        "link": key,
        "promotion_id": "p1",
        "recipient": "r1",
        "link_name": "button",
        "long_url": "https://example.com/offer",
        "sent_at": NOW_MS - DAY_MS,
        "expires_at": None,
        "disabled": False,
        "match": "exact",
        "registered_at": NOW_MS - DAY_MS,
    }
    return record | changes


def example_catalog() -> MemoryCatalog:
    """Tenant `acme` with one key and the published example's link, and a stream of six partitions."""
    catalog = MemoryCatalog()
    catalog.put(
        "tenant",
        "acme",
        {"v": 1, "tenant": "acme", "retention_days": 90, "privacy": "store", "zone": "UTC", "rate_limit": 10_000},
    )
    catalog.put("key", "k1", key_record())
    catalog.put("link", "shortdomain/dsltrack/employee/j460A8", link_record("shortdomain/dsltrack/employee/j460A8"))
    catalog.put(
        "stream",
        "clicks.raw",
        {
            "v": 1,
            "stream": "s",
            "topic": "clicks.raw",
            "partitions": 6,
            "partitions_at_creation": 6,
            "start_offsets": [0] * 6,
            "created_at": 0,
        },
    )
    return catalog
