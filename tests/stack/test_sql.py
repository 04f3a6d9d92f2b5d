"""The SQL interface as documented: every column, every question with a naive recount, every query of the dashboard."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from clickledger.clickhouse_server.tenant_filter import VIEWS
from clickledger.demo_data import PROMOTIONS
from clickledger.stack.guard import Guard
from shared.clickhouse import ClickHouse
from shared.settings import ClickHouseSettings
from sink.ddl import apply_ddl
from tests.support import sql_rows
from tests.support.clickhouse import LocalClickHouse
from tests.support.clickhouse_http import ClickHouseHttp
from tests.support.sql_rows import OURS, THEIRS, Row, recount

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/sql.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((ROOT / "docs/grafana/clickledger.json").read_text(encoding="utf-8"))
QUESTIONS = dict(re.findall(r"^### ([^\n]*\?)\n\n```sql\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
CLICKS = list(sql_rows.rows(OURS, 4_000, seed=3))
COUNTED = [row for row in CLICKS if row["status"] == "accepted"]
HUMAN = [row for row in COUNTED if not row["is_bot"]]
NEVER_CLICKED: list[dict[str, Any]] = [
    {"promotion_id": "quiet", "name": "Quiet", "delivered": 190, "version": 1},
    {"promotion_id": "quieter", "name": "Quieter", "delivered": None, "version": 1},
    {"promotion_id": "gone", "name": "Gone", "delivered": 7, "version": 1},
    {"promotion_id": "gone", "name": "Gone", "delivered": 7, "is_deleted": True, "version": 2},
]
DIMENSIONS = (
    *("campaign_id", "deployment_id", "link_name", "browser", "os", "device", "device_brand", "device_type"),
    *("resolution", "country", "bot_reason", "source"),
)


@pytest.fixture(scope="module")
def tenant(guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseHttp]:
    """The demo's tenant as a reader of a server that has another tenant's clicks too."""
    folder = tmp_path_factory.mktemp("sql")
    sql_rows.write_keys(folder / "catalog", {"secret": (OURS, ["reports"])})
    server = LocalClickHouse(guard, folder, folder / "catalog")
    asyncio.run(_set_up(f"{server.url}/clickledger"))
    owner = ClickHouseHttp(server.url)
    for number, name in enumerate((OURS, THEIRS)):
        sql_rows.insert_promotions(owner, name)
        sql_rows.insert(owner, "promotions", [{"tenant": name, **each} for each in NEVER_CLICKED])
        offset = number * len(CLICKS)
        sql_rows.insert(owner, "clicks", CLICKS if name == OURS else sql_rows.rows(name, 1_000, 4, offset))
    yield ClickHouseHttp(f"http://{OURS}:secret@{server.url.rpartition('@')[2]}")
    server.close()


async def _set_up(url: str) -> None:
    async with ClickHouse(ClickHouseSettings(clickhouse_url=url)) as clickhouse:
        await apply_ddl(clickhouse, "clickledger")


def ask(tenant: ClickHouseHttp, sql: str) -> list[list[Any]]:
    """The rows of a query with numbers as numbers."""
    answer = tenant.ask(
        sql,
        default_format="JSONCompactEachRow",
        output_format_json_quote_64bit_integers=0,
        date_time_output_format="iso",
    )
    assert answer.status == 200, f"{sql}\n{answer.text}"
    return [json.loads(line) for line in answer.text.splitlines()]


def by_number(counts: Counter[str]) -> list[list[Any]]:
    """Most first, then by name."""
    return [[name, number] for name, number in sorted(counts.items(), key=lambda each: (-each[1], each[0]))]


def or_others(text: str) -> str:
    """A value as reports show it."""
    return text or "Others"


def a_day() -> list[list[Any]]:
    """Clicks per day of the zone."""
    days = recount(CLICKS, sql_rows.local_day)
    return [[day, found["clicks"], found["bot_clicks"]] for day, found in sorted(days.items())]


def rates() -> list[list[Any]]:
    """Click-through by promotion, the best first, those without a denominator last."""
    found = []
    promotions = recount(CLICKS, lambda row: row["promotion_id"])
    for number, each in enumerate(PROMOTIONS):
        clicks = promotions[each.promotion_id]["clicks"]
        delivered = each.delivered if number else 0
        found.append(
            [each.promotion_id, each.name, clicks, delivered, round(100 * clicks / delivered, 3) if delivered else None]
        )
    return sorted(found, key=lambda row: (row[4] is None, -(row[4] or 0), row[0]))


def people() -> list[list[Any]]:
    """Different recipients by promotion."""
    found = recount(CLICKS, lambda row: row["promotion_id"])
    return by_number(Counter({name: each["unique_recipients"] for name, each in found.items()}))


def hours() -> list[list[Any]]:
    """Clicks by hour of the day in the zone."""
    zone = ZoneInfo(sql_rows.ZONE)
    moments = (datetime.fromisoformat(row["clicked_at"]).replace(tzinfo=UTC).astimezone(zone) for row in HUMAN)
    return [[hour, number] for hour, number in sorted(Counter(moment.hour for moment in moments).items())]


def countries() -> list[list[Any]]:
    """Clicks and share by country."""
    found = by_number(Counter(or_others(row["country"]) for row in HUMAN))
    return [[name, number, round(100 * number / len(HUMAN), 2)] for name, number in found]


def frequent() -> list[list[Any]]:
    """Recipients with five clicks or more."""
    promotions: dict[str, list[str]] = defaultdict(list)
    for row in HUMAN:
        if row["recipient"]:
            promotions[row["recipient"]].append(row["promotion_id"])
    found = [[name, len(each), len(set(each))] for name, each in promotions.items() if len(each) >= 5]
    return sorted(found, key=lambda row: (-row[1], row[0]))


def refused() -> list[list[Any]]:
    """What did not count."""
    counts = Counter((row["status"], row["reason"]) for row in CLICKS if row["status"] != "accepted")
    return [[*key, number] for key, number in sorted(counts.items())]


ANSWERS: dict[str, Callable[[], list[list[Any]]]] = {
    "How many clicks came each day?": a_day,
    "Which promotion has the best click-through rate?": rates,
    "How many different people clicked on each promotion?": people,
    "Which browsers do they use?": lambda: by_number(Counter(or_others(row["browser"]) for row in HUMAN)),
    "At what hour of their day do people click?": hours,
    "Which share of the clicks has each country?": countries,
    "Which bots come, and how often?": lambda: by_number(
        Counter(row["bot_reason"] for row in COUNTED if row["is_bot"])
    ),
    "Which links of a promotion are clicked most?": lambda: by_number(
        Counter(or_others(row["link_name"]) for row in HUMAN if row["promotion_id"] == "spring-sale")
    ),
    "Who clicked at least five times?": frequent,
    "Which promotions did nobody click on?": lambda: [["quiet", "Quiet", 190], ["quieter", "Quieter", None]],
    "What did not count, and why?": refused,
}


def test_every_question_is_answered_here() -> None:
    """The page's questions are those that are recounted."""
    assert set(QUESTIONS) == set(ANSWERS)
    assert len(ANSWERS) == 11


