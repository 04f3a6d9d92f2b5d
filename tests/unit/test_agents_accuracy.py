"""Accuracy against uap-core's own cases and a real access log; skipped where the sibling data folder is absent."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from enricher.agents import DIMENSION_BYTES_MAX, Agent, given_agent
from enricher.enrich import enrich
from enricher.texts import bounded
from shared.events import Status
from tests.support.enriching import NOW_MS, agent_parser, raw_record, tools

DATA = Path(__file__).parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(
    not (DATA / "user_agents").is_dir(), reason="the sibling folder ../shared/data is absent"
)


@cache
def cases(name: str) -> list[dict[str, Any]]:
    """One of uap-core's case files."""
    with gzip.open(DATA / "user_agents" / f"test_{name}.yaml.gz") as file:
        loaded: list[dict[str, Any]] = yaml.load(file, Loader=yaml.CSafeLoader)["test_cases"]
    return loaded


def parse(case: dict[str, Any]) -> Agent:
    """Our answer for a case."""
    return agent_parser().parse(given_agent(case["user_agent_string"]))


def expected(name: str | None) -> str:
    """Uap-core's `Other` and nothing are '' with us; very long families are cut."""
    return "" if name is None or name == "Other" else bounded(name, DIMENSION_BYTES_MAX)


def has_major(version: str, major: str | None) -> bool:
    """Whether the version begins with uap-core's major version (which may hold dots: Windows 8.1)."""
    return version == (major or "") or version.startswith(f"{major}.")


def test_browser_family_and_major_version_agree_with_uap_core() -> None:
    """Every browser case."""
    wrong = [
        (case, agent)
        for case in cases("ua")
        if (agent := parse(case)).browser != expected(case["family"])
        or not has_major(agent.browser_version, case["major"])
    ]
    assert wrong == []
    assert len(cases("ua")) > 1_000


def test_os_family_and_major_version_agree_with_uap_core() -> None:
    """Every system case."""
    wrong = [
        (case, agent)
        for case in cases("os")
        if (agent := parse(case)).os != expected(case["family"]) or not has_major(agent.os_version, case["major"])
    ]
    assert wrong == []
    assert len(cases("os")) > 400


def test_device_and_brand_agree_with_uap_core() -> None:
    """Every device case."""
    wrong = [
        (case, agent)
        for case in cases("device")
        if ((agent := parse(case)).device, agent.device_brand) != (expected(case["family"]), expected(case["brand"]))
    ]
    assert wrong == []
    assert len(cases("device")) > 10_000


def test_no_device_of_uap_core_is_taken_for_a_bot() -> None:
    """All 16,000 devices count as people, apart from link previews and blogs that print a device's name."""
    flagged = Counter(
        agent.bot_reason for case in cases("device") if case["family"] != "Spider" and (agent := parse(case)).is_bot
    )
    assert set(flagged) == {"own:whatsapp_preview", "crawlers:WordPress/"}
    assert flagged["crawlers:WordPress/"] <= 2


def test_every_spider_of_uap_core_is_a_bot() -> None:
    """What uap-core calls a spider is flagged."""
    assert [case for case in cases("device") if case["family"] == "Spider" and not parse(case).is_bot] == []


def test_every_printed_resolution_is_plausible() -> None:
    """Screens of phones and tablets: both sides between 100 and 3,000 pixels in these cases."""
    found = Counter(agent.resolution for case in cases("device") if (agent := parse(case)).resolution)
    assert sum(found.values()) > 350
    assert all(100 <= int(side) <= 3_000 for screen in found for side in screen.split("x"))


LOG_LINE = re.compile(r'(?P<ip>\S+) .*"(?P<agent>[^"]*)"')


def test_every_line_of_a_real_access_log_is_enriched() -> None:
    """10,000 real addresses and agents give 10,000 accepted rows; a fifth are bots, nearly all have a country."""
    the_tools, seen = tools(), Counter[str]()
    with gzip.open(DATA / "access_log" / "apache_2015.log.gz", "rt", errors="replace") as lines:
        for line in lines:
            match = LOG_LINE.match(line)
            assert match is not None
            click = {"short-url": "http://x/y", "user-agent": match["agent"], "ip-address": match["ip"]}
            record = enrich(raw_record(click=orjson.dumps(click)), the_tools, NOW_MS)
            assert record.status is Status.ACCEPTED
            row = orjson.loads(record.value)
            seen.update(["lines", row["device_type"], "country" if row["country"] else "nowhere"])
    assert seen["lines"] == 10_000
    assert 1_500 < seen["bot"] < 3_000
    assert seen["country"] > 9_900
