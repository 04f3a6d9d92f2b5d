"""Erasing a recipient on real sinks and a real table: nothing personal stays, everything else is proved to be as it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from clickledger.audit import Problem
from clickledger.audit_print import exit_code
from clickledger.erase import begin, find_rows, finish
from clickledger.stack.guard import Guard
from shared.catalog import CatalogWriter, Entry, Kind
from shared.clickhouse import ClickHouse
from shared.erasures import unfinished
from shared.errors import OperatorError
from shared.seals import PERSONAL, chain
from tests.support.seals import SEAL_AT_ONCE, SealBench

_PERSONAL = {
    "recipient": "r7",
    "short_url": "http://go.example/r7",
    "link": "go.example/r7",
    "long_url": "https://shop.example/?customer=7",
    "ip": "203.199.178.211",
    "region": "Maharashtra",
    "city": "Mumbai",
    "asn": 9498,
    "click_digest": "d7",
}
_CLICKS = """
SELECT promotion_id, count()
FROM clicks
WHERE tenant = 'acme' AND status = 'accepted'
GROUP BY promotion_id
SETTINGS optimize_use_projections = {used:UInt8}, force_optimize_projection = {used:UInt8}
"""


@pytest.fixture
async def bench(prepared_env: dict[str, str], guard: Guard, tmp_path: Path) -> AsyncIterator[SealBench]:
    """Topics, stream and table of this test's own."""
    bench = SealBench(guard, tmp_path, prepared_env)
    await bench.open()
    yield bench
    await bench.close()


async def write_clicks(bench: SealBench, count: int, *, partitions: int = 6, recipients: int = 10) -> None:
    """Clicks of recipients `r0`, `r1`, … on some partitions, and one record on each that is no click, of `r7`'s link."""
    for partition in range(partitions):
        first = bench.next_raw[partition]
        bench.next_raw[partition] += count
        records = [
            bench.record(
                partition, first + n, **(_PERSONAL if n % recipients == 7 else {"recipient": f"r{n % recipients}"})
            )
            for n in range(count)
        ]
        raw = '{"v":1,"link":{"recipient":"r7","tenant":"acme"},"click":{'
        records[3] |= {"status": "malformed", "reason": "not_json", "tenant": "", "recipient": "", "raw": raw}
        await bench.write_raw(partition, [record["transaction_id"] for record in records])
        await bench.write(partition, records)


async def store_and_seal(bench: SealBench, count: int) -> None:
    """Write such clicks, store and seal them."""
    await write_clicks(bench, count)
    child = bench.start(**SEAL_AT_ONCE)
    await bench.wait_stored(child)
    await bench.sealed()
    assert child.stop() == 0, child.tail()


async def test_the_command_erases_and_the_proof_stays(bench: SealBench) -> None:
    """Rows, bytes of what was no click, links; projections agree with rows; no trace of the recipient in any table."""
    await store_and_seal(bench, 60)
    link = {"v": 1, "tenant": "acme", "recipient": "r7", "link": "go.example/r7"}
    await CatalogWriter(bench.kafka, bench.producer).put_many(
        [Entry(Kind.TENANT, "acme", {"v": 1, "tenant": "acme"}), Entry(Kind.LINK, "go.example/r7", link)]
    )
    arguments = ("erase", "--tenant", "acme", "--recipient", "r7")
    done = bench.command(*arguments, "--dry-run")
    assert done.returncode == 0, done.stderr
    rows = 7 * bench.partitions
    assert f"would overwrite {rows} rows" in done.stdout
    assert "links that name the recipient: 1, for one go.example/r7" in done.stdout

    done = bench.command(*arguments, "--reason", "request 4711", "--delete-links")
    assert done.returncode == 0, done.stderr
    assert f"{rows} rows overwritten" in done.stdout
    assert "links deleted: 1" in done.stdout
    done = bench.command(*arguments)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "no rows")
    assert "name the recipient" not in done.stdout
    done = bench.command("erase", "--tenant", "acne", "--recipient", "r7", "--reason", "mistyped")
    assert (done.returncode, "no tenant acne" in done.stderr) == (1, True)

    erased = await bench.rows(", ".join(PERSONAL), "raw_offset % 60 IN (3, 7)")
    assert set(erased) == {tuple(0 if name == "asn" else "" for name in PERSONAL)}
    await bench.clickhouse.command("OPTIMIZE TABLE clicks FINAL")
    for table in ("clicks", "seals", "erasures"):
        found = await bench.clickhouse.raw_query(f"SELECT * FROM {table}", "JSONEachRow")
        assert not [text for text in map(str, _PERSONAL.values()) if f'"{text}"'.encode() in found], table
    by_projection, by_rows = [sorted(await bench.clickhouse.query(_CLICKS, {"used": used})) for used in (1, 0)]
    assert by_projection == by_rows
    assert len(set(await bench.rows("recipient", "status = 'accepted'"))) == 10

    report = await bench.audit(wait=True, check_seals=True)
    assert exit_code(report) == 0, report
    reasons = {seal.reason.split(": ")[1] for seal in await chain(bench.clickhouse, bench.stream) if seal.reason}
    assert reasons == {"request 4711"}