@pytest.mark.parametrize("question", ANSWERS)
def test_questions(tenant: ClickHouseHttp, question: str) -> None:
    """Each query of the page gives what a loop over the rows gives."""
    expected = ANSWERS[question]()
    assert expected
    assert ask(tenant, QUESTIONS[question]) == expected


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_clicks_by_dimension(tenant: ClickHouseHttp, dimension: str) -> None:
    """The five numbers of every value, promotion and day, over a change of the clock."""

    def key(row: Row) -> tuple[str, str, str]:
        return sql_rows.local_day(row), row["promotion_id"], or_others(row[dimension])

    expected = [[*found, *numbers.values()] for found, numbers in sorted(recount(CLICKS, key).items())]
    sql = (
        "SELECT day, promotion_id, value, clicks, clicks_all, bot_clicks, duplicate_clicks, unique_recipients"
        f" FROM clicks_by_dimension WHERE dimension = '{dimension}' ORDER BY day, promotion_id, value"
    )
    assert ask(tenant, sql) == expected
    assert ask(tenant, "SELECT DISTINCT dimension FROM clicks_by_dimension ORDER BY 1") == [
        [n] for n in sorted(DIMENSIONS)
    ]


def test_ctr_daily(tenant: ClickHouseHttp) -> None:
    """The five numbers of every promotion and day."""
    found = recount(CLICKS, lambda row: (sql_rows.local_day(row), row["promotion_id"]))
    expected = [[*key, *numbers.values()] for key, numbers in sorted(found.items())]
    sql = (
        "SELECT day, promotion_id, clicks, clicks_all, bot_clicks, duplicate_clicks, unique_recipients"
        " FROM ctr_daily ORDER BY day, promotion_id"
    )
    assert ask(tenant, sql) == expected


