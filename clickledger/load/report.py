"""A whole run of `clickledger send`: pump, progress, verification, and what is printed."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import typer

from clickledger import output
from clickledger.load.clicks import Target
from clickledger.load.plan import BadLines, Plan, clicks_of
from clickledger.load.prove import compare, wait_until_stored
from clickledger.load.pump import Pace, Pump, Tally
from clickledger.load.verify import Ledger, Mismatches
from shared.clickhouse import ClickHouse
from shared.settings import ClickHouseSettings

_TICK_S = 0.2

_HINTS = {
    "430": "the key lacks the grant shortlinkclicks: clickledger keys list",
    "498": "the key is not valid: look at --key and CLICKLEDGER_KEY, or at: clickledger keys list",
    "1003": "no such link of the key's tenant: register it with clickledger links load, or give another --short-url",
    "1010": "the link has expired, is disabled or is older than the tenant's retention",
    "429": "over the key's rate: clickledger tenants set TENANT --rate-limit N, or a lower --rate",
}
"""What to do about the answers that a sender can do something about."""


@dataclass(frozen=True, slots=True)
class Run:
    """What to send, where and how; with `clickhouse`, what to prove afterwards."""

    target: Target
    plan: Plan
    pace: Pace
    clickhouse: ClickHouseSettings | None = None
    verify_timeout_s: float = 60.0
    spools_hold: Callable[[], Awaitable[bool]] | None = None
    """whether clicks lie in spools still; only asked when there is something to prove"""


@dataclass(frozen=True, slots=True)
class Result:
    """How it went."""

    tally: Tally
    bad_lines: BadLines
    proof: Mismatches | None
    """None when it was not asked for"""

    @property
    def is_good(self) -> bool:
        """Whether something was accepted (or there was nothing to send), and the proof, if any, holds."""
        if self.proof is not None and not self.proof.is_proof(self.tally.uncertain):
            return False
        return self.tally.accepted > 0 or self.tally.clicks == 0


def new_run_id() -> str:
    """Twelve hexadecimal digits: marks the rows of one run."""
    return secrets.token_hex(6)


def now_ms() -> int:
    """Milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


async def execute(run: Run) -> Result:
    """Send, then prove if asked to. Ctrl-C ends the sending, not the proof.

    Raises Unreachable, FileProblem, OverflowError (more ids than can be kept), and what ClickHouse raises.
    """
    started_ms, bad_lines, ledger = now_ms(), BadLines(), Ledger()
    keep = ledger.note if run.clickhouse is not None else None
    pump = Pump(run.target, clicks_of(run.plan, now_ms, bad_lines), run.pace, keep)
    with suppress(NotImplementedError, ValueError):  # not on the main thread: no Ctrl-C to catch
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, pump.stop)
    tally = await _with_progress(pump, run.plan.count)
    proof = await _prove(run, ledger, started_ms) if run.clickhouse is not None else None
    return Result(tally, bad_lines, proof)


async def _with_progress(pump: Pump, count: int) -> Tally:
    with output.progress() as bar:
        task = bar.add_task("sending", total=count or None)

        async def tick() -> None:
            while True:
                bar.update(task, completed=pump.tally.clicks)
                await asyncio.sleep(_TICK_S)

        ticking = asyncio.create_task(tick())
        try:
            return await pump.run()
        finally:
            ticking.cancel()


async def _prove(run: Run, ledger: Ledger, started_ms: int) -> Mismatches:
    assert run.clickhouse is not None
    run_id = run.plan.run
    distinct = sum(len(ids) for _, _, ids in ledger.slices())
    async with ClickHouse(run.clickhouse) as clickhouse:
        with output.progress() as bar:
            task = bar.add_task("waiting for rows", total=None)
            await wait_until_stored(
                clickhouse,
                run_id,
                distinct,
                started_ms=started_ms,
                timeout_s=run.verify_timeout_s,
                spools_hold=run.spools_hold,
            )
            bar.update(task, description="comparing ids", total=distinct)
            advance: Callable[[int], None] = lambda ids: bar.advance(task, ids)  # noqa: E731
            return await compare(clickhouse, run_id, ledger, started_ms=started_ms, on_slice=advance)


def as_record(result: Result) -> dict[str, Any]:
    """Give the result as one JSON object; latencies in milliseconds."""
    tally = result.tally
    record: dict[str, Any] = {
        "clicks": tally.clicks,
        "requests": tally.requests,
        "accepted": tally.accepted,
        "unknown": tally.uncertain,
        "retried": tally.retried,
        "by_code": dict(sorted(tally.by_code.items())),
        "bad_lines": result.bad_lines.count,
        "seconds": round(tally.elapsed_s, 3),
        "clicks_per_second": round(tally.clicks / tally.elapsed_s, 1) if tally.elapsed_s else 0.0,
        "latency_ms": {
            **{f"p{q}": tally.latency.percentile_us(q) / 1000 for q in (50, 90, 99)},
            "max": tally.latency.max_us / 1000,
        },
    }
    if result.proof is not None:
        proof = result.proof
        names = ("checked", "missing", "doubled", "wrong_status", "unanswered", "duplicates", "examples")
        record["verify"] = {
            "proved": proof.is_proof(tally.uncertain),
            **{name: getattr(proof, name) for name in names},
        }
    return record


def print_result(result: Result, *, as_json: bool) -> None:
    """Print the result for people or as one JSON object."""
    record = as_record(result)
    if as_json:
        typer.echo(json.dumps(record))
        return
    latency = record["latency_ms"]
    codes = ", ".join(f"{code} x {count:,}" for code, count in record["by_code"].items()) or "none"
    lines = [
        (
            f"sent {record['clicks']:,} clicks in {record['requests']:,} requests, {record['seconds']:,} s "
            f"({record['clicks_per_second']:,}/s)"
        ),
        f"200 with id: {record['accepted']:,}; unknown outcomes: {record['unknown']:,}; sent again: {record['retried']:,}",
        f"answers: {codes}",
        *(f"  {code}: {_HINTS[code]}" for code in record["by_code"] if code in _HINTS),
        "latency ms, from when due: " + ", ".join(f"{name} {value:,.1f}" for name, value in latency.items()),
    ]
    if result.bad_lines.count:
        lines.append(f"lines that are no clicks: {result.bad_lines.count:,}")
        lines += [f"  line {bad.number}: {bad.reason}" for bad in result.bad_lines.first]
    if result.proof is not None:
        lines += _proof_lines(result.proof, result.tally.uncertain)
    for line in lines:
        typer.echo(line)


def _proof_lines(proof: Mismatches, uncertain: int) -> list[str]:
    if proof.is_proof(uncertain):
        extra = f"; {proof.unanswered:,} more rows from {uncertain:,} unknown outcomes" if uncertain else ""
        return [
            (
                f"verified: each of {proof.checked:,} ids is exactly one accepted row "
                f"({proof.duplicates:,} duplicate rows besides){extra}"
            )
        ]
    return [
        (
            f"NOT verified: of {proof.checked:,} ids {proof.missing:,} missing, {proof.doubled:,} doubled, "
            f"{proof.wrong_status:,} with a wrong status; {proof.unanswered:,} rows without an answer "
            f"({uncertain:,} unknown outcomes)"
        ),
        *(f"  {example}" for example in proof.examples),
    ]
