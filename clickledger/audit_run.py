"""Reads what the audit judges, from the catalog, Kafka and the table.

The order of reading is the argument that a running system is never accused: what must be lower is read first. The
sink's commits before the table (rows are stored before they are committed), Kafka's first offsets before the table,
Kafka's ends after it (records are in Kafka before they are stored).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from clickledger.audit import (
    PartitionFacts,
    Sample,
    Span,
    Verdict,
    judge,
    judge_partition,
    sample_offsets,
)
from clickledger.audit_seals import SealCount
from clickledger.audit_spools import SpoolFinding, is_settled, judge_spools, spool_id
from clickledger.audit_table import TableReader
from clickledger.directory import read_catalog
from clickledger.located import Located
from enricher.malformed import ids_of_malformed
from enricher.row import UUID, RawRecord
from shared import erasures, positions, seals
from shared.catalog import Kind
from shared.clickhouse import ClickHouse
from shared.errors import OffsetLost, OperatorError, TransientError
from shared.events import MalformedRaw, decode_raw, raw_offset_of
from shared.kafka import Admin, Reader, Record
from sink.member import group_id
from sink.plans import decode_plan

_POLL_S = 0.2
_SPOOL_POLL_S = 0.5  # each look reads the catalog
_RETRY_S = 0.5
_PATIENCE_S = 5.0  # for an audit that does not wait: a coordinator that loads, a reset connection
_READ_S = 20.0  # to read one record of each partition
SAMPLES = 8
"""Positions per partition whose ids are compared, besides the last one."""


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """The current stream, from the catalog."""

    stream: str
    start_offsets: tuple[int, ...]


@dataclass(slots=True)
class AuditReport:
    """Everything that an audit found."""

    current: Verdict
    former: tuple[Verdict, ...] = ()
    """streams of topics that are no more"""
    gaps: tuple[positions.AcceptedGap, ...] = ()
    spools: tuple[Mapping[str, Any], ...] = ()
    """where API machines keep clicks on disk while Kafka does not take them"""
    spool_findings: tuple[SpoolFinding, ...] = ()
    spools_unheard: tuple[str, ...] = ()
    """spools without a sign of life since waiting began"""
    not_stored: dict[int, int] = field(default_factory=dict)
    """partition -> records that were still not stored when waiting ended"""
    seal_count: SealCount | None = None
    """seals that were compared with their rows; None when that was not asked"""
    erasures: tuple[str, ...] = ()
    """ids of erasures that are under way, or were cut off"""

    @property
    def is_clean(self) -> bool:
        """Whether neither a stream nor a spool has a finding."""
        return self.current.is_clean and all(verdict.is_clean for verdict in self.former) and not self.spool_findings


async def read_stream(found: Located) -> tuple[StreamRecord, tuple[Mapping[str, Any], ...]]:
    """Give the current stream and every spool. Raises OperatorError before `setup` has run."""
    async with read_catalog(found.kafka, found.catalog, (Kind.STREAM, Kind.SPOOL)) as catalog:
        record = catalog.stream(found.kafka.topic_raw)
        spools = tuple(orjson.loads(value) for _, value in catalog.scan(Kind.SPOOL))
    if record is None:
        raise OperatorError(f"no stream is known for topic {found.kafka.topic_raw}: run 'clickledger setup'")
    return StreamRecord(record["stream"], tuple(record["start_offsets"])), spools


async def run_audit(found: Located, *, wait: bool, timeout_s: float, check_seals: bool = False) -> AuditReport:
    """Audit the current stream, and former ones as far as the table alone can tell.

    With `check_seals`, read the rows of every seal again that cannot have begun to expire.
    With `wait`, first wait until each spool has said that it holds no click, then until everything that is in Kafka then
    is stored, together at most `timeout_s`. What does not answer for a moment (a broker or a server that restarts) is
    asked again within that time, else for a few seconds.
    Raises TransientError when that does not help, OperatorError when a human must act first.
    """
    deadline = time.monotonic() + (timeout_s if wait else _PATIENCE_S)
    while True:
        try:
            return await _run_once(found, deadline if wait else None, check_seals=check_seals)
        except TransientError:
            if time.monotonic() + _RETRY_S >= deadline:
                raise
            await asyncio.sleep(_RETRY_S)


async def _run_once(found: Located, wait_deadline: float | None, *, check_seals: bool) -> AuditReport:
    record, spools = await read_stream(found)
    before = {spool_id(spool): int(spool["heard_at"]) for spool in spools}
    unheard: list[str] = []
    while wait_deadline is not None:
        unheard = [spool_id(spool) for spool in spools if not is_settled(spool, before)]
        if not unheard or time.monotonic() >= wait_deadline:
            break
        await asyncio.sleep(_SPOOL_POLL_S)
        record, spools = await read_stream(found)
    findings = judge_spools(spools, time.time_ns() // 1_000_000, found.catalog.catalog_spool_silence_ms_max)
    await _check_topics(found)
    raw = Reader(found.kafka, found.kafka.topic_raw, client_id="clickledger-audit")
    enriched = Reader(found.kafka, found.kafka.topic_enriched, client_id="clickledger-audit")
    try:
        await raw.start()
        await enriched.start()
        async with ClickHouse(found.clickhouse) as clickhouse, Admin(found.kafka, "clickledger-audit") as admin:
            count = SealCount() if check_seals else None
            auditor = _Auditor(record, raw, enriched, clickhouse, admin, count)
            not_stored = {} if wait_deadline is None else await auditor.wait(wait_deadline)
            current, gaps = await auditor.audit()
            former = await auditor.audit_former()
            unfinished = tuple(await erasures.unfinished(clickhouse))
    finally:
        await raw.close()
        await enriched.close()
    return AuditReport(current, former, gaps, spools, findings, tuple(unheard), not_stored, count, unfinished)


async def wait_until_stored(found: Located, timeout_s: float) -> tuple[str, dict[int, int]]:
    """Wait until all that is in Kafka now is stored; the stream, and the end offset of each partition at that time.

    Raises TransientError when it is not within `timeout_s`, or something does not answer; OperatorError.
    """
    deadline = time.monotonic() + timeout_s
    record, _ = await read_stream(found)
    await _check_topics(found)
    raw = Reader(found.kafka, found.kafka.topic_raw, client_id="clickledger-audit")
    enriched = Reader(found.kafka, found.kafka.topic_enriched, client_id="clickledger-audit")
    try:
        await raw.start()
        await enriched.start()
        ends = await raw.end_offsets(await raw.partitions())
        async with ClickHouse(found.clickhouse) as clickhouse, Admin(found.kafka, "clickledger-audit") as admin:
            not_stored = await _Auditor(record, raw, enriched, clickhouse, admin, None).wait(deadline)
    finally:
        await raw.close()
        await enriched.close()
    if not_stored:
        raise TransientError(
            f"{sum(not_stored.values()):,} records in Kafka are not stored after {timeout_s:.0f} s: clickledger audit shows where"
        )
    return record.stream, ends


async def _check_topics(found: Located) -> None:
    """Raise OperatorError for a missing topic: a reader would wait for it until its time-out."""
    async with Admin(found.kafka, "clickledger-audit") as admin:
        topics = await admin.topics()
    for topic in (found.kafka.topic_raw, found.kafka.topic_enriched):
        if topic not in topics:
            raise OperatorError(
                f"topic {topic} does not exist though the catalog has its stream: run 'clickledger setup', "
                "then 'clickledger audit' and, where it shows clicks in flight, 'clickledger refill'"
            )


@dataclass(frozen=True, slots=True)
class _Auditor:
    record: StreamRecord
    raw: Reader
    enriched: Reader
    clickhouse: ClickHouse
    admin: Admin
    seal_count: SealCount | None

    @property
    def stream(self) -> str:
        return self.record.stream

    @property
    def _table(self) -> TableReader:
        return TableReader(self.clickhouse, self.seal_count)

    def first_of(self, partition: int) -> int:
        """The expected first offset: the stream's start, 0 for partitions that were added later."""
        starts = self.record.start_offsets
        return starts[partition] if partition < len(starts) else 0

    async def wait(self, deadline: float) -> dict[int, int]:
        """Wait until what Kafka ends with now is stored; what was not, at the deadline (monotonic seconds).

        Stops early when waiting cannot help: rows that were stored are gone.
        """
        partitions = await self.raw.partitions()
        committed = await self._committed()
        gaps = await positions.accepted_gaps(self.clickhouse, self.stream)
        ends = await self.raw.end_offsets(partitions)
        while True:
            waiting: dict[int, int] = {}
            for partition, end in ends.items():
                stored_next = await self._stored_next(partition, gaps)
                if stored_next < end:
                    waiting[partition] = end - stored_next
                if stored_next <= committed.get(partition, -1):
                    return waiting
            if not waiting or time.monotonic() >= deadline:
                return waiting
            await asyncio.sleep(_POLL_S)

    async def _stored_next(self, partition: int, gaps: Sequence[positions.AcceptedGap]) -> int:
        last = await positions.highest(self.clickhouse, self.stream, partition)
        spans = [Span(gap.first, gap.last) for gap in gaps if gap.partition == partition]
        facts = PartitionFacts(partition, self.first_of(partition), stored_last=last, accepted_gaps=spans)
        return judge_partition(facts).stored_next

    async def audit(self) -> tuple[Verdict, tuple[positions.AcceptedGap, ...]]:
        """Judge the current stream."""
        partitions = await self.raw.partitions()
        committed = await self._committed()
        begins = await self.raw.begin_offsets(partitions)
        gaps = await positions.accepted_gaps(self.clickhouse, self.stream)
        starts = {
            partition: self.first_of(partition) for partition in {*partitions, *range(len(self.record.start_offsets))}
        }
        facts = await self._table.facts(self.stream, starts, gaps)
        ends = await self.raw.end_offsets(partitions)
        enriched = await self._last_enriched()
        judged = [
            replace(
                each,
                kafka_first=begins.get(each.partition),
                kafka_end=ends.get(each.partition),
                enriched_last=enriched.get(each.partition),
                committed_last=committed.get(each.partition),
            )
            for each in facts
        ]
        judged = await self._with_samples([await self._table.with_examples(each, self.stream) for each in judged])
        return judge(self.stream, judged), tuple(gaps)

    async def audit_former(self) -> tuple[Verdict, ...]:
        """Judge streams of earlier topics: only the table can be asked, and only for holes and doubles."""
        rows = await self.clickhouse.query(
            "SELECT stream, groupUniqArray(raw_partition) FROM "
            "(SELECT stream, raw_partition FROM clicks GROUP BY stream, raw_partition "  # from the projection
            "UNION ALL SELECT stream, raw_partition FROM seals) "
            "WHERE stream != {stream:String} GROUP BY stream ORDER BY stream",
            {"stream": self.stream},
        )
        verdicts = []
        for stream, partitions in rows:
            gaps = await positions.accepted_gaps(self.clickhouse, stream)
            sealed = await seals.summaries(self.clickhouse, stream)
            starts = {partition: sealed[partition].first if partition in sealed else 0 for partition in partitions}
            facts = [replace(each, has_topic=False) for each in await self._table.facts(stream, starts, gaps)]
            verdicts.append(judge(stream, [await self._table.with_examples(each, stream) for each in facts]))
        return tuple(verdicts)

    async def _committed(self) -> dict[int, int]:
        """The highest raw offset that the sink has committed as stored, per partition."""
        partitions = await self.enriched.partitions()
        group = group_id(self.stream, f"{self.clickhouse.database}.clicks")
        committed = await self.admin.committed(group, self.enriched.topic, partitions)
        plans = {partition: decode_plan(each.metadata) for partition, each in committed.items() if each is not None}
        return {partition: plan.raw_before for partition, plan in plans.items() if plan is not None}

    async def _last_enriched(self) -> dict[int, int]:
        """The raw offset of each partition's last enriched record; partitions without one are left out."""
        partitions = await self.enriched.partitions()
        begins, ends = await self.enriched.begin_offsets(partitions), await self.enriched.end_offsets(partitions)
        wanted = {partition: ends[partition] - 1 for partition in partitions if ends[partition] > begins[partition]}
        records = await read_each(self.enriched, wanted)
        found = {partition: raw_offset_of(record.headers) for partition, record in records.items()}
        return {partition: offset for partition, offset in found.items() if offset is not None}

    async def _with_samples(self, facts: list[PartitionFacts]) -> list[PartitionFacts]:
        """Read the ids of the sampled positions on both sides."""
        wanted = {each.partition: sample_offsets(each, SAMPLES) for each in facts}
        places = [(partition, offset) for partition, offsets in wanted.items() for offset in offsets]
        in_table = await positions.transaction_ids(self.clickhouse, self.stream, places)
        in_kafka = await self._ids_in_kafka(wanted)
        return [
            replace(
                each,
                samples=[
                    _sample(
                        offset, in_kafka.get((each.partition, offset), ()), in_table.get((each.partition, offset), ())
                    )
                    for offset in wanted[each.partition]
                ],
            )
            for each in facts
        ]

    async def _ids_in_kafka(self, wanted: Mapping[int, Sequence[int]]) -> dict[tuple[int, int], tuple[str, ...]]:
        """The ids that the rows of some records may have: one, but for records that another producer wrote."""
        found: dict[tuple[int, int], tuple[str, ...]] = {}
        for index in range(max(map(len, wanted.values()), default=0)):
            batch = {partition: offsets[index] for partition, offsets in wanted.items() if index < len(offsets)}
            for partition, record in (await read_each(self.raw, batch)).items():
                found[partition, record.offset] = self._row_ids(partition, record)
        return found

    def _row_ids(self, partition: int, record: Record) -> tuple[str, ...]:
        key = (record.key or b"").decode("ascii", "replace")
        if UUID.fullmatch(key):
            return (key,)
        raw = RawRecord(self.stream, partition, record.offset, record.key, record.value, record.timestamp)
        try:
            return tuple(ids_of_malformed(raw, decode_raw(record.value)))
        except MalformedRaw:
            return tuple(ids_of_malformed(raw, None))


def _sample(offset: int, in_kafka: Sequence[str], in_table: tuple[str, ...]) -> Sample:
    """Compare with the id in Kafka that the table has, if it has one of them."""
    return Sample(offset, next((one for one in in_kafka if one in in_table), next(iter(in_kafka), None)), in_table)


async def read_each(reader: Reader, offsets: Mapping[int, int]) -> dict[int, Record]:
    """Read the record at one offset of each partition; records that retention has removed meanwhile are left out.

    Raises TransientError when Kafka does not give them in time.
    """
    found: dict[int, Record] = {}
    missing = dict(offsets)
    deadline = time.monotonic() + _READ_S
    while missing:
        reader.assign(missing)
        try:
            while missing.keys() - found.keys():
                for partition, records in (await reader.getmany(timeout_ms=500)).items():
                    found.setdefault(partition, records[0])
                if time.monotonic() > deadline:
                    raise TransientError(f"{reader.topic}: no record at {missing} within {_READ_S:.0f} s")
            break
        except OffsetLost as lost:
            del missing[lost.partition]
    return {partition: record for partition, record in found.items() if record.offset == offsets[partition]}
