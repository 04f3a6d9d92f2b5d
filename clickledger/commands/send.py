"""`clickledger send`: generated or replayed clicks over HTTP, and the proof that each 200 is one row."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clickledger.exit_codes import ExitCode
from clickledger.located import DataOption, Located, api_access, locate

if TYPE_CHECKING:
    from clickledger.load.report import Run

EPILOG = """Exit status: 0 sent (and, with --verify, proved); 1 a mismatch, or no click was accepted; 2 usage; 3 unreachable.
"""


class ClickedAt(StrEnum):
    """What to do with the times of a file."""

    NONE = "none"
    KEEP = "keep"
    SHIFT = "shift"


_File = Annotated[
    Path | None,
    typer.Option("--from", metavar="FILE", help="Replay an access log, NDJSON or CSV of clicks, gzipped or not."),
]
_ShortUrls = Annotated[
    list[str] | None, typer.Option("--short-url", help="Short URL to click on; may be repeated [the stack's].")
]
_Links = Annotated[
    Path | None, typer.Option(help="File of links to click on, as `links load` takes it; its first ones most.")
]
_Url = Annotated[str | None, typer.Option(help="The API [the running stack's].")]
_Key = Annotated[str | None, typer.Option(envvar="CLICKLEDGER_KEY", help="API key [the running stack's].")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("send", epilog=EPILOG)(send)


def send(
    *,
    count: Annotated[
        int, typer.Option(min=0, help="Clicks to send; 0 = until --duration, or the file, ends.")
    ] = 10_000,
    rate: Annotated[
        float, typer.Option(min=0, help="Clicks per second, open loop; 0 = as fast as answers come.")
    ] = 500,
    file: _File = None,
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds after which no new click is sent.")] = 300,
    connections: Annotated[int, typer.Option(min=1, max=4096, help="Connections, one request at a time each.")] = 32,
    batch: Annotated[int, typer.Option(min=1, max=1000, help="Clicks per request; above 1: POST /v1/clicks.")] = 1,
    retries: Annotated[int, typer.Option(min=0, max=20, help="Tries again after 429, 5xx or no answer.")] = 0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which an answer no longer counts.")] = 10,
    short_url: _ShortUrls = None,
    links: _Links = None,
    clicked_at: Annotated[
        ClickedAt, typer.Option(help="Times of --from: none, keep, or shift so that the last one is now.")
    ] = ClickedAt.NONE,
    seed: Annotated[int, typer.Option(help="Same seed, same generated clicks.")] = 1,
    verify: Annotated[
        bool, typer.Option("--verify", help="Afterwards prove that each 200 is exactly one row.")
    ] = False,
    verify_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds without a new row after which to compare.")
    ] = 60,
    url: _Url = None,
    key: _Key = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    data: DataOption = None,
) -> None:
    """Send realistic clicks, or replay a file, and say how the API answered.

    Latency counts from when a click was due, not from when it could be sent: a stalled API cannot hide. Attempts
    without an answer, and 5xx, are counted as unknown: their record may exist. Ctrl-C ends the run and prints.

    Example: clickledger send --rate 2000 --count 20000 --verify

    Example: clickledger send --from access.log.gz --count 0 --clicked-at shift

    Example: clickledger send --rate 0 --batch 500 --count 1000000 --duration 60
    """
    from clickledger.lines import FileProblem
    from clickledger.load.clicks import Target
    from clickledger.load.plan import Plan
    from clickledger.load.pump import Pace
    from clickledger.load.report import Run, new_run_id

    base, secret, stack = api_access(data, url, key)
    try:
        target = Target.of(base, secret)
        known = _known_links(links, short_url or ([stack.short_url] if stack else []))
        shift_ms = _shift_ms(file, clicked_at)
    except (FileProblem, ValueError) as exc:
        raise typer.BadParameter(str(exc)) from exc
    plan = Plan(new_run_id(), known, count, seed, file, is_marked=verify, shift_ms=shift_ms)
    pace = Pace(rate, connections, batch, duration, timeout, retries)
    run = Run(target, plan, pace, verify_timeout_s=verify_timeout)
    if verify:
        run = _verified(run, locate(data))
    raise typer.Exit(_execute(run, as_json=as_json))


def _verified(run: Run, found: Located) -> Run:
    from clickledger.spools import hold_clicks

    return replace(run, clickhouse=found.clickhouse, spools_hold=partial(hold_clicks, found))


def _known_links(file: Path | None, short_urls: list[str]) -> list[str]:
    from clickledger.load.plan import links_of

    known = links_of(file) if file else short_urls
    if not known:
        raise typer.BadParameter("no short URL to click on: give --short-url or --links")
    return known


def _shift_ms(file: Path | None, clicked_at: ClickedAt) -> int | None:
    import time

    from clickledger.load.plan import last_time_ms

    if file is None or clicked_at is ClickedAt.NONE:
        return None
    if clicked_at is ClickedAt.KEEP:
        return 0
    last_ms = last_time_ms(file)
    return 0 if last_ms is None else time.time_ns() // 1_000_000 - last_ms


def _execute(run: object, *, as_json: bool) -> int:
    import asyncio

    import uvloop

    from clickledger.lines import FileProblem
    from clickledger.load.pump import Unreachable
    from clickledger.load.report import Run, execute, print_result
    from shared.errors import TransientError

    assert isinstance(run, Run)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(execute(run))
    except Unreachable as exc:
        raise TransientError(f"the API does not answer: {exc}") from exc
    except (FileProblem, OverflowError) as exc:
        raise typer.BadParameter(str(exc)) from exc
    print_result(result, as_json=as_json)
    return ExitCode.OK if result.is_good else ExitCode.FAILED
