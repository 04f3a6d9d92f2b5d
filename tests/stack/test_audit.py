"""The audit on a real broker, a real table and a real sink: what is in order is clean, every damage is named."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from clickledger.audit import Problem, Span
from clickledger.audit_gaps import accept_gap
from clickledger.audit_print import exit_code
from clickledger.audit_run import AuditReport
from clickledger.stack.guard import Guard
from shared.errors import OperatorError
from shared.kafka import Admin, TopicSpec
from shared.positions import AcceptedGap, Position, positions
from tests.support.audits import ROWS, AuditBench


@pytest.fixture
async def bench(prepared_env: dict[str, str], guard: Guard, tmp_path: Path) -> AsyncIterator[AuditBench]:
    """Topics, stream and table of this test's own."""
    bench = AuditBench(guard, tmp_path, prepared_env)
    await bench.open()
    yield bench
    await bench.close()


def _problems(report: AuditReport) -> dict[tuple[int, Problem], int]:
    return {(finding.partition, finding.problem): finding.size for finding in report.current.findings}


async def test_what_is_in_order_is_clean(bench: AuditBench) -> None:
    """All stored: clean, exit 0. More in Kafka: in flight, still clean; waiting for it in vain: exit 3."""
    await bench.store()
    report = await bench.audit(wait=True)
    assert (exit_code(report), report.current.rows, report.current.in_flight) == (0, ROWS * bench.partitions, 0)
    assert all(len(each.facts.samples) > 1 for each in report.current.partitions)

    await bench.write_both(7, [0])
    await bench.write_raw(1, [str(uuid.uuid4())])
    report = await bench.audit()
    lags = {each.facts.partition: (each.in_flight, each.enriched_lag) for each in report.current.partitions}
    assert (lags[0], lags[1], lags[2]) == ((7, 0), (1, 1), (0, 0))
    assert _problems(report) == {}
    assert exit_code(report) == 0

    done = bench.command("audit", "--wait", "--timeout", "1", "--json")
    assert done.returncode == 3, done.stderr
    printed = json.loads(done.stdout)
    assert (printed["clean"], printed["stored"], printed["not_stored"]) == (True, False, {"0": 7, "1": 1})


async def test_every_damage_of_the_table_is_named(bench: AuditBench) -> None:
    """First, middle and last block removed, a double, a changed id, a double for a missing row: each on its own partition."""
    await bench.store()
    await bench.delete(0, 0, 99)
    await bench.delete(1, 100, 199)
    await bench.delete(2, 200, 299)
    await bench.insert(bench.record(3, 150))
    await bench.delete(4, 299, 299)
    await bench.insert(bench.record(4, 299, transaction_id=str(uuid.uuid4())))
    await bench.delete(5, 17, 17)
    await bench.insert(bench.record(5, 18))
    report = await bench.audit(wait=True)
    assert _problems(report) == {
        (0, Problem.MISSING): 100,
        (1, Problem.MISSING): 100,
        (2, Problem.TAIL_MISSING): 100,
        (3, Problem.DOUBLE): 1,
        (4, Problem.ID_MISMATCH): 1,
        (5, Problem.MISSING): 1,
        (5, Problem.DOUBLE): 1,
    }
    by_partition = {each.facts.partition: each.facts for each in report.current.partitions}
    assert (by_partition[0].missing, by_partition[1].missing) == ([Span(0, 99)], [Span(100, 199)])
    assert by_partition[3].doubles == [150]

    done = bench.command("audit")
    assert done.returncode == 1, done.stderr
    assert "MISSING: partition 1, 100: no row for raw offsets 100-199" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("NOT clean: 7 findings")


