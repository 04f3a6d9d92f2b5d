"""Seals on a real broker, a real table and real sinks: what is stored stays provable, and what expired stays stored once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clickledger.audit import Problem, Span
from clickledger.audit_gaps import accept_gap
from clickledger.audit_print import exit_code
from clickledger.stack.guard import Guard
from shared.erasures import SETTLE_S
from shared.errors import OperatorError
from shared.seals import Seal, breaks, chain
from sink.sealing import Sealer, SealLimits
from tests.support.seals import SEAL_AT_ONCE, SealBench
from tests.support.sinks import Position

_SETTLES_SOON = {"CLICKLEDGER_SINK_ANSWER_AGE_MS_MAX": "2000", "CLICKLEDGER_SINK_INSERT_TIMEOUT_MS": "4000"}
_SEAL_ALARMS = 'clickledger_alarms{reason="seal",service="sink"}'


@pytest.fixture
async def bench(prepared_env: dict[str, str], guard: Guard, tmp_path: Path) -> AsyncIterator[SealBench]:
    """Topics, stream and table of this test's own."""
    bench = SealBench(guard, tmp_path, prepared_env)
    await bench.open()
    yield bench
    await bench.close()


async def test_rows_changed_after_sealing_are_found(bench: SealBench) -> None:
    """Deleted, added, altered, exchanged, deleted and added at once: each on its own partition, exit 1."""
    seals = await bench.store_and_seal()
    assert sum(seal.rows for seal in seals) == 100 * bench.partitions
    assert await bench.problems(check_seals=True) == {}

    await bench.delete(0, 10, 12)
    await bench.insert(bench.record(1, 50))
    await bench.change("UPDATE country = 'DE' WHERE raw_partition = 2 AND raw_offset = 7")
    await bench.change("UPDATE ip = toString(101 - raw_offset) WHERE raw_partition = 3 AND raw_offset IN (50, 51)")
    await bench.delete(4, 99, 99)
    await bench.insert(bench.record(4, 98))
    assert await bench.problems(check_seals=False) == {(0, Problem.SEALED_MISSING): 3, (1, Problem.SEALED_ADDED): 1}
    report = await bench.audit(check_seals=True)
    found = {(each.partition, each.problem): each.size for each in report.current.findings}
    assert found == {
        (0, Problem.SEALED_MISSING): 3,
        (1, Problem.SEALED_ADDED): 1,
        (2, Problem.SEALED_ALTERED): 1,
        (3, Problem.SEALED_ALTERED): 1,
        (4, Problem.SEALED_ALTERED): 1,
    }
    assert exit_code(report) == 1
    done = bench.command("audit", "--seals", "--json")
    assert done.returncode == 1, done.stderr
    printed = json.loads(done.stdout)
    assert printed["seals"] == {"compared": len(seals), "expired": 0}
    assert len(printed["findings"]) == 5


async def test_expired_rows_stay_stored_once(bench: SealBench) -> None:
    """All of a partition gone, only its highest row, some: the sink goes on behind the seals, restarted and without group."""
    await bench.store_and_seal()
    child = bench.start(**SEAL_AT_ONCE)
    await bench.expire("raw_partition = 0 OR raw_partition = 1 AND raw_offset = 99 OR raw_offset IN (7, 98)")
    await bench.write_both(50)
    assert exit_code(await bench.audit(wait=True)) == 0
    child.kill()
    await bench.write_both(50)
    child = bench.start(**SEAL_AT_ONCE)
    assert exit_code(await bench.audit(wait=True)) == 0
    await bench.sealed()
    assert child.stop() == 0, child.tail()

    await bench.expire("raw_offset < 195")
    with pytest.raises(OperatorError, match="is sealed"):
        await accept_gap(bench.located, 0, Span(7, 7), who="me", reason="expired")
    await bench.lose_group()
    await bench.write_both(50)
    child = bench.start(**SEAL_AT_ONCE, **_SETTLES_SOON)
    report = await bench.audit(wait=True, timeout_s=120)
    assert (exit_code(report), report.current.rows) == (0, 250 * bench.partitions)
    assert await bench.stored() == dict.fromkeys(range(bench.partitions), Position(55, 55, 249))
    assert exit_code(await bench.audit(check_seals=True)) == 0


async def test_rows_that_come_late_live_until_they_are_sealed(bench: SealBench) -> None:
    """A record that waited in Kafka beyond its own expiry is a row for a week, and TTL does not outrun its seal."""
    past = {"received_at": 1, "enriched_at": 1, "expires_at": 1}
    records = [bench.record(0, raw_offset, **past) for raw_offset in range(30)]
    bench.next_raw[0] = 30
    await bench.write_raw(0, [record["transaction_id"] for record in records])
    await bench.write(0, records)
    child = bench.start(**SEAL_AT_ONCE)
    await bench.wait_stored(child)
    await bench.clickhouse.command("OPTIMIZE TABLE clicks FINAL")
    seals = await bench.sealed()
    assert sum(seal.rows for seal in seals) == 30
    assert all(seal.expires_first_s > time.time() + 6 * 86_400 for seal in seals)


