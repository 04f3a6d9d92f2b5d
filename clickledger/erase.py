"""Erasing a recipient: the personal columns of its rows are overwritten, and the seals of these rows are renewed.

Positions and everything else stay, so the audit stays clean. All state is in the table `erasures`, by positions and never
by recipient, so whoever comes after a crash can finish what was begun:

1. begun: the rows are named. From now on nothing is sealed (shared/erasures.py), and sealers under way are waited for.
2. verified: each seal of these rows was whole, and the sum of hashes of its *other* rows is recorded.
3. done: the rows were overwritten; each seal whose count, whose hash without the personal columns and whose other rows
   are what they were got a new version. A seal that is not, is left as it was: the audit shows it for ever.

So an erasure cannot pass off another change as its own: what it did not name must be the same to the last bit, and what
it named may differ in the personal columns only.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import orjson

from shared import erasures, seals
from shared.clickhouse import ClickHouse
from shared.erasures import Step
from shared.errors import OperatorError, TransientError

ROWS_MAX: Final = 100_000
"""Rows of one erasure; a recipient with more gets several, one after the other."""
_POLL_S: Final = 0.2

_FIND: Final = """
SELECT stream, raw_partition, raw_offset
FROM clicks
WHERE tenant = {tenant:String} AND recipient = {recipient:String}
    OR raw != '' AND tenant IN ({tenant:String}, '') AND position(raw, {in_raw:String}) > 0
ORDER BY stream, raw_partition, raw_offset
LIMIT {limit:UInt32}
"""
"""Rows of a recipient; and rows that are no clicks, in whose bytes the recipient's link stands."""
_TOUCHED: Final = (
    "(stream, raw_partition, raw_offset) IN (SELECT arrayJoin(positions) FROM erasures FINAL WHERE id = {id:UUID})"
)
_IS_ERASED: Final = " AND ".join(f"{name} = {value}" for name, value in seals.PERSONAL.items())
_VALUES: Final = ", ".join(f"{name} = {value}" for name, value in seals.PERSONAL.items())
_OVERWRITE: Final = "ALTER TABLE clicks UPDATE {values} WHERE {touched} AND NOT ({is_erased})"
_COMPARE: Final = """
SELECT count(), sum(digest), sum(kept_digest), sumIf(digest, NOT is_touched), countIf(is_touched AND NOT is_erased)
FROM
(
    SELECT {touched} AS is_touched, {is_erased} AS is_erased, {digest} AS digest, {kept_digest} AS kept_digest
    FROM clicks
    WHERE stream = {{stream:String}} AND raw_partition = {{partition:UInt16}}
        AND raw_offset BETWEEN {{first:UInt64}} AND {{last:UInt64}}
)
"""
_ENGINE: Final = "SELECT engine FROM system.tables WHERE database = currentDatabase() AND name = 'clicks'"
_RECORD: Final = """
SELECT step, tenant, rows, positions, seals, reason, erased_by
FROM erasures FINAL
WHERE id = {id:UUID}
"""


class SealedRest(NamedTuple):
    """A seal that is to be renewed, and the sum of hashes of those of its rows that are not to change."""

    stream: str
    partition: int
    first: int
    version: int
    rest_digest: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """The newest record of an erasure."""

    id: str
    step: Step
    tenant: str
    rows: int
    positions: tuple[tuple[str, int, int], ...] = ()
    sealed: tuple[SealedRest, ...] = ()
    reason: str = ""
    erased_by: str = ""

    @property
    def seal_reason(self) -> str:
        """The reason of the seals that it renews."""
        return f"erase {self.id}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an erasure did."""

    erasure: Erasure
    renewed: int
    """seals with a new version"""
    refused: tuple[str, ...] = ()
    """seals that were not renewed, because more than the erasure had changed"""


class _Compared(NamedTuple):
    rows: int
    digest: int
    kept_digest: int
    rest_digest: int
    not_erased: int


