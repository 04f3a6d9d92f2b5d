"""The dashboard in a real Chromium, on a stack with a month of clicks.

With DASHBOARD_IMAGES=docs/images the pictures of the documentation are made anew.
"""

from __future__ import annotations

import asyncio
import csv
import http.client
import io
import itertools
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import openpyxl
import pytest
from playwright.sync_api import Browser, Page, expect

from clickledger import demo_data
from clickledger.load.clicks import Target
from clickledger.load.pump import Pace, Pump
from clickledger.stack.guard import Guard
from tests.support.browser import WAIT_MS, Visitor, chromium
from tests.support.full_stack import FullStack
from tests.support.pipeline import audit_is_clean, eventually, now_ms, query, succeed

pytestmark = pytest.mark.browser
expect.set_options(timeout=WAIT_MS)

CLICKS = 3_000
"""Of the demo's month; enough for every card."""
LIVE_LINK = "http://live.example/1"
LIVE_PROMOTION = "live"
QUIET = {
    "promotion_id": "quiet",
    "name": "Quiet one",
    "campaign_id": demo_data.PROMOTIONS[0].campaign_id,
    "sent": 200,
    "delivered": 190,
}
"""A promotion that nobody clicks."""
MANY_PROMOTION = "many"
MANY_LINKS = 10_050
"""More than a report has rows; each is clicked once, today, the first one on a television, the others without an agent."""
TELEVISION = (
    "Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/79.0.3945.79 Safari/537.36"
)
CONTRAST_MIN = 4.5  # WCAG 2.2, level AA


