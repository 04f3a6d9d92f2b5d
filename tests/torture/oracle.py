"""The judge of a round: each 200 is one accepted row, no row is unexplained, and the audit is clean.

It asks with the code that users have: what `clickledger send --verify` compares, and what `clickledger audit --wait`
prints. Nothing of the services is trusted, only the sender's own books, Kafka and the table.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from clickledger.audit_print import exit_code, last_line
from clickledger.audit_run import AuditReport, run_audit
from clickledger.exit_codes import ExitCode
from clickledger.load.prove import compare, wait_until_stored
from clickledger.load.verify import MARK, Mismatches, pattern
from shared.clickhouse import ClickHouse
from shared.errors import ClickledgerError
from tests.torture.books import EXAMPLES_MAX, NUMBER, UnansweredRow
from tests.torture.load import Load
from tests.torture.world import World

STORED_S_MAX: Final = 60.0
QUIET_S: Final = 0.3
AUDIT_S_MAX: Final = 60.0
VERDICT_S_MAX: Final = 180.0
"""What is on its way, or does not answer, is no verdict: the audit is asked again for so long."""

_NUMBERED: Final = f"""
SELECT toInt64OrDefault(extract(short_url, '[?&]{NUMBER}=(\\\\d+)$'), toInt64(-1)) AS number, toString(transaction_id)
FROM clicks
WHERE received_at >= fromUnixTimestamp64Milli({{since:Int64}}) AND short_url LIKE {{mark:String}}
GROUP BY number, transaction_id
"""
_ACCEPTED: Final = """
SELECT DISTINCT transaction_id
FROM clicks
WHERE received_at >= fromUnixTimestamp64Milli({since:Int64}) AND short_url LIKE {mark:String} AND status = 'accepted'
"""
_BY_RUN: Final = f"SELECT extract(short_url, '{MARK}=([0-9a-z]+)') AS run, count() FROM clicks GROUP BY run"
_UNMARKED: Final = f"SELECT count() FROM clicks WHERE short_url NOT LIKE '%{MARK}=%'"


@dataclass
class Verdict:
    """What the oracle found for one run."""

    checked: int = 0
    lost: int = 0
    """ids answered with 200 that have no accepted row"""
    double: int = 0
    """ids with more than one accepted row"""
    problems: list[str] = field(default_factory=list)
    """everything that is not as promised, lost and double included, in words"""
    unknown_stored: int = 0
    """rows of attempts that were never answered"""

    @property
    def is_good(self) -> bool:
        """Whether the promise held."""
        return not self.problems

    def count(self, found: Mismatches) -> None:
        """Take over what the comparison of ids found."""
        self.checked, self.lost, self.double = found.checked, found.missing, found.doubled
        self.unknown_stored = found.unanswered
        for size, what in (
            (found.missing, "ids answered 200 without an accepted row"),
            (found.doubled, "ids with two accepted rows"),
            (found.wrong_status, "ids with rows that are neither accepted nor duplicate"),
        ):
            if size:
                self.problems.append(f"{size} {what}: {'; '.join(found.examples)}")


async def judge(world: World, load: Load) -> Verdict:
    """Wait until what was sent is stored, audit, then compare every id. Errors of the environment are findings."""
    verdict = Verdict()
    try:
        async with ClickHouse(world.located.clickhouse) as clickhouse:
            await wait_until_stored(
                clickhouse,
                load.run,
                sum(len(ids) for _, _, ids in load.books.ledger.slices()),
                started_ms=load.since_ms,
                timeout_s=STORED_S_MAX,
                quiet_s=QUIET_S,
            )
            verdict.problems += await audit(world)
            await _compare(clickhouse, load, verdict)
            ((unmarked,),) = await clickhouse.query(_UNMARKED)
            verdict.problems += _foreign(int(unmarked), world)
    except ClickledgerError as exc:
        verdict.problems.append(f"no verdict: {exc}")
    return verdict


async def _compare(clickhouse: ClickHouse, load: Load, verdict: Verdict) -> None:
    found = await compare(clickhouse, load.run, load.books.ledger, started_ms=load.since_ms)
    found.missing -= await _gone(clickhouse, load)
    verdict.count(found)
    params = {"since": load.since_ms, "mark": pattern(load.run)}
    rows = await clickhouse.query(_NUMBERED, params)
    strays = load.books.strays(UnansweredRow(int(number), str(each)) for number, each in rows)
    if strays:
        verdict.problems.append(f"{len(strays)} rows from nowhere: {'; '.join(strays[:EXAMPLES_MAX])}")


async def _gone(clickhouse: ClickHouse, load: Load) -> int:
    """How many answered ids have no row because a fault destroyed their only copy."""
    if not load.forgiven:
        return 0
    rows = await clickhouse.query(_ACCEPTED, {"since": load.since_ms, "mark": pattern(load.run)})
    answered = set().union(*load.books.answered.values())
    return len((load.forgiven & answered) - {str(transaction_id) for (transaction_id,) in rows})


async def audit(world: World) -> list[str]:
    """`clickledger audit --wait`: nothing when it is clean. A finding is final at once."""
    deadline = time.monotonic() + VERDICT_S_MAX
    while True:
        report = await run_audit(world.located, wait=True, timeout_s=AUDIT_S_MAX)
        if exit_code(report) == ExitCode.OK:
            return []
        if exit_code(report) == ExitCode.FAILED or time.monotonic() > deadline:
            return [_describe(report)]
        await asyncio.sleep(0.5)


def _describe(report: AuditReport) -> str:
    found = [*report.current.findings, *report.spool_findings][:EXAMPLES_MAX]
    findings = "; ".join(f"{each.problem} {each.detail}" for each in found)
    return f"audit: {last_line(report)} {findings}"


def _foreign(found: int, world: World) -> list[str]:
    """Rows of no run, beyond those that faults put there."""
    return [] if found == world.foreign_rows else [f"{found} rows of no run, {world.foreign_rows} expected"]


async def judge_again(world: World, loads: Sequence[Load]) -> list[str]:
    """Compare all runs of a world once more at its end: nothing came late. What is not as promised, in words."""
    problems = []
    try:
        async with ClickHouse(world.located.clickhouse) as clickhouse:
            for load in loads:
                verdict = Verdict()
                await _compare(clickhouse, load, verdict)
                problems += [f"run {load.run}: {each}" for each in verdict.problems]
            known = {load.run for load in loads}
            by_run = await clickhouse.query(_BY_RUN)
            problems += _foreign(sum(int(count) for run, count in by_run if run not in known), world)
    except ClickledgerError as exc:
        problems.append(f"no verdict: {exc}")
    return [f"at the end: {each}" for each in problems]