async def find_rows(clickhouse: ClickHouse, tenant: str, recipient: str) -> list[tuple[str, int, int]]:
    """Where the recipient's rows stand (stream, partition, raw offset), at most `ROWS_MAX`. Raises as ClickHouse does."""
    in_raw = f'"recipient":{orjson.dumps(recipient).decode()}'
    params = {"tenant": tenant, "recipient": recipient, "in_raw": in_raw, "limit": ROWS_MAX}
    return [(str(s), int(p), int(o)) for s, p, o in await clickhouse.query(_FIND, params)]


async def begin(
    clickhouse: ClickHouse, tenant: str, positions: Sequence[tuple[str, int, int]], reason: str, who: str
) -> Erasure:
    """Record a new erasure. Raises TransientError when another one began at the same time.

    Raises OperatorError, with nothing recorded, when the table's rows cannot be changed: an erasure that has begun and never
    ends would keep all rows from being sealed.
    """
    ((engine,),) = await clickhouse.query(_ENGINE)
    if not engine.endswith("MergeTree"):
        raise OperatorError(
            f"table clicks has engine {engine}, whose rows cannot be changed: erasing does not work on a cluster; nothing was erased"
        )
    erasure = Erasure(str(uuid.uuid4()), Step.BEGUN, tenant, len(positions), tuple(positions), (), reason, who)
    await _record(clickhouse, erasure)
    others = [each for each in await erasures.unfinished(clickhouse) if each != erasure.id]
    if others:
        await _close(clickhouse, erasure, Step.GIVEN_UP)
        raise TransientError(f"erasure {others[0]} began at the same time: try again")
    return erasure


async def finish(clickhouse: ClickHouse, erasure_id: str) -> Outcome:
    """Bring an erasure to its end from wherever it is; harmless when it is there already.

    Raises OperatorError when a seal does not verify: then nothing was changed, and the erasure is given up.
    """
    erasure = await read(clickhouse, erasure_id)
    if erasure.step == Step.BEGUN:
        await _wait_for_sealers(clickhouse)
        erasure = await _verify(clickhouse, erasure)
    if erasure.step != Step.VERIFIED:
        return Outcome(erasure, 0)
    overwrite = _OVERWRITE.format(values=_VALUES, touched=_TOUCHED, is_erased=_IS_ERASED)
    await clickhouse.command(overwrite, {"id": erasure.id}, {"mutations_sync": 2})
    renewed, refused = 0, []
    for rest in erasure.sealed:
        why = await _renew(clickhouse, erasure, rest)
        renewed += not why
        refused += [why] if why else []
    await _close(clickhouse, erasure, Step.DONE)
    return Outcome(erasure, renewed, tuple(refused))


async def _wait_for_sealers(clickhouse: ClickHouse) -> None:
    """Wait until what sealers announced before they could see us is sealed, or never will be."""
    while True:
        if not await erasures.announced(clickhouse):
            return
        await asyncio.sleep(_POLL_S)


async def read(clickhouse: ClickHouse, erasure_id: str) -> Erasure:
    """The newest record of an erasure. Raises as ClickHouse does."""
    ((step, tenant, rows, positions, sealed, reason, who),) = await clickhouse.query(_RECORD, {"id": erasure_id})
    return Erasure(
        *(erasure_id, Step(step), tenant, rows, tuple(tuple(each) for each in positions)),
        *(tuple(SealedRest(*each) for each in sealed), reason, who),
    )


async def _verify(clickhouse: ClickHouse, erasure: Erasure) -> Erasure:
    """Check each seal of the rows, and record what must be the same afterwards."""
    sealed = []
    for seal in await touched_seals(clickhouse, erasure.positions):
        now = await _compare(clickhouse, erasure, seal)
        if (now.rows, now.digest, now.kept_digest) != (seal.rows, seal.digest, seal.kept_digest):
            latest = await read(clickhouse, erasure.id)
            if latest.step != Step.BEGUN:  # somebody else is at it
                return latest
            await _close(clickhouse, erasure, Step.GIVEN_UP)
            raise OperatorError(
                f"partition {seal.partition}: the seal of raw offsets {seal.first} to {seal.last} does not fit its rows, "
                "and erasing now would hide what was changed: see `clickledger audit --seals`; nothing was erased"
            )
        sealed.append(SealedRest(seal.stream, seal.partition, seal.first, seal.version, now.rest_digest))
    verified = replace(erasure, step=Step.VERIFIED, sealed=tuple(sealed))
    await _record(clickhouse, verified)
    return verified