async def test_what_does_not_verify_is_not_sealed_and_does_not_stop_storing(bench: SealBench) -> None:
    """A double and a hole: alarm `seal` in the metrics, the other partitions are sealed, and clicks go on being stored."""
    await bench.store(60)
    await bench.insert(bench.record(0, 30))
    await bench.delete(1, 10, 19)
    child = bench.start(**SEAL_AT_ONCE)

    async def alarms() -> bool:
        return bench.metric(child, _SEAL_ALARMS) == 2

    await bench.until_async(alarms, "the alarm `seal` of two partitions", child)
    assert bench.reasons(child) == []
    await bench.write_both(10)
    await bench.until_async(lambda: bench.is_last(69), "further rows", child)
    wrong = {0: 30, 1: 10}
    sealed = await chain(bench.clickhouse, bench.stream)
    assert not [seal for seal in sealed if seal.first <= wrong.get(seal.partition, -1) <= seal.last]

    await bench.clickhouse.command(
        "ALTER TABLE clicks DELETE WHERE raw_partition = 0 AND raw_offset = 30", {}, {"mutations_sync": 2}
    )
    for place in ("0:30", "1:10-19"):
        done = bench.command("audit", "--accept-gap", place, "--who", "me", "--reason", "this test")
        assert done.returncode == 0, done.stderr
    seals = await bench.sealed()
    assert {seal.partition: seal.gaps for seal in seals if seal.gaps} == {0: ((30, 30),), 1: ((10, 19),)}
    assert bench.metric(child, _SEAL_ALARMS) == 0
    assert exit_code(await bench.audit(wait=True, check_seals=True)) == 0


class Waking:
    """A clock that goes on when the test says so."""

    seconds = 0.0

    def now_s(self) -> float:
        """Seconds."""
        return self.seconds

    def wall_ms(self) -> int:
        """Not asked for."""
        raise NotImplementedError

    async def pause(self, seconds: float) -> None:
        """Not asked for."""
        raise NotImplementedError


class Stopped(Sealer):
    """A sealer that is stopped between reading a range and writing its seal."""

    is_stopped = asyncio.Event()
    goes_on = asyncio.Event()

    async def _write(self, seal: Seal, began_s: float) -> bool:
        self.is_stopped.set()
        await self.goes_on.wait()
        return await super()._write(seal, began_s)


def sealer(bench: SealBench, rows_max: int, kind: type[Sealer] = Sealer) -> Sealer:
    """A member's sealer that owns every partition; each has limits of its own here."""
    return kind(
        bench.clickhouse,
        bench.stream,
        start=lambda _partition: 0,
        owned=lambda: range(bench.partitions),
        partitions=bench.partitions,
        limits=SealLimits(every_ms=100, age_ms=100, rows_max=rows_max),
        clock=Waking(),
        who=f"{kind.__name__} {rows_max}",
    )


async def test_owners_at_once_write_one_chain(bench: SealBench) -> None:
    """One is stopped before it writes, another with other limits seals on, the first wakes up: its seal is not taken."""
    await bench.store(60)
    former = sealer(bench, 200, Stopped)
    task = asyncio.create_task(former.round())
    await Stopped.is_stopped.wait()
    await sealer(bench, 10).round()
    Stopped.goes_on.set()
    await task
    assert not await breaks(bench.clickhouse, bench.stream, {}, 1)
    assert {seal.sealed_by for seal in await chain(bench.clickhouse, bench.stream)} == {"Sealer 10"}
    assert sum(seal.rows for seal in await chain(bench.clickhouse, bench.stream)) == 60 * bench.partitions
    assert exit_code(await bench.audit(check_seals=True)) == 0


async def test_a_token_without_its_seal_is_overcome(bench: SealBench) -> None:
    """Acknowledged and not there: another token, when no seal can be in flight any more."""
    await bench.store(30)
    await sealer(bench, 100).round()
    await bench.clickhouse.command("ALTER TABLE seals DELETE WHERE 1", {}, {"mutations_sync": 2})
    again = sealer(bench, 100)
    await again.round()
    await again.round()
    assert await chain(bench.clickhouse, bench.stream) == []
    again.clock.seconds = SETTLE_S  # type: ignore[attr-defined]
    await again.round()
    assert sum(seal.rows for seal in await chain(bench.clickhouse, bench.stream)) == 30 * bench.partitions


async def test_the_end_of_a_former_stream_is_sealed(bench: SealBench) -> None:
    """Rows of a topic that is no more are sealed by whoever has the partition now, and may expire then."""
    await bench.insert(
        *(bench.record(partition, offset, stream="former") for partition in (0, 40) for offset in range(9))
    )
    report = await bench.audit()
    assert [verdict.rows for verdict in report.former] == [18]
    await asyncio.sleep(0.3)  # the age of a seal's rows by the server's clock
    await sealer(bench, 100).round()
    assert [(seal.partition, seal.last) for seal in await chain(bench.clickhouse, "former")] == [(0, 8), (40, 8)]
    await bench.expire("stream = 'former' AND raw_offset > 3")
    report = await bench.audit(check_seals=True)
    assert (exit_code(report), [verdict.rows for verdict in report.former]) == (0, [18])
    await bench.expire("stream = 'former'")
    report = await bench.audit()
    assert (exit_code(report), [verdict.rows for verdict in report.former]) == (0, [18])
