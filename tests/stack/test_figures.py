"""Every number of the reports equals a recount of the rows, on a real table with its projection."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from reporting.dimensions import KNOWN, TIMES, By
from reporting.figures import NUMBERS, ROWS_MAX, Question, count_groups, knows_promotion, query_of, read, says_nothing
from reporting.periods import Period, period_of
from shared.clickhouse import ClickHouse
from shared.settings import ClickHouseSettings
from sink.ddl import apply_ddl, migrations
from tests.support.recount import Promotion, recount

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe")
MOMENTS = (
    datetime(2026, 3, 29, 1, tzinfo=UTC),  # Berlin goes from 2:00 to 3:00
    datetime(2026, 10, 25, 1, tzinfo=UTC),  # and from 3:00 back to 2:00
    datetime(2026, 11, 1, 6, tzinfo=UTC),  # New York, back
    datetime(2026, 4, 4, 15, tzinfo=UTC),  # Lord Howe, half an hour back
    datetime(2026, 12, 31, 18, 15, tzinfo=UTC),  # a new year in Kathmandu, in the week 53 of the old one
)
PROMOTIONS: Mapping[str, Promotion] = {
    "p1": Promotion("One", "c1", "d1", 100, 80),
    "p2": Promotion("Two", "c1", "", 7, None),
    "p3": Promotion("Three", "c2", "d1", 0, 0),
    "p4": Promotion("Never clicked", "c2", "d2", None, 5),
    "p5": Promotion("Never clicked either", "c1", "", 200, 190),
    "p6": Promotion("Deleted", "c1", "d3", 50, 40, is_deleted=True),
}
FIRST_WITH_QUARTERS = 7
EXAMPLE: Mapping[str, Any] = {
    "clicked_at": int(MOMENTS[0].timestamp() * 1000),
    "status": "accepted",
    "is_bot": False,
    "promotion_id": "p1",
    "link": "go.example/a",
}
tenants = (f"tenant-{number}" for number in itertools.count())


def choice(*values: str) -> st.SearchStrategy[str]:
    """One of the values, or a missing one."""
    return st.sampled_from((*values, ""))


CLICKS = st.fixed_dictionaries(
    {
        "clicked_at": st.builds(
            lambda moment, minutes, ms: int(moment.timestamp() * 1000) + minutes * 60_000 + ms,
            st.sampled_from(MOMENTS),
            st.integers(-150, 150),
            st.sampled_from((0, 1, 59_999)),
        ),
        "status": st.sampled_from(("accepted", "accepted", "accepted", "duplicate", "rejected", "malformed")),
        "is_bot": st.sampled_from((False, False, True)),
        "promotion_id": st.sampled_from(("p1", "p2", "p3", "p6", "gone")),
        "campaign_id": choice("c1", "c2"),
        "deployment_id": choice("d1"),
        "link": choice("go.example/a", "go.example/b"),
        "recipient": choice("r1", "r2", "go.example/a"),
        "browser": choice("Chrome", "Others"),
        "os": choice("iOS"),
        "device": choice("iPhone"),
        "device_brand": choice("Apple"),
        "device_type": choice("phone"),
        "resolution": choice("1170x2532"),
        "country": choice("IN", "NP"),
        "bot_reason": choice("rule"),
        "source": st.sampled_from(("api", "batch")),
    }
)
ASKED = st.fixed_dictionaries(
    {
        "zone": st.sampled_from(ZONES),
        "by": st.lists(st.sampled_from(By), max_size=3, unique=True),
        "times": st.lists(st.sampled_from((*TIMES, By.PROMOTION, By.CAMPAIGN)), min_size=1, max_size=3, unique=True),
        "filter": st.sampled_from(
            (
                *(("", ""),) * 6,
                *(("promotion_id", "p1"), ("promotion_id", "Others"), ("campaign_id", "c1")),
                *(("browser", "Others"), ("country", "IN"), ("link", "go.example/a"), ("campaign_id", "c2")),
            )
        ),
        "moment": st.sampled_from(MOMENTS),
        "minutes": st.integers(1, 200),
        "unique": st.booleans(),
        "known": st.sampled_from(KNOWN),
        "limit": st.integers(1, 6),
    }
)


def in_order(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows as they can be compared."""
    return sorted(orjson.dumps(row, option=orjson.OPT_SORT_KEYS).decode() for row in rows)