@pytest.fixture(scope="module")
def stack(guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FullStack]:
    """A stack whose tenant has promotions, links and a month of clicks."""
    # A query that a frozen ClickHouse never answers gives its turn back sooner than by default.
    env = {"CLICKLEDGER_CLICKHOUSE_QUERY_TIMEOUT_MS": "8000"}
    stack = FullStack(guard, tmp_path_factory.mktemp("dashboard"), env=env)
    api = stack.ready["api"]
    began = now_ms()
    lines = [*demo_data.promotion_lines(began), {"promotion_id": LIVE_PROMOTION, "name": "Live <b>&amp;"}]
    lines += [QUIET]
    post(api, "/v1/promotions", stack.ready["admin_key"], lines)
    links = [*demo_data.link_lines(began), {"short_url": LIVE_LINK, "promotion_id": LIVE_PROMOTION}]
    post(api, "/v1/links", stack.ready["admin_key"], links)
    clicks = itertools.islice(demo_data.history(began), 0, None, demo_data.HISTORY_CLICKS // CLICKS)
    asyncio.run(Pump(Target.of(api, stack.ready["key"]), clicks, Pace(rate=6_000, connections=2, batch=500)).run())
    audit_is_clean(stack)
    yield stack
    stack.close()


@pytest.fixture(scope="module")
def browser(stack: FullStack) -> Iterator[Browser]:
    """One browser, after the stack: its library keeps an event loop running, in which no other one can be."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, stack: FullStack) -> Iterator[Callable[..., Visitor]]:
    """A new window each time."""
    visitors: list[Visitor] = []

    def visit(**options: Any) -> Visitor:
        visitors.append(Visitor(browser, stack.ready["reports"], **options))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        visitor.close()


def post(base: str, path: str, key: str, body: Any) -> Any:
    """One JSON request."""
    where = urlsplit(base)
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=60)
    connection.request(
        "POST", path, json.dumps(body), {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    )
    response = connection.getresponse()
    assert response.status == 200, response.read()
    found = json.loads(response.read())
    connection.close()
    return found


def report(stack: FullStack, path: str, **parameters: str) -> Any:
    """What the API says."""
    where = urlsplit(stack.ready["reports"])
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=60)
    headers = {"Authorization": f"Bearer {stack.ready['reports_key']}"}
    connection.request("GET", f"{path}?{urlencode(parameters)}", headers=headers)
    found = json.loads(connection.getresponse().read())
    connection.close()
    return found


@pytest.fixture(scope="module")
def crowd(stack: FullStack) -> str:
    """The reports' key of a tenant with one promotion, of many links."""
    api, tenant = stack.ready["api"], ("--tenant", "crowd")
    succeed(stack, "tenants", "create", "crowd", "--rate-limit", str(10 * MANY_LINKS))
    grants = ("admin", "shortlinkclicks", "reports")
    admin, clicks, reports = (succeed(stack, "keys", "create", *tenant, "--grants", each).strip() for each in grants)
    post(api, "/v1/promotions", admin, [{"promotion_id": MANY_PROMOTION}])
    urls = [f"http://many.example/{number}" for number in range(MANY_LINKS)]
    for begin in range(0, MANY_LINKS, 5_000):
        lines = [{"short_url": url, "promotion_id": MANY_PROMOTION} for url in urls[begin : begin + 5_000]]
        post(api, "/v1/links", admin, lines)
    sent = [{"short-url": url} for url in urls]
    sent[0]["user-agent"] = TELEVISION
    for begin in range(0, MANY_LINKS, 1_000):
        post(api, "/v1/clicks", clicks, sent[begin : begin + 1_000])
    audit_is_clean(stack)
    return reports


def opened(visitor: Visitor, stack: FullStack, search: str = "", key: str = "") -> Page:
    """The dashboard, logged in, with its figures."""
    page = visitor.log_in(key or stack.ready["reports_key"])
    if search:
        page.goto(f"{visitor.base}/dashboard{search}")
    filled(page)
    return page


def filled(page: Page) -> None:
    """Wait until every card has its figures."""
    expect(page.locator("#updated")).to_contain_text("Updated")
    expect(page.locator("[aria-busy=true]")).to_have_count(0)


def tile(page: Page, name: str) -> str:
    """The number of a total."""
    return page.locator(f"#totals dt:text-is('{name}') + dd").inner_text()


def rows_of(page: Page, place: str) -> list[list[str]]:
    """The cells of a table's body."""
    rows: list[list[str]] = page.locator(f"{place} tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return rows


def number(text: str) -> int:
    """A number as the page shows it."""
    return int(text.replace(",", ""))


def days(first: int = 29) -> dict[str, str]:
    """The period of the page, as parameters."""
    today = datetime.now(UTC).date()
    return {"from": str(today - timedelta(days=first)), "to": str(today), "zone": "UTC"}


def test_logging_in_and_out(visit: Callable[..., Visitor], stack: FullStack) -> None:
    """A wrong key is told; a right one leads to where one wanted to go; after logging out the page is closed."""
    visitor = visit()
    page = visitor.page
    page.goto(f"{visitor.base}/dashboard?range=7")
    page.wait_for_url("**/login#*")
    page.get_by_label("Key with the grant").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("No valid key")
    page.goto(f"{visitor.base}/dashboard?range=7")
    page.wait_for_url("**/login#*")
    page.get_by_label("Key with the grant").fill(stack.ready["reports_key"])
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/dashboard?range=7")
    expect(page.locator("#tenant")).to_have_text("default")
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")
    page.goto(f"{visitor.base}/dashboard")
    page.wait_for_url("**/login#*")


def test_a_one_time_link(visit: Callable[..., Visitor], stack: FullStack) -> None:
    """It opens the dashboard once, and stays in no address."""
    link = succeed(stack, "dashboard").strip()
    first, second = visit().page, visit().page
    first.goto(link)
    first.wait_for_url("**/dashboard")
    expect(first.locator("#tenant")).to_have_text("default")
    second.goto(link)
    expect(second.get_by_role("alert")).to_contain_text("works once")
    assert "once=" not in first.url + second.url


def test_a_revoked_key_ends_its_sessions(visit: Callable[..., Visitor], stack: FullStack) -> None:
    """The open page notices by itself and asks for a key. A tenant without clicks is told so, not shown zeros as rates."""
    succeed(stack, "tenants", "create", "quiet", "--zone", "Asia/Kathmandu")
    key = succeed(stack, "keys", "create", "--tenant", "quiet", "--grants", "reports").strip()
    page = visit().log_in(key)
    filled(page)
    expect(page.locator("#zone")).to_have_value("Asia/Kathmandu")
    expect(page.locator("#ctr-card")).to_contain_text("No clicks in this period")
    assert tile(page, "Click-through rate") == "–"
    key_id = json.loads(succeed(stack, "keys", "list", "--tenant", "quiet", "--json"))["key_id"]
    succeed(stack, "keys", "revoke", key_id)
    page.wait_for_url("**/login#*")


def test_the_figures_are_those_of_the_reports_and_of_the_table(visit: Callable[..., Visitor], stack: FullStack) -> None:
    """Totals, promotions and breakdowns: page = API = a count of the rows; the strip has the audit that ran."""
    page = opened(visit(), stack)
    since = f"clicked_at >= toDateTime('{days()['from']} 00:00:00', 'UTC') AND tenant = 'default'"
    sql = f"SELECT countIf(NOT is_bot) AS people, countIf(is_bot) AS bots FROM clicks WHERE status = 'accepted' AND {since}"
    counted = query(stack, sql)[0]
    total = report(stack, "/v1/reports/ctr", by="", **days())["rows"][0]
    assert number(tile(page, "Clicks")) == total["clicks"] == int(counted["people"])
    assert number(tile(page, "Bot clicks")) == total["bot_clicks"] == int(counted["bots"])
    assert number(tile(page, "Recipients who clicked")) == total["unique_recipients"]
    promotions = report(stack, "/v1/reports/ctr", by="promotion", empty="true", **days())["rows"]
    shown = rows_of(page, "#ctr-table")
    assert [number(cells[3]) for cells in shown] == [row["clicks"] for row in promotions]
    assert [cells[7] for cells in shown] == [
        "–" if row["ctr_delivered"] is None else rate(row["ctr_delivered"]) for row in promotions
    ]
    for by in ("browser", "os", "device_type", "country"):
        rows = report(stack, "/v1/reports/breakdown", by=by, **days())["rows"]
        most = sorted((row["clicks"] for row in rows if row["clicks"]), reverse=True)[:8]
        assert [number(cells[1]) for cells in rows_of(page, f"#{by}")] == most
    bots = report(stack, "/v1/reports/breakdown", by="bot_reason", **days())["rows"]
    assert sum(row["bot_clicks"] for row in bots) == total["bot_clicks"]
    strip = page.get_by_role("region", name="current and proved")
    for name, text in (("Last audit", "clean"), ("Gaps", "none"), ("Kafka", "answers"), ("ClickHouse", "answers")):
        expect(strip.locator(f"dt:text-is('{name}') + dd")).to_contain_text(text)
    counted = [row for row in promotions if row["sent"] and row["delivered"] is not None]
    steps = [sum(row[name] for row in counted) for name in ("sent", "delivered", "unique_recipients")]
    assert [number(text) for text in page.locator("#funnel strong").all_inner_texts()] == steps
    campaigns = report(stack, "/v1/reports/ctr", by="campaign", **days())["rows"]
    assert steps[:2] == [sum(row[name] or 0 for row in campaigns) for name in ("sent", "delivered")]
    assert steps[0] == sum(each.sent for each in demo_data.PROMOTIONS) + QUIET["sent"]
    assert steps[2] > 0


def test_the_health_strip_is_the_stacks(visit: Callable[..., Visitor], stack: FullStack) -> None:
    """Freshness, lag, audit, gaps and spools of page and API are what table, audit and command line say."""
    audit_is_clean(stack)  # so that all that other tests sent is stored
    newest = "SELECT verdict, findings, toUnixTimestamp64Milli(audited_at) AS ms FROM audits ORDER BY audited_at DESC LIMIT 1"
    audit = query(stack, newest)[0]

    def audited_ms() -> int:
        return round(datetime.fromisoformat(report(stack, "/v1/health")["audit"]["at"]).timestamp() * 1000)

    eventually(lambda: audited_ms() == int(audit["ms"]), "the newest audit at the API: it looks every two seconds")
    page = opened(visit(), stack)
    found = report(stack, "/v1/health")
    sql = """
        SELECT dateDiff('millisecond', received_at, inserted_at) AS ms FROM clicks
        WHERE tenant = 'default' AND source IN ('api', 'batch') AND inserted_at >= now64(3) - INTERVAL 15 MINUTE
    """
    delays = sorted(int(row["ms"]) for row in query(stack, sql))
    p50, p99 = (delays[int(len(delays) * level)] for level in (0.5, 0.99))
    assert found["freshness"] == {"window_s": 900, "rows": len(delays), "p50_ms": p50, "p99_ms": p99}
    assert (found["audit"]["state"], found["audit"]["findings"]) == (audit["verdict"], int(audit["findings"]))
    assert found["gaps"]["accepted"] == int(query(stack, "SELECT count() AS gaps FROM gaps")[0]["gaps"]) == 0
    spools = [json.loads(line) for line in succeed(stack, "spool", "list", "--json").splitlines()]
    assert found["spool"] == {"processes": len(spools), "holding": 0, "silent": 0}
    strip = page.get_by_role("region", name="current and proved")
    shown = {"Fresh": f"p50 {duration(p50)}, p99 {duration(p99)}", "Lag": "none", "Gaps": "none", "Spool": "empty"}
    for name, text in shown.items():
        expect(strip.locator(f"dt:text-is('{name}') + dd")).to_have_text(text)
    frozen = stack.ready["pids"]["sink"]
    os.kill(frozen, signal.SIGSTOP)
    try:
        sent_ms = now_ms()
        post(stack.ready["api"], "/v1/clicks", stack.ready["key"], [{"short-url": LIVE_LINK}])
        eventually(lambda: report(stack, "/v1/health")["lag"]["behind_ms"] > 0, "a lag while the sink stands")
        least = report(stack, "/v1/health")["lag"]["behind_ms"]
        assert 0 < least <= now_ms() - sent_ms
    finally:
        os.kill(frozen, signal.SIGCONT)
    eventually(lambda: report(stack, "/v1/health")["lag"]["behind_ms"] == 0, "the end of the lag")


def duration(ms: int) -> str:
    """A time as the page shows it."""
    return f"{ms} ms" if ms < 1_000 else f"{ms / 1_000:.1f} s" if ms < 60_000 else f"{round(ms / 60_000)} min"


def rate(share: float) -> str:
    """A rate as the page shows it."""
    return f"{share * 100:.2f} %" if 0 < share < 0.01 else f"{share * 100:.1f} %"


def test_drill_down_and_the_address(visit: Callable[..., Visitor], stack: FullStack) -> None:
    """A promotion's name leads to its links; the address keeps it over a reload, and "back" leads back."""
    visitor = visit()
    page = opened(visitor, stack)
    page.get_by_role("button", name="Flash Friday").click()
    expect(page.get_by_role("heading", name="Links of Flash Friday")).to_be_visible()
    assert "promotion=flash-friday" in page.url
    links = report(stack, "/v1/reports/ctr", by="link", promotion_id="flash-friday", **days())["rows"]
    expect(page.locator("#ctr-table tbody th").first).to_have_text(links[0]["link"])
    page.locator("#range").select_option("90")
    page.locator("#zone").fill("Asia/Kathmandu")
    page.locator("#zone").press("Tab")
    expect(page.locator("#zone")).to_have_value("Asia/Kathmandu")
    page.reload()
    filled(page)
    assert "zone=Asia%2FKathmandu" in page.url
    assert "range=90" in page.url
    expect(page.get_by_role("heading", name="Links of Flash Friday")).to_be_visible()
    expect(page.locator("#promotion")).to_have_value("flash-friday")
    page.locator("#zone").fill("Mars/Olympus")
    page.locator("#zone").press("Tab")
    expect(page.locator("#zone-note")).to_contain_text("no time zone")
    page.get_by_role("link", name="All promotions").click()
    expect(page.get_by_role("heading", name="Click-through by promotion")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Links of Flash Friday")).to_be_visible()


def test_what_nobody_clicked_counts(visit: Callable[..., Visitor], stack: FullStack) -> None:
    """Messages are those of all registered promotions in every period; one without a click has its own figures."""
    visitor = visit()
    page = opened(visitor, stack)
    month = page.locator("#funnel strong").all_inner_texts()[:2]
    page.goto(f"{visitor.base}/dashboard?range=1")
    filled(page)
    assert page.locator("#funnel strong").all_inner_texts()[:2] == month
    expect(page.locator("#funnel")).to_contain_text("whatever the period")
    page.locator("#promotion").select_option("Quiet one")
    expect(page.get_by_role("heading", name="Links of Quiet one")).to_be_visible()
    filled(page)
    assert page.locator("#funnel strong").all_inner_texts() == ["200", "190", "0"]
    assert tile(page, "Click-through rate") == "0.0 %"
    expect(page.locator("#time-card")).to_contain_text("No clicks in this period")


def test_every_day_has_its_place(visit: Callable[..., Visitor], stack: FullStack, crowd: str) -> None:
    """Days without a click are zeros between the others, as in the file; a day has all of its hours."""
    page = opened(visit(), stack, f"?promotion={MANY_PROMOTION}&range=7", key=crowd)
    page.locator("#time-card summary").click()
    shown = [number(cells[1]) for cells in rows_of(page, "#time-table")]
    assert (len(shown), sum(shown)) == (7, MANY_LINKS)
    with page.expect_download() as csv_file:
        page.get_by_role("link", name="Clicks over time as CSV").click()
    found = list(csv.DictReader(io.StringIO(csv_file.value.path().read_text("utf-8-sig"))))
    assert [int(row["clicks"]) for row in found] == shown
    page.locator("#range").select_option("1")
    eventually(lambda: len(rows_of(page, "#time-table")) == 24, "the hours of a day")


def test_the_most_clicked_links_are_listed(visit: Callable[..., Visitor], stack: FullStack, crowd: str) -> None:
    """Of more than a report has rows; the page says how many there are beside them, and what the files have."""
    visitor = visit()
    page = opened(visitor, stack, f"?promotion={MANY_PROMOTION}", key=crowd)
    assert len(rows_of(page, "#ctr-table")) == 50
    expect(page.locator("#ctr-table")).to_contain_text("10,000 more are not shown. The CSV and XLSX files have")
    assert number(tile(page, "Clicks")) == MANY_LINKS
    with page.expect_download() as csv_file:
        page.get_by_role("link", name="Click-through as CSV").click()
    assert len(csv_file.value.path().read_text("utf-8-sig").splitlines()) == 1 + 10_000
    refused = page.request.get(f"{visitor.base}/v1/reports/ctr?by=link&promotion_id={MANY_PROMOTION}")
    assert (refused.status, "limit=10000" in refused.json()["description"]) == (413, True)


def test_other_kinds_of_device_are_told_from_none(visit: Callable[..., Visitor], stack: FullStack, crowd: str) -> None:
    """A television is of another kind; a click without a user agent has none."""
    page = opened(visit(), stack, f"?promotion={MANY_PROMOTION}", key=crowd)
    assert [cells[:2] for cells in rows_of(page, "#device_type")] == [["no user agent", "10,049"], ["other kinds", "1"]]


def test_days_are_those_of_the_zone(visit: Callable[..., Visitor], stack: FullStack) -> None:
    """The table of time has the days and numbers that the API gives for the zone, and hours for a short period."""
    page = opened(visit(), stack, "?range=7&zone=Asia%2FKolkata")
    page.locator("#time-card summary").click()
    rows = report(stack, "/v1/reports/ctr", by="day", empty="true", **period_in("Asia/Kolkata", page))["rows"]
    assert len(rows) == 7
    assert [number(cells[1]) for cells in rows_of(page, "#time-table")] == [row["clicks"] for row in rows]
    page.locator("#range").select_option("custom")
    yesterday = str(datetime.now(UTC).date() - timedelta(days=1))
    page.locator("#from").fill(yesterday)
    page.locator("#to").fill(yesterday)
    page.locator("#to").press("Tab")
    eventually(lambda: any(":" in cells[0] for cells in rows_of(page, "#time-table")), "hours instead of days")


def period_in(zone: str, page: Page) -> dict[str, str]:
    """The period of the page's own download link."""
    link = page.locator("[data-download=time][data-format=csv]").get_attribute("href") or ""
    found = dict(part.split("=") for part in link.partition("?")[2].split("&"))
    return {"from": found["from"], "to": found["to"], "zone": zone}


def test_clicks_arrive_live(visit: Callable[..., Visitor], stack: FullStack) -> None:
    """Each click that is sent is counted once, by people and bots apart, whatever the connection does meanwhile."""
    page = opened(visit(), stack, f"?promotion={LIVE_PROMOTION}")
    expect(page.locator("#live-state")).to_have_text("live")
    page.locator("#live-card summary").click()

    def counted() -> tuple[int, int]:
        rows = rows_of(page, "#live-table")
        return sum(number(cells[1]) for cells in rows), sum(number(cells[2]) for cells in rows)

    eventually(lambda: len(rows_of(page, "#live-table")) == 60, "the last hour as a table")
    people, bots = counted()
    phone = {"short-url": LIVE_LINK, "user-agent": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X)"}
    crawler = {"short-url": LIVE_LINK, "user-agent": "Googlebot/2.1 (+http://www.google.com/bot.html)"}
    post(stack.ready["api"], "/v1/clicks", stack.ready["key"], [phone] * 7 + [crawler] * 2)
    eventually(lambda: counted() == (people + 7, bots + 2), "nine more clicks on the page")
    os.kill(stack.ready["pids"]["reporting"], signal.SIGKILL)
    expect(page.locator("#live-state")).to_have_text("reconnecting")
    post(stack.ready["api"], "/v1/clicks", stack.ready["key"], [phone] * 5)
    eventually(lambda: counted() == (people + 12, bots + 2), "five more clicks after the service was killed")
    expect(page.locator("#live-state")).to_have_text("live")
    expect(page.locator("#notice")).to_be_hidden()


def test_downloads(visit: Callable[..., Visitor], stack: FullStack) -> None:
    """CSV and XLSX are the API's; a chart is a PNG."""
    page = opened(visit(), stack)
    rows = report(stack, "/v1/reports/ctr", by="promotion", empty="true", **days())["rows"]
    assert QUIET["promotion_id"] in [row["promotion_id"] for row in rows]
    with page.expect_download() as csv_file:
        page.get_by_role("link", name="Click-through as CSV").click()
    found = list(csv.DictReader(io.StringIO(csv_file.value.path().read_text("utf-8-sig"))))
    assert [int(row["clicks"]) for row in found] == [row["clicks"] for row in rows]
    with page.expect_download() as xlsx_file:
        page.get_by_role("link", name="Click-through as XLSX").click()
    workbook = openpyxl.load_workbook(io.BytesIO(xlsx_file.value.path().read_bytes()))
    assert any(rows[0]["promotion_id"] in line for sheet in workbook for line in sheet.iter_rows(values_only=True))
    with page.expect_download() as png_file:
        page.get_by_role("button", name="Clicks over time as PNG").click()
    assert png_file.value.path().read_bytes().startswith(b"\x89PNG")
    assert png_file.value.suggested_filename == "clickledger-time.png"


_CONTRAST = """
() => {
  const level = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map((part) => Number(part) / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const groundOf = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!hasText || !element.checkVisibility({ visibilityProperty: true })) continue;
    const [one, other] = [level(getComputedStyle(element).color), level(groundOf(element))].sort((a, b) => b - a);
    const contrast = (one + 0.05) / (other + 0.05);
    if (contrast < %f) poor.push(`${element.tagName} ${element.textContent.trim().slice(0, 30)}: ${contrast.toFixed(2)}`);
  }
  return poor;
}
"""


def test_dark_and_light(visit: Callable[..., Visitor], stack: FullStack) -> None:
    """The system's theme is followed, the switch wins and lasts; every text has its contrast in both."""
    page = opened(visit(color_scheme="dark"), stack)
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    assert page.evaluate(_CONTRAST % CONTRAST_MIN) == []
    page.get_by_role("button", name="Dark").click()
    light = page.evaluate(ground)
    assert light != dark
    assert page.evaluate(_CONTRAST % CONTRAST_MIN) == []
    page.reload()
    filled(page)
    assert page.evaluate(ground) == light


_FAULTS = """
() => {
  const faults = [];
  const nameOf = (element) => element.getAttribute("aria-label") || element.getAttribute("aria-labelledby")
    || element.labels?.[0]?.textContent || element.textContent;
  for (const element of document.querySelectorAll("a, button, select, input:not([type=hidden]), summary, [role=img], section")) {
    if (!nameOf(element)?.trim()) faults.push(`no name: ${element.outerHTML.slice(0, 80)}`);
  }
  for (const element of document.querySelectorAll("img:not([alt])")) faults.push(`no alt: ${element.outerHTML}`);
  for (const table of document.querySelectorAll("table")) {
    if (!table.caption) faults.push("a table without caption");
    if (table.querySelector("th:not([scope])")) faults.push("a heading cell without scope");
  }
  const ids = [...document.querySelectorAll("[id]")].map(({ id }) => id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push(`twice: ${id}`);
  for (const element of document.querySelectorAll("[aria-labelledby], [aria-describedby]")) {
    for (const name of ["aria-labelledby", "aria-describedby"]) {
      for (const id of (element.getAttribute(name) ?? "").split(" ").filter(Boolean)) {
        if (!document.getElementById(id)) faults.push(`${name} of nothing: ${id}`);
      }
    }
  }
  for (const place of ["header.top", "main", "footer", "h1"]) {
    if (document.querySelectorAll(place).length !== 1) faults.push(`not one ${place}`);
  }
  if (!document.documentElement.lang) faults.push("no language");
  return faults;
}
"""


def test_names_and_structure(visit: Callable[..., Visitor], stack: FullStack) -> None:
    """What a screen reader needs: landmarks, names, captions, headings in order; and no sideways scrolling on a phone."""
    visitor = visit()
    # charts are never drawn anew here: between a window's change and that the page is no wider than its window either
    visitor.page.add_init_script("globalThis.ResizeObserver = class { observe() {} };")
    visitor.page.goto(f"{visitor.base}/login")
    assert visitor.page.evaluate(_FAULTS) == ["not one header.top", "not one footer"]
    page = opened(visitor, stack)
    assert page.evaluate(_FAULTS) == []
    expect(page.get_by_role("img", name=re.compile("CTR of delivered by promotion: Spring sale"))).to_be_visible()
    page.set_viewport_size({"width": 375, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_with_the_keyboard_only(visit: Callable[..., Visitor], stack: FullStack) -> None:
    """Tab reaches everything in the order of the page, each with a visible focus; Enter drills down, and focus follows."""
    page = opened(visit(), stack)
    page.evaluate("document.activeElement.blur()")
    seen: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name, has_outline = page.evaluate(
            "[document.activeElement.id || document.activeElement.textContent.trim(),"
            " getComputedStyle(document.activeElement).outlineStyle !== 'none']"
        )
        assert has_outline, name
        seen.append(name)
        if name.startswith("Spring sale"):
            break
    wanted = ["Skip to the figures", "theme", "logout", "range", "promotion", "zone", "reload", "Spring sale, 20 % off"]
    assert [name for name in seen if name in wanted] == wanted
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Links of Spring sale")).to_be_focused()


def test_clickhouse_away(visit: Callable[..., Visitor], stack: FullStack) -> None:
    """A frozen ClickHouse is told; the figures stay; when it is back the page renews them by itself."""
    page = opened(visit(), stack)
    clicks = tile(page, "Clicks")
    frozen = stack.ready["pids"]["clickhouse"]
    os.kill(frozen, signal.SIGSTOP)
    try:
        expect(page.locator("#notice")).to_contain_text("ClickHouse does not answer")
        expect(page.locator("#health dt:text-is('Fresh') + dd")).to_have_text("not known")
        assert tile(page, "Clicks") == clicks
        fresh = visit()
        fresh.log_in(stack.ready["reports_key"])
        expect(fresh.page.locator("#country-card")).to_contain_text("Not available at the moment")
    finally:
        os.kill(frozen, signal.SIGCONT)
    expect(page.locator("#notice")).to_be_hidden()
    filled(fresh.page)
    assert tile(fresh.page, "Clicks") == tile(page, "Clicks")


def test_kafka_away(visit: Callable[..., Visitor], stack: FullStack) -> None:
    """A frozen broker is told, the figures stay; when it is back the page says so by itself and clicks are live again."""
    page = opened(visit(), stack)
    clicks = tile(page, "Clicks")
    frozen = int(stack.ready["pids"]["broker"])
    os.kill(frozen, signal.SIGSTOP)
    try:
        expect(page.locator("#notice")).to_contain_text("Kafka does not answer")
        assert tile(page, "Clicks") == clicks
    finally:
        os.kill(frozen, signal.SIGCONT)
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#live-state")).to_have_text("live")


def test_pictures(visit: Callable[..., Visitor], stack: FullStack, tmp_path: Path) -> None:
    """The page as a whole, light and dark, and the login."""
    folder = Path(os.environ.get("DASHBOARD_IMAGES") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        page = opened(visit(color_scheme=scheme), stack)
        page.locator("h1").click()
        page.screenshot(path=folder / f"dashboard-{scheme}.png", full_page=True, animations="disabled")
        assert (folder / f"dashboard-{scheme}.png").stat().st_size > 50_000
    visitor = visit()
    visitor.page.set_viewport_size({"width": 900, "height": 600})
    visitor.page.goto(f"{visitor.base}/login")
    visitor.page.screenshot(path=folder / "login.png", animations="disabled")
    assert (folder / "login.png").stat().st_size > 5_000