async def touched_seals(clickhouse: ClickHouse, positions: Sequence[tuple[str, int, int]]) -> list[seals.Seal]:
    """The seals that cover some of the positions and can still be compared. Raises as ClickHouse does."""
    offsets: dict[tuple[str, int], list[int]] = {}
    for stream, partition, offset in positions:
        offsets.setdefault((stream, partition), []).append(offset)
    now_s = await seals.server_time_s(clickhouse)
    return [
        seal
        for (stream, partition), wanted in sorted(offsets.items())
        for seal in await seals.chain(clickhouse, stream, partition)
        if seal.expires_first_s > now_s + seals.EXPIRY_MARGIN_S
        and any(seal.first <= offset <= seal.last for offset in wanted)
    ]


async def _renew(clickhouse: ClickHouse, erasure: Erasure, rest: SealedRest) -> str:
    """Write a seal's next version; why not, when other rows or columns than the erasure's have changed."""
    found = [each for each in await seals.chain(clickhouse, rest.stream, rest.partition) if each.first == rest.first]
    if len(found) != 1:
        return f"partition {rest.partition}: {len(found)} seals begin at raw offset {rest.first}"
    (seal,) = found
    if seal.version > rest.version:
        return ""
    now = await _compare(clickhouse, erasure, seal)
    if (now.rows, now.kept_digest, now.rest_digest, now.not_erased) != (
        *(seal.rows, seal.kept_digest, rest.rest_digest, 0),
    ):
        return f"partition {seal.partition}, raw offsets {seal.first} to {seal.last}"
    renewed = replace(
        seal,
        version=seal.version + 1,
        digest=now.digest,
        reason=erasure.seal_reason,
        sealed_by=erasure.erased_by,
    )
    token = f"{renewed.token}-{uuid.uuid4().hex}"  # against the client's own repetition only: one erasure at a time
    await seals.write_seal(clickhouse, renewed, token, erasures.INSERT_S)
    return ""


async def _compare(clickhouse: ClickHouse, erasure: Erasure, seal: seals.Seal) -> _Compared:
    columns = seals.columns_of(seal)
    sql = _COMPARE.format(
        touched=_TOUCHED,
        is_erased=_IS_ERASED,
        digest=seals.row_digest(columns),
        kept_digest=seals.row_digest(seals.kept_columns(seal.columns_version)),
    )
    params = {
        "id": erasure.id,
        "stream": seal.stream,
        "partition": seal.partition,
        "first": seal.first,
        "last": seal.last,
    }
    ((rows, digest, kept, rest, not_erased),) = await clickhouse.query(sql, params)
    return _Compared(int(rows), int(digest), int(kept), int(rest), int(not_erased))


async def _record(clickhouse: ClickHouse, erasure: Erasure) -> None:
    row: dict[str, Any] = {
        "id": erasure.id,
        "step": int(erasure.step),
        "tenant": erasure.tenant,
        "rows": erasure.rows,
        "positions": erasure.positions,
        "seals": [(*each[:4], str(each.rest_digest)) for each in erasure.sealed],
        "reason": erasure.reason,
        "erased_by": erasure.erased_by,
    }
    await clickhouse.insert_bytes("erasures", orjson.dumps(row), {"async_insert": 0})


async def _close(clickhouse: ClickHouse, erasure: Erasure, step: Step) -> None:
    """Record the end, without positions, and have the earlier records go."""
    await _record(clickhouse, replace(erasure, step=step, positions=(), sealed=()))
    await clickhouse.command("OPTIMIZE TABLE erasures FINAL")
