"""The audit on a real broker, a real table and a real sink: what is in order is clean, every damage is named."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from clickledger.audit import Problem, Span
from clickledger.audit_gaps import accept_gap
from clickledger.audit_print import exit_code
from clickledger.audit_run import AuditReport, run_audit
from clickledger.located import Located
from clickledger.stack.guard import Guard
from shared.errors import OperatorError
from shared.kafka import Admin, TopicSpec
from shared.settings import CatalogSettings, ClickHouseSettings
from tests.support.full_stack import clean_env
from tests.support.sinks import SinkBench

_ROWS = 300
_NOW = {"mutations_sync": 2}


class AuditBench(SinkBench):
    """A sink's bench that writes the raw topic as well, so that Kafka and the table can be compared."""

    @property
    def located(self) -> Located:
        """What a command would find in this environment."""
        clickhouse = ClickHouseSettings(clickhouse_url=self.env["CLICKLEDGER_CLICKHOUSE_URL"])
        return Located(self.kafka, CatalogSettings(catalog_map_bytes=1 << 24), clickhouse, clickhouse, None)

    async def write_raw(self, partition: int, ids: list[str]) -> None:
        """Append raw records with these transaction-ids; the audit reads nothing else of them."""
        batch = self.producer.new_batch()
        for number, transaction_id in enumerate(ids):
            batch.append(timestamp=1 + number, key=transaction_id.encode(), value=b"{}", headers=[])
        await self.producer.send_batch(self.kafka.topic_raw, partition, batch)

    async def write_both(self, count: int, partitions: list[int] | None = None) -> None:
        """Append the next `count` clicks of each partition to both topics, the same ids in both."""
        for partition in list(self.next_raw) if partitions is None else partitions:
            first = self.next_raw[partition]
            self.next_raw[partition] += count
            records = [self.record(partition, first + number) for number in range(count)]
            await self.write_raw(partition, [record["transaction_id"] for record in records])
            await self.write(partition, records)

    async def store(self, count: int = _ROWS) -> None:
        """Write clicks and let a sink store them; the sink is stopped again."""
        await self.write_both(count)
        child = self.start(CLICKLEDGER_SINK_BLOCK_ROWS_MAX="100")
        await self.wait_stored(child)
        assert child.stop() == 0, child.tail()

    async def audit(self, *, wait: bool = False, timeout_s: float = 30) -> AuditReport:
        """Audit as the command does."""
        return await run_audit(self.located, wait=wait, timeout_s=timeout_s)

    async def delete(self, partition: int, first: int, last: int) -> None:
        """Remove rows behind the sink's back."""
        await self.clickhouse.command(
            "ALTER TABLE clicks DELETE WHERE raw_partition = {partition:UInt16} AND raw_offset BETWEEN {first:UInt64} "
            "AND {last:UInt64}",
            {"partition": partition, "first": first, "last": last},
            _NOW,
        )

    async def insert(self, *records: dict[str, Any]) -> None:
        """Add rows behind the sink's back."""
        payload = b"\n".join(orjson.dumps({"block_at": record["received_at"], **record}) for record in records)
        settings = {"insert_deduplicate": 0, "input_format_read_datetime_number_as_raw_value": 1}
        await self.clickhouse.insert_bytes("clicks", payload, settings)


@pytest.fixture
async def bench(prepared_env: dict[str, str], guard: Guard, tmp_path: Path) -> AsyncIterator[AuditBench]:
    """Topics, stream and table of this test's own."""
    bench = AuditBench(guard, tmp_path, prepared_env)
    await bench.open()
    yield bench
    await bench.close()


def _problems(report: AuditReport) -> dict[tuple[int, Problem], int]:
    return {(finding.partition, finding.problem): finding.size for finding in report.current.findings}


