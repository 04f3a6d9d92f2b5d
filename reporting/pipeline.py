"""How the pipeline behind the reports is: of all tenants together, so in states and times, never in numbers of clicks.

Every part says "unknown" where it cannot be asked. One look serves everybody for `EACH_MS`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from shared import positions
from shared.catalog import Kind
from shared.clickhouse import ClickHouse
from shared.errors import ClickledgerError
from shared.kafka import Reader
from shared.settings import CatalogSettings, KafkaSettings

EACH_MS: Final = 2_000
PATIENCE_S: Final = 3.0
"""Seconds for Kafka, and for ClickHouse, to answer: a page waits for them."""
_FIRST_WAITING_MS: Final = 1_000

_AUDIT: Final = """
SELECT toUnixTimestamp64Milli(audited_at), verdict, findings
FROM audits
ORDER BY audited_at DESC
LIMIT 1
"""
_GAPS: Final = "SELECT count() FROM gaps WHERE stream = {stream:String}"


class PipelineCatalog(Protocol):
    """The part of `shared.catalog.Catalog` that is needed here."""

    def stream(self, topic: str) -> dict[str, Any] | None:
        """The record of a topic's stream."""

    def scan(self, kind: Kind) -> Any:
        """Every record of a kind, as (id, JSON bytes)."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One look. None is "unknown" everywhere."""

    at_ms: int
    has_clickhouse: bool
    has_kafka: bool
    behind_ms: int | None
    """age of the oldest click in Kafka that is no row yet; 0 without one"""
    audit: tuple[int, str, int] | None
    """of the last one: when (ms), verdict, findings"""
    is_audited: bool | None
    accepted_gaps: int | None
    spools: int
    spools_holding: int
    spools_silent: int


class PipelineWatch:
    """Looks when somebody asks, at most every `EACH_MS`; who asks meanwhile waits for the same look."""

    def __init__(
        self, clickhouse: ClickHouse, kafka: KafkaSettings, catalog_settings: CatalogSettings, catalog: PipelineCatalog
    ) -> None:
        self._clickhouse, self._kafka, self._settings, self._catalog = clickhouse, kafka, catalog_settings, catalog
        self._reader: Reader | None = None
        self._lock = asyncio.Lock()
        self._seen: Pipeline | None = None
        self._seen_s = 0.0

    async def look(self) -> Pipeline:
        """The newest look, `EACH_MS` old at most."""
        async with self._lock:
            if self._seen is None or time.monotonic() - self._seen_s > EACH_MS / 1000:
                self._seen = await self._look()
                self._seen_s = time.monotonic()
            return self._seen

    async def close(self) -> None:
        """Disconnect from Kafka."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    async def _look(self) -> Pipeline:
        now_ms = time.time_ns() // 1_000_000
        record = self._catalog.stream(self._kafka.topic_raw)
        stream = record["stream"] if record else ""
        starts = record["start_offsets"] if record else []
        ends, (stored, audits, gaps) = await asyncio.gather(self._ends(), self._table(stream))
        behind_ms = None
        if record is not None and ends is not None and stored is not None:
            behind_ms = await self._behind_ms(now_ms, starts, ends, stored)
        spools = [orjson.loads(value) for _, value in self._catalog.scan(Kind.SPOOL)]
        silence_ms = self._settings.catalog_spool_silence_ms_max
        return Pipeline(
            at_ms=now_ms,
            has_clickhouse=stored is not None,
            has_kafka=ends is not None,
            behind_ms=behind_ms,
            audit=audits[0] if audits else None,
            is_audited=None if audits is None else bool(audits),
            accepted_gaps=gaps,
            spools=len(spools),
            spools_holding=sum(bool(each.get("clicks")) for each in spools),
            spools_silent=sum(now_ms - int(each["heard_at"]) > silence_ms for each in spools),
        )

    async def _table(self, stream: str) -> tuple[dict[int, int] | None, list[tuple[int, str, int]] | None, int | None]:
        """The first offset of each partition that is not stored, the last audit, and accepted gaps; None where unreadable."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                stored = await positions.ends(self._clickhouse, stream)
                gaps = await self._clickhouse.query(_GAPS, {"stream": stream})
                audits = await self._clickhouse.query(_AUDIT)
        except (ClickledgerError, TimeoutError):
            return None, None, None
        found = [(int(at_ms), str(verdict), int(findings)) for at_ms, verdict, findings in audits]
        return stored, found, int(gaps[0][0])

    async def _ends(self) -> dict[int, int] | None:
        """The end offset of each partition of the raw topic; None while Kafka does not answer."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader = await self._connected()
                return await reader.end_offsets(await reader.partitions())
        except (ClickledgerError, TimeoutError):
            await self.close()
            return None

    async def _connected(self) -> Reader:
        if self._reader is None:
            reader = Reader(self._kafka, self._kafka.topic_raw, client_id="clickledger-reporting")
            self._reader = reader
            await reader.start()
        return self._reader

    async def _behind_ms(
        self, now_ms: int, starts: list[int], ends: Mapping[int, int], stored: Mapping[int, int]
    ) -> int | None:
        """The age of the oldest record that is no row yet; None when it cannot be read now."""
        nexts = {p: stored.get(p, starts[p] if p < len(starts) else 0) for p in ends}
        waiting = {partition: nexts[partition] for partition, end in ends.items() if nexts[partition] < end}
        if not waiting:
            return 0
        try:
            async with asyncio.timeout(PATIENCE_S):
                times = await self._times_of(waiting)
        except (ClickledgerError, TimeoutError):  # also records that are gone by now: an audit will say so
            await self.close()
            return None
        return max(0, now_ms - min(times))

    async def _times_of(self, places: Mapping[int, int]) -> list[int]:
        """The timestamps of the records at these places."""
        reader = await self._connected()
        reader.assign(places)
        times: dict[int, int] = {}
        while len(times) < len(places):
            for partition, records in (await reader.getmany(_FIRST_WAITING_MS)).items():
                times.setdefault(partition, records[0].timestamp)
        return list(times.values())
