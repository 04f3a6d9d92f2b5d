"""One delivery, from the decision what is in it to the manifest that makes it complete.

The order of the lines of `deliver` is the guarantee; killed after any of them, the next run goes on from what stands in
the target:

1. finish      the last claim without a manifest, with the range and the form that it has
2. decide      the range: from where that claim ended to what is stored now, in every partition
3. claim       put it under the next number, unless somebody has; whose claim stands is carried out
4. write       each file whole, its rows counted again, under a name with its digest, its `.sha256` beside it
5. complete    put the manifest, unless somebody has
6. tidy        delete files of this interval that the manifest does not name: an attempt's whose bytes were others
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from clickledger.deliveries import records
from clickledger.deliveries.records import Claim, File
from clickledger.deliveries.recount import rows_in
from clickledger.deliveries.target import Target
from reporting.edr import pulls
from reporting.edr.columns import Shape
from reporting.edr.pulls import EARLIEST, Expired
from reporting.edr.selection import IN_SPANS, Spans, query_of, span_params
from shared import positions
from shared.clickhouse import ClickHouse
from shared.enriched import Stream
from shared.errors import OperatorError, TransientError
from shared.rte import OFFSET_MAX, Filter

_COUNTS: Final = f"""
SELECT raw_partition, status, count()
FROM clicks
WHERE tenant = {{tenant:String}} AND {IN_SPANS}
GROUP BY raw_partition, status
ORDER BY raw_partition, status
"""  # noqa: S608 # built from constants


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody wants delivered."""

    tenant: str
    every_s: int
    shape: Shape
    file_rows_max: int
    start: str = EARLIEST
    """where the first delivery begins: `earliest`, `latest` or a cursor"""


@dataclass(frozen=True, slots=True)
class Delivered:
    """A complete set."""

    claim: Claim
    manifest: bytes

    @property
    def text(self) -> str:
        """One line about it."""
        rows, files = records.summary(self.manifest)
        return f"{self.claim.folder}: {rows:,} rows in {files:,} files"