def _command(bench: AuditBench, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clickledger", "audit", *arguments]
    return subprocess.run(
        command, env={**clean_env(), **bench.env}, capture_output=True, text=True, check=False, timeout=120
    )


async def test_what_is_in_order_is_clean(bench: AuditBench) -> None:
    """All stored: clean, exit 0. More in Kafka: in flight, still clean; waiting for it in vain: exit 3."""
    await bench.store()
    report = await bench.audit(wait=True)
    assert (exit_code(report), report.current.rows, report.current.in_flight) == (0, _ROWS * bench.partitions, 0)
    assert all(len(each.facts.samples) > 1 for each in report.current.partitions)

    await bench.write_both(7, [0])
    await bench.write_raw(1, [str(uuid.uuid4())])
    report = await bench.audit()
    lags = {each.facts.partition: (each.in_flight, each.enriched_lag) for each in report.current.partitions}
    assert (lags[0], lags[1], lags[2]) == ((7, 0), (1, 1), (0, 0))
    assert exit_code(report) == 0

    done = _command(bench, "--wait", "--timeout", "1", "--json")
    assert done.returncode == 3, done.stderr
    printed = json.loads(done.stdout)
    assert (printed["clean"], printed["stored"], printed["not_stored"]) == (True, False, {"0": 7, "1": 1})


async def test_every_damage_of_the_table_is_named(bench: AuditBench) -> None:
    """First, middle and last block removed, a double, a changed id: each on its own partition, none elsewhere."""
    await bench.store()
    await bench.delete(0, 0, 99)
    await bench.delete(1, 100, 199)
    await bench.delete(2, 200, 299)
    await bench.insert(bench.record(3, 150))
    await bench.delete(4, 299, 299)
    await bench.insert(bench.record(4, 299, transaction_id=str(uuid.uuid4())))
    report = await bench.audit(wait=True)
    assert _problems(report) == {
        (0, Problem.MISSING): 100,
        (1, Problem.MISSING): 100,
        (2, Problem.TAIL_MISSING): 100,
        (3, Problem.DOUBLE): 1,
        (4, Problem.ID_MISMATCH): 1,
    }
    by_partition = {each.facts.partition: each.facts for each in report.current.partitions}
    assert (by_partition[0].missing, by_partition[1].missing) == ([Span(0, 99)], [Span(100, 199)])
    assert by_partition[3].doubles == [150]

    done = _command(bench)
    assert done.returncode == 1, done.stderr
    assert "MISSING: partition 1, 100: no row for raw offsets 100-199" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("NOT clean: 5 findings")


async def test_a_table_that_lost_everything_is_reported(bench: AuditBench) -> None:
    """Without a single row the commits and the ends still tell."""
    await bench.store(50)
    await bench.clickhouse.command("TRUNCATE TABLE clicks")
    report = await bench.audit(wait=True)
    assert _problems(report) == {(partition, Problem.TAIL_MISSING): 50 for partition in range(bench.partitions)}


async def test_a_topic_that_was_made_anew_is_reported(bench: AuditBench) -> None:
    """Empty, it ends below the table; filled again as far, its ids are others."""
    await bench.store(50)
    raw = bench.kafka.topic_raw
    async with Admin(bench.kafka) as admin:
        await admin.delete(raw)
        while raw in await admin.topics():
            await asyncio.sleep(0.1)
        assert await admin.create(TopicSpec(raw, bench.partitions, 1, {}))
    await bench.write_raw(0, [str(uuid.uuid4()) for _ in range(60)])
    report = await bench.audit()
    found = _problems(report)
    assert found.pop((0, Problem.ID_MISMATCH)) > 1
    assert found == {(partition, Problem.BEYOND_END): 50 for partition in range(1, bench.partitions)}
    assert exit_code(report) == 1


async def test_an_accepted_gap_is_no_finding_any_more(bench: AuditBench) -> None:
    """Who gave up what and why is a row; only offsets without rows can be given up."""
    await bench.store(50)
    await bench.delete(0, 10, 19)
    assert _problems(await bench.audit()) == {(0, Problem.MISSING): 10}
    with pytest.raises(OperatorError, match="are stored"):
        await accept_gap(bench.located, 0, Span(10, 20), who="me", reason="none")
    with pytest.raises(OperatorError, match="still to come"):
        await accept_gap(bench.located, 0, Span(50, 50), who="me", reason="none")
    with pytest.raises(OperatorError, match="none with number 4000"):
        await accept_gap(bench.located, 4000, Span(0, 0), who="me", reason="none")

    done = _command(bench, "--accept-gap", "0:10-19", "--who", "me", "--reason", "lost with a disk")
    assert done.returncode == 0, done.stderr
    assert _command(bench, "--accept-gap", "0:10-19", "--who", "me", "--reason", "twice").returncode == 0
    report = await bench.audit()
    assert exit_code(report) == 0
    (gap,) = report.gaps
    assert (gap.partition, gap.first, gap.last, gap.accepted_by, gap.reason) == (0, 10, 19, "me", "lost with a disk")


async def test_a_former_stream_is_still_checked(bench: AuditBench) -> None:
    """Rows of a topic that is no more: holes and doubles are found, nothing is asked of Kafka."""
    former = "former"
    await bench.insert(*(bench.record(0, offset, stream=former) for offset in (0, 1, 2)))
    report = await bench.audit()
    assert [verdict.stream for verdict in report.former] == [former]
    assert exit_code(report) == 0
    await bench.insert(bench.record(0, 5, stream=former), bench.record(0, 1, stream=former))
    (verdict,) = (await bench.audit()).former
    assert [(finding.problem, finding.size) for finding in verdict.findings] == [
        (Problem.MISSING, 2),
        (Problem.DOUBLE, 1),
    ]


async def test_what_does_not_answer_is_exit_3_and_one_line(bench: AuditBench) -> None:
    """An unreachable ClickHouse is not a finding."""
    bench.env["CLICKLEDGER_CLICKHOUSE_URL"] = "http://default@127.0.0.1:9/none"
    done = _command(bench)
    assert (done.returncode, done.stdout) == (3, "")
    assert len(done.stderr.strip().splitlines()) == 1


async def test_a_database_in_which_nothing_was_set_up_says_so(bench: AuditBench) -> None:
    """The way out is named; no verdict is no gap."""
    bench.env["CLICKLEDGER_TOPIC_RAW"] = "clicks.raw.unknown"
    done = _command(bench)
    assert done.returncode == 3
    assert "clickledger setup" in done.stderr


async def test_a_missing_topic_is_one_line(bench: AuditBench) -> None:
    """It is named at once, without the Kafka library's own lines."""
    async with Admin(bench.kafka) as admin:
        await admin.delete(bench.kafka.topic_enriched)
    done = _command(bench)
    assert done.returncode == 3
    (line,) = done.stderr.strip().splitlines()
    assert f"topic {bench.kafka.topic_enriched} does not exist" in line
