"""Comparing seals with their rows: deleted, added and altered rows show in the count and in the sums of hashes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clickledger.audit import BrokenSeal, Span
from clickledger.output import progress
from shared import seals
from shared.clickhouse import ClickHouse


@dataclass(slots=True)
class SealCount:
    """How many seals were compared, and how many could not be any more."""

    compared: int = 0
    expired: int = 0
    """rows may have been deleted, or will be within the hour"""


async def compare_seals(clickhouse: ClickHouse, stream: str, count: SealCount) -> Mapping[int, Sequence[BrokenSeal]]:
    """The seals of a stream that differ from their rows, by partition. Raises as ClickHouse does."""
    broken: dict[int, list[BrokenSeal]] = {}
    now_s = await seals.server_time_s(clickhouse)
    with progress() as bar:
        for seal in bar.track(await seals.chain(clickhouse, stream), description="seals"):
            if seal.expires_first_s <= now_s + seals.EXPIRY_MARGIN_S:
                count.expired += 1
                continue
            count.compared += 1
            found = await compare(clickhouse, seal)
            if found is not None:
                broken.setdefault(seal.partition, []).append(found)
    return broken


async def compare(clickhouse: ClickHouse, seal: seals.Seal) -> BrokenSeal | None:
    """What is wrong with a seal; an erasure that renews it meanwhile is not."""
    while True:
        now = await read_sealed(clickhouse, seal)
        if (now.rows, now.digest, now.kept_digest) == (seal.rows, seal.digest, seal.kept_digest):
            return None
        newest = await seals.newest(clickhouse, seal)
        if newest.version == seal.version:
            return BrokenSeal(Span(seal.first, seal.last), seal.rows, now.rows, now.distinct)
        seal = newest


async def read_sealed(clickhouse: ClickHouse, seal: seals.Seal) -> seals.Reading:
    """Read the rows of a seal with the columns that it was made of. Raises OperatorError for a newer release's seal."""
    seals.columns_of(seal)
    place = seal.stream, seal.partition, seal.first, seal.last
    return await seals.read_range(clickhouse, place, seal.gaps, seal.columns_version, {})