@dataclass(frozen=True, slots=True)
class Deliverer:
    """Delivers an order to a target."""

    clickhouse: ClickHouse
    target: Target
    order: Order
    now: Callable[[], float] = time.time

    async def deliver(self, current: Stream) -> list[Delivered]:
        """Finish what was begun, then deliver the last interval that is over; what was completed now.

        Raises OperatorError when rows have expired that are in no delivery, and as ClickHouse and the target do.
        """
        done = []
        last = await self._last()
        if last is not None and (finished := await self._finish(last)):
            done.append(finished)
        claim = await self._claim(current, last)
        if claim is not None and (finished := await self._finish(claim)):
            done.append(finished)
        return done

    async def _last(self) -> Claim | None:
        number = records.latest(await self.target.names(records.CLAIMS))
        return await self._read_claim(number) if number else None

    async def _read_claim(self, number: int) -> Claim:
        value = await self.target.read(records.claim_name(number))
        if value is None:
            raise OperatorError(f"{records.claim_name(number)} has vanished from the target")
        claim = records.decode_claim(value)
        if claim.tenant != self.order.tenant:
            raise OperatorError(
                f"the target holds deliveries of tenant {claim.tenant}: give {self.order.tenant} another"
            )
        return claim

    async def _claim(self, current: Stream, last: Claim | None) -> Claim | None:
        """The claim of the interval that ended last, whoever made it; None when it was delivered already."""
        to_s = int(self.now()) // self.order.every_s * self.order.every_s
        if last is not None and last.to_s >= to_s:
            return None
        try:
            claim = await self._decide(current, last, to_s)
        except Expired as exc:
            raise OperatorError(
                f"{exc}, and they are in no delivery. Begin another target: --start earliest, now {exc.earliest}"
            ) from exc
        await self.target.put_new(records.claim_name(claim.sequence), claim.encode())
        return await self._read_claim(claim.sequence)

    async def _decide(self, current: Stream, last: Claim | None, to_s: int) -> Claim:
        after = last.up_to if last else await pulls.position_of(self.clickhouse, current, self.order.start)
        pull = await pulls.plan(self.clickhouse, current, after, OFFSET_MAX)
        if pull.next.stream != after.stream:  # the former stream is delivered to its end
            after = pull.next
            pull = await pulls.plan(self.clickhouse, current, after, OFFSET_MAX)
        claim = Claim(
            sequence=last.sequence + 1 if last else 1,
            tenant=self.order.tenant,
            from_s=last.to_s if last else to_s - self.order.every_s,
            to_s=to_s,
            after=after,
            up_to=pull.next,
            shape=self.order.shape,
            file_rows_max=self.order.file_rows_max,
        )
        whole = await pulls.first_whole(self.clickhouse, claim.spans)
        if whole != [span.first for span in claim.spans.spans]:
            raise Expired("rows have expired", await pulls.earliest(self.clickhouse, current))
        return claim

    async def _finish(self, claim: Claim) -> Delivered | None:
        """Write what a claim says; None when that was done already."""
        if (manifest := await self.target.read(claim.manifest_name)) is not None:
            await self._tidy(claim, manifest)
            return None
        files = []
        for number, spans in enumerate(claim.files(), 1):
            if file := await self._write(claim, number, spans):
                files.append(file)
        gaps = await positions.accepted_gaps(self.clickhouse, claim.spans.stream)
        manifest = records.encode_manifest(claim, files, gaps)
        if not await self.target.put_new(claim.manifest_name, manifest):
            manifest = await self.target.read(claim.manifest_name) or manifest
        await self._tidy(claim, manifest)
        return Delivered(claim, manifest)

    async def _write(self, claim: Claim, number: int, spans: Spans) -> File | None:
        """One file of a set; None when none of its rows is the tenant's."""
        counts = await self._counts(claim, spans)
        if not counts:
            return None
        file = self.target.workplace / f"{number:05}"
        size, digest = await self._spool(claim, spans, file)
        rows = sum(sum(by_status.values()) for by_status in counts.values())
        await _recount(file, claim.shape, rows)
        name = claim.file_name(number, digest)
        await self.target.put_file(name, file)
        await self.target.put_new(f"{name}.sha256", f"{digest}  {PurePosixPath(name).name}\n".encode())
        file.unlink()
        return File(name, size, digest, rows, counts)

    async def _counts(self, claim: Claim, spans: Spans) -> dict[int, dict[str, int]]:
        """Rows by partition and status. Raises OperatorError where rows of the claim have expired meanwhile."""
        whole = await pulls.first_whole(self.clickhouse, spans)
        if whole != [span.first for span in spans.spans]:
            raise OperatorError(
                f"delivery {claim.sequence}: rows have expired before they were delivered: begin another target"
            )
        counts: dict[int, dict[str, int]] = {}
        params = {"tenant": claim.tenant, **span_params(spans)}
        for partition, status, count in await self.clickhouse.query(_COUNTS, params):
            counts.setdefault(int(partition), {})[str(status)] = int(count)
        return counts

    async def _spool(self, claim: Claim, spans: Spans, file: Path) -> tuple[int, str]:
        """Write the rows to a local file; its size and SHA-256."""
        query = query_of(claim.shape, Filter.of(tenant=claim.tenant), spans)
        digest = hashlib.sha256()
        size = 0
        pieces = self.clickhouse.stream(query.sql, query.format, query.params, query.settings, encoding=query.encoding)
        with file.open("wb") as out:
            async with aclosing(pieces):
                async for piece in pieces:
                    out.write(piece)
                    digest.update(piece)
                    size += len(piece)
        return size, digest.hexdigest()

    async def _tidy(self, claim: Claim, manifest: bytes) -> None:
        named = {claim.manifest_name, *records.files_of(manifest)}
        for name in await self.target.names(claim.folder):
            if name not in named:
                await self.target.delete(name)


async def _recount(file: Path, shape: Shape, rows: int) -> None:
    """Raise TransientError unless a file has the rows that the table counted."""
    try:
        found = await asyncio.to_thread(rows_in, file, shape)
    except (OSError, EOFError) as exc:
        raise TransientError(f"{file.name}: the file is not whole: {exc}") from exc
    if found != rows:
        raise TransientError(
            f"{file.name}: ClickHouse counted {rows:,} rows and wrote {found:,}: the file is not whole"
        )