def periods(zone: str, moment: datetime, minutes: int) -> Iterator[Period]:
    """A year, the day around a moment, and some minutes that are no quarters of an hour."""
    name = ZoneInfo(zone)
    yield period_of("2026-01-01", "2027-01-01", name, moment)  # all that is ever clicked, in every zone
    day = moment.astimezone(name).date().isoformat()
    yield period_of(day, day, name, moment)
    yield period_of(
        (moment - timedelta(minutes=minutes)).isoformat(),
        (moment + timedelta(minutes=minutes)).isoformat(),
        name,
        moment,
    )


async def daily(clickhouse: ClickHouse, tenant: str) -> list[dict[str, Any]]:
    """The view `ctr_daily`, without the names beside the promotion."""
    columns = ("day", "promotion_id", "promotion", *NUMBERS)
    sql = f"SELECT toString(day), {', '.join(columns[1:])} FROM ctr_daily WHERE tenant = {{tenant:String}}"  # our names
    return [dict(zip(columns, row, strict=True)) for row in await clickhouse.query(sql, {"tenant": tenant})]


async def store(
    clickhouse: ClickHouse, tenant: str, clicks: Sequence[dict[str, Any]], zone: str
) -> list[dict[str, Any]]:
    """Insert them in two blocks, with promotions, for the sum over parts."""
    rows = [
        click | {"tenant": tenant, "link_name": click["link"] and "Button", "expires_at": 4_000_000_000_000}
        for click in clicks
    ]
    options = {"input_format_read_datetime_number_as_raw_value": 1}
    for part in (rows[::2], rows[1::2]):
        if part:
            await clickhouse.insert_bytes("clicks", b"\n".join(map(orjson.dumps, part)), options)
    promotions = [
        {"tenant": tenant, "promotion_id": promotion_id, "version": version}
        | (promotion._asdict() if version else {"sent": 1})
        for promotion_id, promotion in PROMOTIONS.items()
        for version in (0, 1)
    ]
    await clickhouse.insert_bytes("promotions", b"\n".join(map(orjson.dumps, promotions)), {})
    await clickhouse.insert_bytes("tenants", orjson.dumps({"tenant": tenant, "zone": zone}), {})
    return rows


def test_figures_equal_a_recount(database_url: str) -> None:
    """Any clicks, zone, dimensions, filter and period: zones with DST and quarters, duplicates, bots, missing values."""
    clickhouse = ClickHouse(ClickHouseSettings(clickhouse_url=SecretStr(database_url)))

    async def check(clicks: list[dict[str, Any]], asked: Mapping[str, Any]) -> None:
        tenant = next(tenants)
        rows = await store(clickhouse, tenant, clicks, asked["zone"])
        column, value = asked["filter"]
        filters = {column: value} if column else {}
        for period in periods(asked["zone"], asked["moment"], asked["minutes"]):
            for by, has_empty in ((asked["by"], False), (asked["times"], False), ([asked["known"]], True)):
                question = Question(tenant, period, tuple(by), filters, asked["unique"], has_empty)
                every = recount(rows, PROMOTIONS, question)
                assert in_order(await read(clickhouse, question)) == in_order(every), question
                cut = question._replace(limit=asked["limit"])
                assert in_order(await read(clickhouse, cut)) == in_order(recount(rows, PROMOTIONS, cut)), cut
                assert await count_groups(clickhouse, cut) == len(every), cut
        year = next(periods(asked["zone"], asked["moment"], 1))
        question = Question(tenant, year, (By.DAY, By.PROMOTION), {})
        assert in_order(await daily(clickhouse, tenant)) == in_order(recount(rows, PROMOTIONS, question))
        if rows:  # raises where no projection answers it
            await clickhouse.query(*query_of(question._replace(is_unique=False)), {"force_optimize_projection": 1})

    @settings(
        deadline=None, max_examples=25, database=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck)
    )
    @given(st.lists(CLICKS, max_size=60), ASKED)
    def run(clicks: list[dict[str, Any]], asked: Mapping[str, Any]) -> None:
        loop.run(check(clicks, asked))

    with asyncio.Runner() as loop:
        loop.run(apply_ddl(clickhouse, clickhouse.database))
        try:
            run()
        finally:
            loop.run(clickhouse.close())


