"""Rewinding the enricher: `clickledger refill` asks, the partition's owner does it.

A gap in `clicks.enriched` (its topic lost records, or was made anew) is healed by enriching from the first missing raw
offset again. Nobody but the partition's owner may move its committed offset, since the owner's next commit would undo
it. So the request is a record in the catalog, kind `control`, and its execution is *one commit* by the owner: the
commit carries the earlier offset and, in its metadata, the ids of the requests that are done. It can therefore neither
be lost nor, once committed, be done a second time by accident (doing it twice would only write copies).

It keeps "before any enriched record of offset o stand all lower offsets": the owner does it between two batches, when
nothing is outstanding, goes back only, and goes up from there without holes. The sink drops the copies.

The one way forward is `accept_lost`: raw records that Kafka no longer has cannot be enriched, so the operator says from
which offset to go on. The sink stops at that gap until it is accepted there too.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from shared.catalog import Catalog, CatalogWriter, Kind
from shared.enriched import enricher_group
from shared.errors import TransientError
from shared.kafka import Admin, Committed, Producer
from shared.settings import KafkaSettings

METADATA_PREFIX: Final = "v1:"
IDS_MAX: Final = 64
"""Requests remembered in a commit's metadata (17 bytes each; Kafka's limit is 4,096)."""
POLL_SECONDS: Final = 0.2


class Request(NamedTuple):
    """One wish to enrich a partition again from `raw_offset`."""

    id: str
    raw_offset: int
    accept_lost: bool
    """Go *forward* to `raw_offset`: everything below it that is not enriched yet is given up."""


class Outcome(NamedTuple):
    """What the owner of a partition did."""

    partition: int
    next_offset: int
    """The committed offset when the request was seen done: at or after the rewound one."""


def control_key(stream: str, partition: int, request_id: str) -> str:
    """The id of a request's catalog record."""
    return f"refill/{stream}/{partition}/{request_id}"


def encode_metadata(done: Iterable[str]) -> str:
    """The commit metadata: which requests this position includes."""
    ids = sorted(done)[-IDS_MAX:]
    return METADATA_PREFIX + ",".join(ids) if ids else ""


def decode_metadata(metadata: str) -> frozenset[str]:
    """The ids in a commit's metadata; none for metadata that is not ours."""
    if not metadata.startswith(METADATA_PREFIX):
        return frozenset()
    return frozenset(filter(None, metadata[len(METADATA_PREFIX) :].split(",")))


def pending_requests(catalog: Catalog, stream: str) -> dict[int, tuple[Request, ...]]:
    """The requests that the catalog holds for a stream, by partition, done or not. Others' records are ignored."""
    found: dict[int, tuple[Request, ...]] = {}
    for name, value in catalog.scan(Kind.CONTROL):
        match name.split("/"):
            case ["refill", of_stream, partition, request_id] if of_stream == stream and partition.isdecimal():
                if (request := _request(request_id, orjson.loads(value))) is not None:
                    found[int(partition)] = (*found.get(int(partition), ()), request)
    return found


def _request(request_id: str, record: Mapping[str, Any]) -> Request | None:
    raw_offset, accept_lost = record.get("raw_offset"), record.get("accept_lost", False)
    if type(raw_offset) is not int or raw_offset < 0 or type(accept_lost) is not bool:
        return None
    return Request(request_id, raw_offset, accept_lost)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a partition goes on, and which requests that includes."""

    next_offset: int
    done: frozenset[str] = frozenset()

    @property
    def committed(self) -> Committed:
        """As it is committed."""
        return Committed(self.next_offset, encode_metadata(self.done))


def position_of(committed: Committed | None, start_offset: int) -> Position:
    """The position of a group's commit; the stream's start offset where there is none."""
    if committed is None:
        return Position(start_offset)
    return Position(committed.next_offset, decode_metadata(committed.metadata))


def rewound(position: Position, requests: Iterable[Request], start_offset: int) -> Position:
    """The position after the requests that it does not include yet; done ones that left the catalog are forgotten.

    Goes back to the lowest wanted offset, but not before the stream's start; forward only for `accept_lost`.
    """
    wanted = tuple(requests)
    new = [request for request in wanted if request.id not in position.done]
    offset = position.next_offset
    for request in new:
        if request.accept_lost:
            offset = max(offset, request.raw_offset)
    for request in new:
        if not request.accept_lost:
            offset = min(offset, max(request.raw_offset, start_offset))
    return Position(offset, frozenset(request.id for request in wanted))


async def ask(
    writer: CatalogWriter, stream: str, raw_offsets: Mapping[int, int], *, accept_lost: bool = False
) -> dict[int, str]:
    """Write the requests (partition -> first raw offset) and return their ids; done as soon as an enricher runs."""
    ids = {partition: f"{time.time_ns() // 1_000_000:x}{secrets.token_hex(3)}" for partition in raw_offsets}
    for partition, raw_offset in raw_offsets.items():
        record = {"v": 1, "raw_offset": raw_offset, "accept_lost": accept_lost}
        await writer.put(Kind.CONTROL, control_key(stream, partition, ids[partition]), record)
    return ids


async def request(
    kafka: KafkaSettings,
    stream: str,
    raw_offsets: Mapping[int, int],
    *,
    accept_lost: bool = False,
    timeout_s: float = 60,
) -> list[Outcome]:
    """Have partitions enriched again from the given raw offsets (partition -> first missing raw offset), and wait.

    Returns when every owner has committed the rewound position; enriching itself goes on after that. With
    `accept_lost` the owner goes *forward* to the offset instead (records lost from Kafka). Raises TransientError when
    no enricher did it within `timeout_s`: the request stands and is done as soon as one runs.
    """
    producer = Producer(kafka, "clickledger-refill")
    await producer.start()
    try:
        writer = CatalogWriter(kafka, producer)
        ids = await ask(writer, stream, raw_offsets, accept_lost=accept_lost)
        outcomes = await _wait_until_done(kafka, stream, ids, timeout_s)
        for partition, request_id in ids.items():
            await writer.put(Kind.CONTROL, control_key(stream, partition, request_id), None)
    finally:
        await producer.close()
    return outcomes


async def _wait_until_done(
    kafka: KafkaSettings, stream: str, ids: Mapping[int, str], timeout_s: float
) -> list[Outcome]:
    deadline = time.monotonic() + timeout_s
    outcomes: dict[int, Outcome] = {}
    async with Admin(kafka, "clickledger-refill") as admin:
        while True:
            waiting = sorted(ids.keys() - outcomes.keys())
            if not waiting:
                return [outcomes[partition] for partition in sorted(outcomes)]
            if time.monotonic() >= deadline:
                raise TransientError(
                    f"refill of {kafka.topic_raw} partitions {waiting}: no enricher did it within {timeout_s} s; "
                    "the request stands and is done when one runs"
                )
            for partition, committed in (await _committed(admin, kafka, stream, waiting)).items():
                if committed is not None and ids[partition] in decode_metadata(committed.metadata):
                    outcomes[partition] = Outcome(partition, committed.next_offset)
            await asyncio.sleep(POLL_SECONDS)


async def _committed(
    admin: Admin, kafka: KafkaSettings, stream: str, partitions: list[int]
) -> dict[int, Committed | None]:
    try:
        return await admin.committed(enricher_group(stream), kafka.topic_raw, partitions)
    except TransientError:
        return {}  # unknown for now: asked again until the deadline
