"""What the audit reads from the table: rows behind the seals, what the seals say, and the offsets behind the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from clickledger.audit import EXAMPLES_MAX, BrokenSeal, PartitionFacts, Sealed, Span, judge_partition
from clickledger.audit_seals import SealCount, compare_seals
from shared import positions, seals
from shared.clickhouse import ClickHouse

_STATUSES = ("accepted", "duplicate", "rejected", "malformed")


@dataclass(frozen=True, slots=True)
class TableReader:
    """Reads one stream after the other. Every call raises as ClickHouse does."""

    clickhouse: ClickHouse
    seal_count: SealCount | None
    """counts the seals that are compared with their rows; None: none is"""

    async def facts(
        self, stream: str, starts: Mapping[int, int], gaps: Sequence[positions.AcceptedGap]
    ) -> list[PartitionFacts]:
        """What the table says of each partition.

        Read in an order that accuses nobody: what is sealed first, all rows before and after those behind the seals.
        """
        sealed = await self._sealed(stream, starts)
        facts = {partition: PartitionFacts(partition, start) for partition, start in starts.items()}
        for partition, each in sealed.items():
            facts[partition] = replace(facts.get(partition, PartitionFacts(partition, 0)), sealed=each)
        before = await positions.totals(self.clickhouse, stream)
        for partition in before.keys() - facts.keys():
            facts[partition] = PartitionFacts(partition, 0)
        firsts = {partition: each.expected_first for partition, each in facts.items()}
        stored = {each.partition: each for each in await positions.positions(self.clickhouse, stream, firsts, gaps)}
        after = await positions.totals(self.clickhouse, stream)
        broken = await self._broken_seals(stream)
        found = []
        for partition in sorted(facts.keys() | after.keys()):
            known = facts.get(partition, PartitionFacts(partition, 0))
            below = 0
            if partition in after and after[partition].lowest < known.start:
                below = await positions.rows_below(self.clickhouse, stream, partition, known.start)
            known = _with_rows(known, stored.get(partition), before.get(partition), after.get(partition), below)
            spans = [Span(gap.first, gap.last) for gap in gaps if gap.partition == partition]
            found.append(replace(known, accepted_gaps=spans, broken_seals=broken.get(partition, ())))
        return found

    async def _sealed(self, stream: str, starts: Mapping[int, int]) -> dict[int, Sealed]:
        broken: dict[int, list[str]] = {}
        for partition, expected, found in await seals.breaks(self.clickhouse, stream, starts, EXAMPLES_MAX + 1):
            broken.setdefault(partition, []).append(f"a seal begins at raw offset {found} instead of {expected}")
        return {
            partition: Sealed(each.last, each.rows, each.rows_kept, broken.get(partition, ()))
            for partition, each in (await seals.summaries(self.clickhouse, stream)).items()
        }

    async def _broken_seals(self, stream: str) -> Mapping[int, Sequence[BrokenSeal]]:
        if self.seal_count is None:
            return {}
        return await compare_seals(self.clickhouse, stream, self.seal_count)

    async def with_examples(self, facts: PartitionFacts, stream: str) -> PartitionFacts:
        """Look for the offsets behind the numbers, only where there is something to find."""
        verdict = judge_partition(facts)
        if verdict.missing:
            limit = EXAMPLES_MAX + 1 + len(facts.accepted_gaps)
            ranges = await positions.missing_ranges(
                self.clickhouse, stream, facts.partition, facts.expected_first, limit
            )
            facts = replace(
                facts, missing=[span for span in map(Span._make, ranges) if span not in facts.accepted_gaps]
            )
        if verdict.double:
            doubles = await positions.doubled_offsets(
                self.clickhouse, stream, facts.partition, facts.expected_first, EXAMPLES_MAX + 1
            )
            facts = replace(facts, doubles=doubles)
        return facts


def _with_rows(
    facts: PartitionFacts,
    stored: positions.Position | None,
    before: positions.Total | None,
    after: positions.Total | None,
    rows_before: int,
) -> PartitionFacts:
    """Facts with the rows of a partition; `before`, `after`: all its rows, read before and after `stored`."""
    counted = stored or positions.Position(facts.partition, 0, 0, None, 0)
    facts = replace(
        facts,
        rows=counted.rows,
        distinct=counted.distinct,
        stored_last=counted.last,
        rows_before=rows_before,
        statuses={} if after is None else {name: getattr(after, name) for name in _STATUSES},
    )
    if facts.sealed is None:
        return facts
    others = counted.rows_all + rows_before
    least, most = (0 if total is None else total.rows - others for total in (before, after))
    return replace(facts, rows_under_seals=(least, most))
