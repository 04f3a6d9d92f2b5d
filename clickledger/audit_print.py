"""The audit's report for people (a table per stream, findings, one last line) and for programs (one JSON object)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from clickledger.audit_spools import spool_id
from clickledger.exit_codes import ExitCode
from clickledger.output import print_table

if TYPE_CHECKING:
    from clickledger.audit import PartitionVerdict, Verdict
    from clickledger.audit_run import AuditReport

_NAMES = (
    "partition",
    "expected first",
    "last",
    "rows",
    "distinct",
    "sealed",
    "missing",
    "double",
    "in flight",
    "not enriched",
    "accepted",
    "duplicate",
    "rejected",
    "malformed",
)
_HEADINGS = (
    *("part", "first", "last", "rows", "distinct", "sealed", "missing", "double", "in flight", "not enriched"),
    *("accepted", "dupli- cate", "re- jected", "mal- formed"),
)
"""The same names, narrow enough for a terminal of 100 columns."""
_STATUSES = ("accepted", "duplicate", "rejected", "malformed")


def exit_code(report: AuditReport) -> int:
    """Give the exit status: a finding is worse than what is still on its way."""
    if not report.is_clean:
        return ExitCode.FAILED
    return ExitCode.UNREACHABLE if report.not_stored or report.spools_unheard else ExitCode.OK


def as_record(report: AuditReport) -> dict[str, Any]:
    """Give the report as one JSON object."""
    return {
        "clean": report.is_clean,
        "stored": not report.not_stored and not report.spools_unheard,
        **_verdict_record(report.current),
        "not_stored": {str(partition): count for partition, count in report.not_stored.items()},
        "former_streams": [_verdict_record(verdict) for verdict in report.former],
        "accepted_gaps": [gap._asdict() for gap in report.gaps],
        "spools": list(report.spools),
        "spool_findings": [
            {"spool": each.spool, "problem": str(each.problem), "count": each.size, "detail": each.detail}
            for each in report.spool_findings
        ],
        "seals": asdict(report.seal_count) if report.seal_count else None,
        "unfinished_erasures": list(report.erasures),
    }


def _verdict_record(verdict: Verdict) -> dict[str, Any]:
    return {
        "stream": verdict.stream,
        "rows": verdict.rows,
        "in_flight": verdict.in_flight,
        "partitions": [dict(zip(_JSON_NAMES, _values(each), strict=True)) for each in verdict.partitions],
        "findings": [
            {"partition": each.partition, "problem": str(each.problem), "count": each.size, "detail": each.detail}
            for each in verdict.findings
        ],
    }


_JSON_NAMES = tuple(name.replace(" ", "_") for name in _NAMES)


def _values(verdict: PartitionVerdict) -> list[Any]:
    facts = verdict.facts
    return [
        facts.partition,
        facts.start,
        facts.sealed.last if facts.stored_last is None and facts.sealed else facts.stored_last,
        verdict.rows,
        facts.distinct + verdict.rows_sealed,
        verdict.rows_sealed,
        verdict.missing,
        verdict.double,
        verdict.in_flight,
        verdict.enriched_lag,
        *(facts.statuses.get(status, 0) for status in _STATUSES),
    ]


def print_report(report: AuditReport) -> None:
    """Print everything, the verdict last."""
    for verdict in (*report.former, report.current):
        title = f"stream {verdict.stream}" + ("" if verdict is report.current else " (of a former topic)")
        print_table(_HEADINGS, [_values(each) for each in verdict.partitions], title=title)
    for gap in report.gaps:
        typer.echo(
            f"accepted gap: partition {gap.partition}, raw offsets {gap.first}-{gap.last}, by {gap.accepted_by}: {gap.reason}"
        )
    for spool in report.spools:
        typer.echo(f"spool {spool_id(spool)}: {spool['clicks']:,} clicks, {spool['bytes']:,} bytes")
    for verdict in (*report.former, report.current):
        for finding in verdict.findings:
            typer.echo(f"{finding.problem.upper()}: partition {finding.partition}, {finding.size:,}: {finding.detail}")
    for lying in report.spool_findings:
        typer.echo(f"{lying.problem.upper()}: {lying.spool}: {lying.detail}")
    for erasure in report.erasures:
        typer.echo(f"erasure {erasure} is not finished: if nobody is at it, run clickledger erase --finish")
    if report.seal_count is not None:
        count = report.seal_count
        typer.echo(
            f"seals: {count.compared:,} compared with their rows, {count.expired:,} with rows that expired or soon will"
        )
    typer.echo(last_line(report))


def last_line(report: AuditReport) -> str:
    """Give the verdict in one sentence."""
    rows = report.current.rows + sum(verdict.rows for verdict in report.former)
    partitions = len(report.current.partitions)
    if not report.is_clean:
        found = len(report.current.findings) + sum(len(verdict.findings) for verdict in report.former)
        found += len(report.spool_findings)
        return f"NOT clean: {found} findings in {rows:,} rows on {partitions} partitions"
    if report.not_stored:
        waiting = ", ".join(f"{count:,} of partition {partition}" for partition, count in report.not_stored.items())
        return f"not stored in time: {waiting}; no gap, double or mismatch in the {rows:,} rows so far"
    if report.spools_unheard:
        silent = ", ".join(report.spools_unheard)
        return f"no verdict: nothing was heard in time of spool {silent}; all else is clean: {rows:,} rows"
    flight = f", {report.current.in_flight:,} in flight" if report.current.in_flight else ""
    return f"clean: {rows:,} rows on {partitions} partitions, no gap, no double, no mismatch{flight}"
