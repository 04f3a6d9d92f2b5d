"""Enricher events per second and core: warm caches, cold agents, and what a tutorial does (`user_agents.parse`).

Run: .venv/bin/python -m bench.enricher [--seconds 2]. Kafka apart: decode, enrich, encode in one plain loop. Figures
depend on the machine; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable, Iterator

import orjson
import user_agents

from clickledger.output import print_table
from enricher.addresses import AddressBook
from enricher.agents import load_agent_parser
from enricher.directory import Directory
from enricher.enrich import enrich
from enricher.places import COUNTRY_FILE, PlaceFiles
from enricher.row import RawRecord, Tools
from shared.events import Source, encode_raw, raw_origin
from shared.ids import uuid7_with_partition

CHUNK = 500
AGENT = (
    "Mozilla/5.0 (Linux; Android 14; Pixel {}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/12{}.0.{}.144 "
    "Mobile Safari/537.36"
)


class OneCampaign:
    """A catalog with one tenant and one promotion."""

    version = 0

    def tenant(self, _tenant: str) -> dict[str, object]:
        """The tenant."""
        return {"retention_days": 90, "privacy": "store"}

    def promotion(self, _tenant: str, _promotion: str) -> dict[str, object]:
        """The promotion."""
        return {"campaign_id": "c1", "deployment_id": "d1"}


def agents(different: int) -> list[str]:
    """So many different agents of phones."""
    return [AGENT.format(n % 9, n % 7, 1000 + n) for n in range(different)]


def raw_records(agent: str, address: str, now_ms: int, offset: int) -> RawRecord:
    """A raw record as the API writes it."""
    link = {
        "v": 1,
        "tenant": "acme",
        "link": "shortdomain/dsltrack/employee/j460A8",
        "promotion_id": "spring",
        "recipient": "+15550001",
        "link_name": "offer",
        "long_url": "https://example.com/landing?utm_source=sms",
        "sent_at": now_ms - 1000,
    }
    click = {"short-url": "http://shortdomain/dsltrack/employee/j460A8", "user-agent": agent, "ip-address": address}
    transaction_id = uuid7_with_partition(now_ms, 1, os.urandom(8)).encode()
    value = encode_raw(
        transaction_id=transaction_id,
        received_at_ms=now_ms,
        origin=raw_origin("acme", "k1", "node-1", Source.API),
        suspect=False,
        clicked_at_ignored=False,
        catalog_version=0,
        link=orjson.dumps(link),
        click=orjson.dumps(click),
    )
    return RawRecord("bench", 1, offset, transaction_id, value, now_ms)


def clicks(different_agents: int, now_ms: int) -> Iterator[RawRecord]:
    """Clicks without end, from so many agents."""
    known = agents(different_agents)
    for n in itertools.count():
        address = f"203.{n % 199}.{n % different_agents % 250}.211"
        yield raw_records(known[n % different_agents], address, now_ms, n)


def tools() -> Tools:
    """What the steps of the enricher use, with cold caches."""
    return Tools(load_agent_parser(), AddressBook(PlaceFiles([COUNTRY_FILE])), Directory(OneCampaign()))


def per_second(step: Callable[[RawRecord], object], records: Iterator[RawRecord], seconds: float) -> float:
    """Steps per second of processor time; making the records is not counted."""
    spent, done = 0.0, 0
    while spent < seconds:
        chunk = list(itertools.islice(records, CHUNK))
        if not chunk:
            break
        began = time.process_time()
        for record in chunk:
            step(record)
        spent += time.process_time() - began
        done += len(chunk)
    return done / spent


def tutorial(record: RawRecord) -> bytes:
    """What a tutorial writes: `user_agents.parse` and a few fields, no checks, no bots' list, no country.

    ua-parser from 1.0.1 on remembers 2,000 parsed agents by itself, so few agents cost it little.
    """
    raw = orjson.loads(record.value or b"")
    agent = user_agents.parse(raw["click"]["user-agent"])
    row = {**raw["link"], "browser": agent.browser.family, "os": agent.os.family, "device": agent.device.family}
    return orjson.dumps({**row, "is_bot": agent.is_bot, "ip": raw["click"]["ip-address"]})


def main() -> None:
    """Print the figures."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--seconds", type=float, default=2.0, help="processor seconds per figure")
    seconds: float = arguments.parse_args().seconds
    now_ms = time.time_ns() // 1_000_000
    warm, cold = tools(), tools()
    for record in itertools.islice(clicks(200, now_ms), 40_000):
        enrich(record, warm, now_ms)
    figures = {
        "warm caches (200 agents)": per_second(lambda r: enrich(r, warm, now_ms), clicks(200, now_ms), seconds),
        "cold: every agent new": per_second(lambda r: enrich(r, cold, now_ms), clicks(200_000, now_ms), seconds),
        "tutorial, 200 agents": per_second(tutorial, clicks(200, now_ms), seconds),
        "tutorial, every agent new": per_second(tutorial, clicks(200_000, now_ms), seconds),
    }
    baseline = figures["tutorial, every agent new"]
    print_table(
        ("enricher", "events/s", "us/event", "ratio"),
        [(name, round(figure), f"{1e6 / figure:.1f}", f"{figure / baseline:.1f}") for name, figure in figures.items()],
    )


if __name__ == "__main__":
    main()