async def test_the_most_clicked_of_more_links_than_an_answer_holds(database_url: str) -> None:
    """With a limit they are found among all; without one there are more rows than an answer may have."""
    clicks = [{**EXAMPLE, "link": f"go.example/{n}", "recipient": f"r{n}"} for n in range(ROWS_MAX + 50)]
    clicks += [{**EXAMPLE, "link": f"go.example/hot{n % 3}", "recipient": f"r{n % 7}"} for n in range(60)]
    async with ClickHouse(ClickHouseSettings(clickhouse_url=SecretStr(database_url))) as clickhouse:
        await apply_ddl(clickhouse, clickhouse.database)
        rows = await store(clickhouse, "acme", clicks, "UTC")
        year = period_of("2026-01-01", "2026-12-31", ZoneInfo("UTC"), MOMENTS[0])
        for by in ((By.LINK,), (By.LINK, By.HOUR), (By.LINK, By.PROMOTION, By.LINK_NAME)):
            question = Question("acme", year, by, {"promotion_id": "p1"})
            assert len(await read(clickhouse, question)) == ROWS_MAX + 1
            cut = question._replace(limit=50)
            found = await read(clickhouse, cut)
            assert in_order(found) == in_order(recount(rows, PROMOTIONS, cut))
            assert [row["unique_recipients"] for row in found[:4]] == [7, 7, 7, 1]
            assert await count_groups(clickhouse, cut) == ROWS_MAX + 53


async def test_an_old_table_gets_the_projection(database_url: str) -> None:
    """Rows that were stored before it are counted at once, and are in it a little later; a second set-up changes nothing."""
    async with ClickHouse(ClickHouseSettings(clickhouse_url=SecretStr(database_url))) as clickhouse:
        for migration in migrations()[: FIRST_WITH_QUARTERS - 1]:
            for statement in migration.statements:
                await clickhouse.command(statement)
        clicks = [{**EXAMPLE, "recipient": f"r{number % 3}"} for number in range(10)]
        rows = await store(clickhouse, "acme", clicks, "UTC")
        for _ in range(2):
            await apply_ddl(clickhouse, clickhouse.database)
        year = period_of("2026-01-01", "2026-12-31", ZoneInfo("UTC"), MOMENTS[0])
        question = Question("acme", year, (By.PROMOTION,), {}, is_unique=False)
        assert in_order(await read(clickhouse, question)) == in_order(recount(rows, PROMOTIONS, question))
        sql = """
            SELECT groupUniqArray(name) FROM system.projection_parts
            WHERE active AND database = currentDatabase() AND table = 'clicks'
        """

        async def is_there() -> bool:
            ((names,),) = await clickhouse.query(sql)
            return set(names) == {"positions", "quarters"}

        async with asyncio.timeout(60):
            while not await is_there():
                await asyncio.sleep(0.1)
        await clickhouse.query(*query_of(question), {"force_optimize_projection": 1})
        assert in_order(await read(clickhouse, question)) == in_order(recount(rows, PROMOTIONS, question))


async def test_a_day_at_rest_becomes_one_part(database_url: str) -> None:
    """After six hours without a block; here after a second."""
    parts = """
        SELECT partition, count() FROM system.parts
        WHERE active AND database = currentDatabase() AND table = 'clicks'
        GROUP BY partition ORDER BY partition
    """
    async with ClickHouse(ClickHouseSettings(clickhouse_url=SecretStr(database_url))) as clickhouse:
        await apply_ddl(clickhouse, clickhouse.database)
        ((made,),) = await clickhouse.query("SHOW CREATE TABLE clicks")
        assert "min_age_to_force_merge_seconds = 21600, min_age_to_force_merge_on_partition_only = 1" in made
        for _ in range(3):
            await store(clickhouse, "acme", [dict(EXAMPLE)], "UTC")
        ((_, count),) = await clickhouse.query(parts)
        assert count > 1
        await clickhouse.command("ALTER TABLE clicks MODIFY SETTING min_age_to_force_merge_seconds = 1")
        async with asyncio.timeout(60):
            while [count for _, count in await clickhouse.query(parts)] != [1]:
                await asyncio.sleep(0.1)
        assert await clickhouse.query("SELECT count() FROM clicks") == [(3,)]


async def test_a_promotion_is_known_by_its_registration_or_a_click(database_url: str) -> None:
    """Of the tenant itself; rows that count nothing are what makes one ask."""
    async with ClickHouse(ClickHouseSettings(clickhouse_url=SecretStr(database_url))) as clickhouse:
        await apply_ddl(clickhouse, clickhouse.database)
        await store(clickhouse, "acme", [{**EXAMPLE, "promotion_id": "clicked"}], "UTC")
        known = [promotion for promotion in PROMOTIONS if promotion] + ["clicked"]
        for tenant, promotion, is_known in (
            *(("acme", promotion, True) for promotion in known),
            ("acme", "nope", False),
            ("other", "clicked", False),
        ):
            assert await knows_promotion(clickhouse, tenant, promotion) == is_known, promotion
    nothing = {"clicks_all": 0, "duplicate_clicks": 0}
    assert says_nothing([])
    assert says_nothing([nothing, nothing])
    assert not says_nothing([nothing, {**nothing, "duplicate_clicks": 1}])