def _offsets(seed: int) -> list[int]:
    """Raw offsets as no healthy partition has them: runs, holes, doubles, far apart, around the bounds of bitmaps."""
    draw = random.Random(seed)
    runs = [range(start, start + draw.randrange(1, 9_000)) for start in (0, 65_000, 2**32 - 4_000, 2**48, 2**63)]
    found = [offset for run in runs for offset in draw.sample(run, draw.randrange(1, len(run) + 1))]
    found += [draw.randrange(2**64) for _ in range(200)]
    found += draw.choices(found, k=draw.randrange(300))
    draw.shuffle(found)
    return found


async def test_rows_are_counted_exactly_whatever_their_offsets_are(bench: AuditBench) -> None:
    """Rows, different offsets and the last one, behind each partition's first and outside of accepted gaps: as Python's sets."""
    offsets = {partition: _offsets(partition) for partition in range(6)}
    firsts = {0: 0, 1: 3_000, 2: 2**32, 4: 2**63 + 5}
    gaps = [AcceptedGap(0, 0, 5_000, "me", ""), AcceptedGap(1, 66_000, 2**48 + 10, "me", "")]
    lines = [
        orjson.dumps(
            {"stream": "odd", "raw_partition": partition, "raw_offset": value, "expires_at": "2100-01-01 00:00:00"}
        )
        for partition, values in offsets.items()
        for value in values
    ]
    await bench.clickhouse.insert_bytes("clicks", b"\n".join(lines), {})
    found = {each.partition: each for each in await positions(bench.clickhouse, "odd", firsts, gaps)}
    for partition, values in offsets.items():
        kept = [value for value in values if value >= firsts.get(partition, 0)]
        spans = [range(gap.first, gap.last + 1) for gap in gaps if gap.partition == partition]
        inside = [value for value in kept if not any(value in span for span in spans)]
        expected = Position(partition, len(inside), len(set(inside)), max(inside), len(kept))
        assert found[partition] == expected


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

    done = bench.command("audit", "--accept-gap", "0:10-19", "--who", "me", "--reason", "lost with a disk")
    assert done.returncode == 0, done.stderr
    assert bench.command("audit", "--accept-gap", "0:10-19", "--who", "me", "--reason", "twice").returncode == 0
    report = await bench.audit()
    assert exit_code(report) == 0
    (gap,) = report.gaps
    assert (gap.partition, gap.first, gap.last, gap.accepted_by, gap.reason) == (0, 10, 19, "me", "lost with a disk")


async def test_rows_of_a_partition_that_the_topic_has_not_are_named(bench: AuditBench) -> None:
    """They are counted like any others, holes and doubles too; the topic's own partitions stay clean."""
    await bench.store(50)
    await bench.insert(*(bench.record(9, offset) for offset in (0, 1, 1, 4)))
    report = await bench.audit(wait=True)
    assert _problems(report) == {
        (9, Problem.UNKNOWN_PARTITION): 4,
        (9, Problem.MISSING): 2,
        (9, Problem.DOUBLE): 1,
    }
    (odd,) = [each.facts for each in report.current.partitions if each.facts.partition == 9]
    assert (odd.missing, odd.doubles) == ([Span(2, 3)], [1])
    assert (exit_code(report), report.current.rows) == (1, 50 * bench.partitions + 4)


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
    done = bench.command("audit")
    assert (done.returncode, done.stdout) == (3, "")
    assert len(done.stderr.strip().splitlines()) == 1


async def test_a_database_in_which_nothing_was_set_up_says_so(bench: AuditBench) -> None:
    """The way out is named; no verdict is no gap."""
    bench.env["CLICKLEDGER_TOPIC_RAW"] = "clicks.raw.unknown"
    done = bench.command("audit")
    assert done.returncode == 3
    assert "clickledger setup" in done.stderr


async def test_a_missing_topic_is_one_line(bench: AuditBench) -> None:
    """It is named at once, without the Kafka library's own lines."""
    async with Admin(bench.kafka) as admin:
        await admin.delete(bench.kafka.topic_enriched)
    done = bench.command("audit")
    assert done.returncode == 3
    (line,) = done.stderr.strip().splitlines()
    assert f"topic {bench.kafka.topic_enriched} does not exist" in line
