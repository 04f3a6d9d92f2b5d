"""Raw records and the enricher's tools for tests: a catalog in a dictionary, the real rules and the real databases."""

from __future__ import annotations

from functools import cache
from typing import Any

import orjson

from enricher.addresses import AddressBook
from enricher.agents import AgentParser, load_agent_parser
from enricher.directory import Directory
from enricher.places import COUNTRY_FILE, PlaceFiles
from enricher.row import RawRecord, Tools
from shared.events import Source, encode_raw, raw_origin

NOW_MS = 1_795_359_600_000
STREAM = "5f3c9a1e"
ID = "019f3c9a-1e00-7001-8000-0000000000aa"
LINK: dict[str, Any] = {
    "v": 1,
    "tenant": "acme",
    "link": "shortdomain/dsltrack/employee/j460A8",
    "promotion_id": "spring",
    "recipient": "+15550001",
    "link_name": "offer",
    "long_url": "https://example.com/landing?x=1",
    "sent_at": None,
    "expires_at": None,
    "disabled": False,
    "match": "exact",
    "registered_at": 1_795_000_000_000,
}
CLICK = (
    b'{\n  "short-url":"http://shortdomain/dsltrack/employee/j460A8",\n  "user-agent":" Mozilla/5.0 (Windows NT 6.1; '
    b'Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/64.0.3282.186 Safari/537.36",\n'
    b'  "ip-address":"203.199.178.211"\n}'
)


class CatalogInMemory:
    """What the enricher asks the catalog, from dictionaries."""

    def __init__(self, version: int = 10) -> None:
        self.version = version
        self.tenants: dict[str, dict[str, Any]] = {
            "acme": {"retention_days": 90, "privacy": "store"},
            "careful": {"retention_days": 30, "privacy": "truncate"},
            "secret": {"retention_days": 1, "privacy": "drop"},
        }
        self.promotions: dict[tuple[str, str], dict[str, Any]] = {
            ("acme", "spring"): {"campaign_id": "c1", "deployment_id": "d1", "sent_at": 1_795_000_500_000}
        }

    def tenant(self, tenant: str) -> dict[str, Any] | None:
        """A tenant's record."""
        return self.tenants.get(tenant)

    def promotion(self, tenant: str, promotion_id: str) -> dict[str, Any] | None:
        """A promotion's record."""
        return self.promotions.get((tenant, promotion_id))


@cache
def agent_parser() -> AgentParser:
    """The real rules, loaded once per test run."""
    return load_agent_parser()


@cache
def address_book() -> AddressBook:
    """The real country file, opened once per test run."""
    return AddressBook(PlaceFiles([COUNTRY_FILE]))


def tools(catalog: CatalogInMemory | None = None) -> Tools:
    """Tools with the real rules and a catalog of a few records."""
    return Tools(agent_parser(), address_book(), Directory(catalog or CatalogInMemory()))


def raw_value(
    *,
    click: bytes = CLICK,
    link: dict[str, Any] | None = None,
    tenant: str = "acme",
    source: Source = Source.API,
    suspect: bool = False,
    clicked_at_ignored: bool = False,
    received_at_ms: int = NOW_MS - 50,
    catalog_version: int = 5,
    transaction_id: str = ID,
    replay_of: bytes = b"null",
    caller_user_agent: bytes = b"",
) -> bytes:
    """The value of a raw record."""
    return encode_raw(
        transaction_id=transaction_id.encode(),
        received_at_ms=received_at_ms,
        origin=raw_origin(tenant, "k1", "node-1", source),
        suspect=suspect,
        clicked_at_ignored=clicked_at_ignored,
        catalog_version=catalog_version,
        link=orjson.dumps({**LINK, "tenant": tenant} if link is None else link),
        click=click,
        replay_of=replay_of,
        caller_user_agent=caller_user_agent,
    )


def raw_record(
    value: bytes | None = None, *, key: bytes | None = ID.encode(), offset: int = 7, **fields: Any
) -> RawRecord:
    """A record of clicks.raw; `fields` as for `raw_value`."""
    return RawRecord(STREAM, 1, offset, key, raw_value(**fields) if value is None else value, NOW_MS - 50)
