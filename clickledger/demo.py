"""The demo of `clickledger up --demo`: a month of clicks, live traffic, the report, the audit, three things to try."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.markup import escape

from clickledger import demo_data, output, registration
from clickledger.audit_print import exit_code, print_report
from clickledger.audit_record import record_audit
from clickledger.audit_run import run_audit
from clickledger.lines import BadLine, Record
from clickledger.load.clicks import SINGLE_PATH, Click, Target
from clickledger.load.generate import Generator
from clickledger.load.pump import Pace, Pump, Tally
from clickledger.load.report import new_run_id, now_ms
from clickledger.located import Located, of_stack
from clickledger.login_link import make_login_link
from clickledger.reports import print_figures, tenant_zone
from clickledger.stack.ready import Ready
from reporting.dimensions import By
from reporting.figures import Question, read
from reporting.periods import period_of
from shared.clickhouse import ClickHouse
from shared.errors import OperatorError

LIVE_CLICKS: Final = 500
LIVE_RATE: Final = 100.0
TRICKLE_RATE: Final = 2.0
_HISTORY_PACE: Final = Pace(rate=6_000, connections=4, batch=500, retries=5, duration_s=120)
"""Below the key's limit of 10,000 clicks a second."""
_STORED_SECONDS_MAX: Final = 60.0
_ALREADY_LOADED: Final = demo_data.HISTORY_CLICKS // 2
_OWN_ADDRESS: Final = "203.199.178.211"
"""Of the one click that the reader sends: by it the click is found among the trickle."""


async def run_demo(ready: Ready, *, exit_after: bool) -> int:
    """Run the demo on a running stack; with `exit_after` end after the audit, else send a trickle until cancelled.

    Returns the audit's exit status. Raises what the API, Kafka or ClickHouse refuse (shared.errors).
    """
    out, found = output.console(), of_stack(ready)
    started = time.monotonic()
    await _load(ready, out)
    await _history(ready, found, out)
    await _live(ready, out)
    report = await run_audit(found, wait=True, timeout_s=_STORED_SECONDS_MAX)
    await record_audit(found, report)
    await _print_ctr(ready, found, out)
    out.print("\n[bold]Audit[/bold]: every record in Kafka is exactly one row")
    print_report(report)
    out.print(f"\nAll this took {time.monotonic() - started:.0f} s.")
    if exit_after:
        return exit_code(report)
    _print_suggestions(ready, await asyncio.to_thread(make_login_link, ready), out)
    await _trickle(ready)
    return exit_code(report)


async def _load(ready: Ready, out: Console) -> None:
    """Register promotions and links; the same ones each time, so a second demo changes nothing."""
    at_ms = now_ms()
    target = Target.of(ready.api, ready.admin_key)
    promotions = await asyncio.to_thread(_register, target, "/v1/promotions", demo_data.promotion_lines(at_ms))
    links = await asyncio.to_thread(_register, target, "/v1/links", demo_data.link_lines(at_ms))
    out.print(f"\n[bold]Loaded[/bold] {promotions} promotions and {links:,} short links of tenant {ready.tenant}")


def _register(target: Target, path: str, lines: Iterable[dict[str, Any]]) -> int:
    def refuse(bad: BadLine) -> None:
        raise OperatorError(f"the demo's line {bad.number} was refused: {bad.reason}")

    records = (Record(number, fields) for number, fields in enumerate(lines, 1))
    return registration.load(target, path, records, refuse, lambda _: None).accepted


async def _history(ready: Ready, found: Located, out: Console) -> None:
    """Send a month of clicks through the API, unless an earlier demo did."""
    async with ClickHouse(found.clickhouse) as clickhouse:
        sql = "SELECT count() FROM clicks WHERE tenant = {tenant:String} AND source = 'batch'"
        ((stored,),) = await clickhouse.query(sql, {"tenant": ready.tenant})
    if stored >= _ALREADY_LOADED:
        out.print(f"[bold]History[/bold] is there from an earlier demo: {stored:,} clicks")
        return
    tally = await _send(ready, demo_data.history(now_ms()), _HISTORY_PACE, "sending 30 days of clicks")
    out.print(f"[bold]Sent[/bold] {demo_data.HISTORY_DAYS} days of clicks through the API in batches: {_told(tally)}")