class Dies(BaseException):
    """The process is killed here."""


class Mortal(ClickHouse):
    """A client whose process dies before one of its statements, which leaves what dying after the one before leaves."""

    def __init__(self, *arguments: Any, at: int) -> None:
        super().__init__(*arguments)
        self.left = at

    async def _guarded(self, call: Any, what: str) -> Any:
        if not what.startswith("connecting"):
            self.left -= 1
        if self.left == 0:
            call.close()
            raise Dies
        return await super()._guarded(call, what)


async def test_a_kill_at_every_statement_is_finished_by_the_next_run(bench: SealBench) -> None:
    """Between any two statements, with a sink that goes on storing and sealing; then every seal fits its rows."""
    child = bench.start(**SEAL_AT_ONCE)
    await write_clicks(bench, 60, partitions=2, recipients=60)
    await bench.wait_stored(child)
    number = 0
    while await _erase_dying(bench, f"r{59 - number}", at=number + 1):
        await write_clicks(bench, 10, partitions=1, recipients=60)
        number += 1
    assert number > 12
    await bench.wait_stored(child)
    await bench.sealed()
    report = await bench.audit(wait=True, check_seals=True)
    assert exit_code(report) == 0, report
    assert not report.erasures
    left = await bench.rows("recipient", "raw_partition = 1 AND recipient != ''")
    assert len(left) == 60 - (number + 1) - 1


async def _erase_dying(bench: SealBench, recipient: str, *, at: int) -> bool:
    """Erase as the command does with a client that dies at a statement, then with one that does not; whether it died."""
    died = False
    for client in (Mortal(bench.located.clickhouse, at=at), bench.clickhouse):
        try:
            for cut_off in await unfinished(client):
                await finish(client, cut_off)
            if rows := await find_rows(client, "acme", recipient):
                await finish(client, (await begin(client, "acme", rows, "", "me")).id)
        except Dies:
            died = True
        finally:
            if client is not bench.clickhouse:
                await client.close()
    return died


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE country = 'XX' WHERE raw_partition = 0 AND raw_offset = 20",
        "UPDATE ip = '9.9.9.9' WHERE raw_partition = 0 AND raw_offset = 21",
    ],
    ids=["a kept column", "a personal column of another recipient"],
)
async def test_an_erasure_hides_no_other_change(bench: SealBench, change: str) -> None:
    """Changed before: refused, nothing erased. Changed between check and renewal: that seal stays as it was, and broken."""
    await store_and_seal(bench, 40)
    begun = await begin(bench.clickhouse, "acme", await find_rows(bench.clickhouse, "acme", "r7"), "", "me")
    checked = asyncio.Event()
    original = bench.clickhouse.command

    async def command(sql: str, *arguments: Any) -> Any:
        if "UPDATE recipient" in sql and not checked.is_set():
            checked.set()
            await bench.change(change)
        return await original(sql, *arguments)

    bench.clickhouse.command = command  # type: ignore[method-assign]
    outcome = await finish(bench.clickhouse, begun.id)
    assert len(outcome.refused) == 1
    found: Mapping[Any, int] = await bench.problems(check_seals=True)
    assert found == {(0, Problem.SEALED_ALTERED): 1}

    rows = await find_rows(bench.clickhouse, "acme", "r1")
    again = await begin(bench.clickhouse, "acme", rows, "", "me")
    with pytest.raises(OperatorError, match="nothing was erased"):
        await finish(bench.clickhouse, again.id)
    assert await find_rows(bench.clickhouse, "acme", "r1") == rows
    assert await unfinished(bench.clickhouse) == []


async def test_a_table_that_cannot_be_changed(bench: SealBench) -> None:
    """As on a cluster: refused before anything is recorded, so rows are sealed as before."""
    await store_and_seal(bench, 60)
    rows = await find_rows(bench.clickhouse, "acme", "r7")
    await bench.clickhouse.command("RENAME TABLE clicks TO clicks_local")
    await bench.clickhouse.command(
        "CREATE TABLE clicks AS clicks_local ENGINE = Merge(currentDatabase(), '^clicks_local$')"
    )
    try:
        with pytest.raises(OperatorError, match="nothing was erased"):
            await begin(bench.clickhouse, "acme", rows, "", "test")
    finally:
        await bench.clickhouse.command("DROP TABLE clicks")
        await bench.clickhouse.command("RENAME TABLE clicks_local TO clicks")
    assert await unfinished(bench.clickhouse) == []
    assert await find_rows(bench.clickhouse, "acme", "r7") == rows