def test_rejected_and_freshness(tenant: ClickHouseHttp) -> None:
    """What must not count with its bytes; how old rows were when they were written."""
    records = sorted([row["transaction_id"], row["raw"]] for row in CLICKS if row["raw"])
    assert ask(tenant, "SELECT transaction_id, raw FROM rejected ORDER BY toString(transaction_id)") == records
    sources = Counter(row["source"] for row in CLICKS)
    assert ask(tenant, "SELECT source, rows FROM freshness ORDER BY source") == [
        list(each) for each in sorted(sources.items())
    ]
    (((delays_are_in_order,)),) = ask(
        tenant,
        "SELECT min(0 < delay_ms_p50 AND delay_ms_p50 <= delay_ms_p99 AND delay_ms_p99 <= delay_ms_max) FROM freshness",
    )
    assert delays_are_in_order


@pytest.mark.parametrize("view", VIEWS)
def test_columns_are_documented(tenant: ClickHouseHttp, view: str) -> None:
    """Every column stands in the page with the type and the comment that the database gives, in its order."""
    described = tenant.ask(f"DESCRIBE {view} FORMAT JSONEachRow").text.splitlines()
    columns = [(each["name"], each["type"], each["comment"]) for each in map(json.loads, described)]
    assert all(comment for _, _, comment in columns)
    (table,) = re.findall(rf"^### `{view}`\n.*?\n\|---\|---\|---\|\n(.*?)\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^\| `(.*?)` \| `(.*?)` \| (.*?) \|$", table, re.MULTILINE) == columns


@pytest.mark.parametrize("view", VIEWS)
def test_views_under_every_setting_that_a_reader_may_send(tenant: ClickHouseHttp, view: str) -> None:
    """`join_use_nulls`, which Tableau and others send, changes no view."""
    sql = f"SELECT * FROM {view} ORDER BY ALL"
    assert tenant.rows(sql, join_use_nulls=1) == tenant.rows(sql)


def grafana_queries() -> dict[str, str]:
    """Every query of the dashboard, its macros and variables filled in as the plug-in does."""
    found = {each["title"]: each["targets"][0]["rawSql"] for each in DASHBOARD["panels"]}
    found |= {each["name"]: each["query"] for each in DASHBOARD["templating"]["list"]}
    promotions = ",".join(f"'{each.promotion_id}'" for each in PROMOTIONS)
    return {
        title: _macros(sql)
        .replace("${tenant:singlequote}", f"'{OURS}'")
        .replace("${promotion:singlequote}", promotions)
        for title, sql in found.items()
    }


def _macros(sql: str) -> str:
    sql = re.sub(r"\$__timeInterval\((\w+)\)", r"toStartOfInterval(toDateTime(\1), INTERVAL 3600 second)", sql)
    sql = re.sub(r"\$__timeFilter\((\w+)\)", r"\1 >= toDateTime(1780000000) AND \1 <= toDateTime(1800000000)", sql)
    return re.sub(r"\$__dateFilter\((\w+)\)", r"\1 >= toDate('2026-01-01') AND \1 <= toDate('2027-01-01')", sql)


@pytest.mark.parametrize("title", grafana_queries())
def test_queries_of_the_grafana_dashboard(tenant: ClickHouseHttp, title: str) -> None:
    """Each runs as a tenant and finds something; nothing of Grafana's own language is left in it."""
    sql = grafana_queries()[title]
    assert "$" not in sql
    assert ask(tenant, sql)


def test_the_dashboard_counts_what_the_rows_say(tenant: ClickHouseHttp) -> None:
    """Its clicks over time add up to all clicks."""
    series = ask(tenant, grafana_queries()["Clicks"])
    assert [sum(column) for column in list(zip(*series, strict=True))[1:]] == [len(HUMAN), len(COUNTED) - len(HUMAN)]
