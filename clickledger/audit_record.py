"""Notes in the table `audits` how an audit ended, for the health strip of the dashboard and whoever asks later."""

from __future__ import annotations

import getpass
from typing import Final

import orjson

from clickledger.audit_print import exit_code
from clickledger.audit_run import AuditReport
from clickledger.exit_codes import ExitCode
from clickledger.located import Located
from shared.clickhouse import ClickHouse
from shared.settings import RuntimeSettings, load

_VERDICTS: Final = {ExitCode.OK: "clean", ExitCode.FAILED: "not_clean", ExitCode.UNREACHABLE: "no_verdict"}


async def record_audit(found: Located, report: AuditReport) -> None:
    """Write one row. Raises as ClickHouse does; the verdict stands all the same."""
    verdicts = (report.current, *report.former)
    row = {
        "stream": report.current.stream,
        "verdict": _VERDICTS[ExitCode(exit_code(report))],
        "findings": sum(len(verdict.findings) for verdict in verdicts) + len(report.spool_findings),
        "rows": sum(verdict.rows for verdict in verdicts),
        "in_flight": report.current.in_flight,
        "audited_by": f"{getpass.getuser()}@{load(RuntimeSettings).node}",
    }
    async with ClickHouse(found.clickhouse) as clickhouse:
        await clickhouse.insert_bytes("audits", orjson.dumps(row), {})
