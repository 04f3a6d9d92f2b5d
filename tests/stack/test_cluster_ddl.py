"""The statements for a ClickHouse cluster are statements to the real engine; no cluster could be run for a test."""

from __future__ import annotations

from pathlib import Path

from clickledger.stack.guard import Guard
from shared import positions
from sink.cluster import of_every_copy
from sink.ddl import forms, migrations
from tests.support.clickhouse import LocalClickHouse
from tests.support.clickhouse_http import ClickHouseHttp


def test_the_engine_parses_every_form(guard: Guard, tmp_path: Path) -> None:
    """Of tables, views and changes, and the position's question; a broken statement is told from them."""
    server = LocalClickHouse(guard, tmp_path)
    owner = ClickHouseHttp(server.url)
    written = [statement for migration in migrations() for statement in migration.statements]
    found = [form for statement in written for form in forms(statement, "main", "clickledger")]
    found.append(of_every_copy(positions.HIGHEST, "main"))
    for form in found:
        answer = owner.ask(f"EXPLAIN AST {form}", param_stream="s", param_partition=0)
        assert answer.status == 200, f"{form[:200]}\n{answer.text}"
    assert owner.ask(f"EXPLAIN AST {found[0].replace(' ON CLUSTER', ' CLUSTER')}").status != 200
    server.close()