async def _live(ready: Ready, out: Console) -> None:
    pace = Pace(rate=LIVE_RATE, connections=16, retries=3, duration_s=60)
    tally = await _send(ready, _live_clicks(LIVE_CLICKS), pace, "sending live clicks")
    latency = ", ".join(f"p{q} {tally.latency.percentile_us(q) / 1000:.1f} ms" for q in (50, 99))
    out.print(f"[bold]Sent[/bold] live clicks one by one at {LIVE_RATE:g}/s: {_told(tally)}; {latency}")


def _told(tally: Tally) -> str:
    others = ", ".join(f"{count:,} x {code}" for code, count in sorted(tally.by_code.items()) if code != "200")
    rate = tally.clicks / tally.elapsed_s if tally.elapsed_s else 0.0
    return (
        f"{tally.accepted:,} answered 200 in {tally.elapsed_s:.1f} s ({rate:,.0f}/s){'; ' + others if others else ''}"
    )


async def _send(ready: Ready, clicks: Iterator[Click], pace: Pace, what: str) -> Tally:
    pump = Pump(Target.of(ready.api, ready.key), clicks, pace)
    with output.progress() as bar:
        task = bar.add_task(what, total=None)
        running = asyncio.create_task(pump.run())
        try:
            while not running.done():
                bar.update(task, completed=pump.tally.clicks)
                await asyncio.wait([running], timeout=0.2)
        finally:
            running.cancel()
    return running.result()


def _live_clicks(count: int | None) -> Iterator[Click]:
    generator = Generator(demo_data.live_links(), seed=time.time_ns(), run=new_run_id())
    sent = 0
    while count is None or sent < count:
        yield generator.next(now_ms())
        sent += 1


async def _print_ctr(ready: Ready, found: Located, out: Console) -> None:
    async with ClickHouse(found.clickhouse) as clickhouse:
        zone = await tenant_zone(clickhouse, ready.tenant)
        period = period_of("", "", zone, datetime.now(UTC))
        question = Question(ready.tenant, period, (By.PROMOTION,), {})
        rows = await read(clickhouse, question)
    about = f"{period.first} to {period.last} ({zone.key}); bots are counted apart"
    out.print(f"\n[bold]Click-through[/bold], {about}")
    print_figures(question, rows)
    out.print("Countries by IP Geolocation by DB-IP, https://db-ip.com", style="dim")


def _print_suggestions(ready: Ready, login: str, out: Console) -> None:
    body = f'{{"short-url":"{ready.short_url}","user-agent":"Mozilla/5.0 (iPhone)","ip-address":"{_OWN_ADDRESS}"}}'
    curl = (
        f"curl -w '\\n' {ready.api}{SINGLE_PATH} \\\n    -H 'authorization: Bearer {ready.key}' \\\n"
        f"    -H 'content-type: application/json' \\\n    -d '{body}'"
    )
    query = f"SELECT transaction_id, clicked_at, ip, country FROM rte WHERE ip = '{_OWN_ADDRESS}'"  # noqa: S608
    data = f" --data {ready.data}"
    out.print("\n[bold]The dashboard[/bold]; this link logs you in, once, within ten minutes:\n")
    out.print(f"  {escape(login)}\n", soft_wrap=True)
    out.print("[bold]Three things to try[/bold], in another terminal:\n")
    out.print(f"  1. Send one more click:\n  {escape(curl)}\n", soft_wrap=True)
    out.print(f'  2. Find it:\n  .venv/bin/clickledger sql{data} "{escape(query)}"\n', soft_wrap=True)
    out.print(f"  3. Watch clicks arrive:\n  .venv/bin/clickledger tail{data}\n", soft_wrap=True)
    out.print(f"A trickle of {TRICKLE_RATE:g} clicks a second goes on. Ctrl-C stops everything.")


async def _trickle(ready: Ready) -> None:
    """Send a little for ever; an API that is restarted meanwhile is waited for."""
    pace = Pace(rate=TRICKLE_RATE, connections=2, duration_s=10**9)
    await Pump(Target.of(ready.api, ready.key), _live_clicks(None), pace).run()
