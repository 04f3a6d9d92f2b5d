"""Spools from outside of the API: what lies on a disk, publishing a folder that nobody holds, forgetting a lost one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from clickledger.audit_run import read_stream
from clickledger.audit_spools import spool_id
from clickledger.directory import read_catalog
from clickledger.located import Located
from ingest_api.destination import KafkaDestination
from ingest_api.frames import Damaged, Torn, scan
from ingest_api.replay import Replayer
from ingest_api.spool_folder import SpoolFolder, folders, progress_of, segment_files, side_files
from shared.catalog import CatalogWriter, Kind
from shared.errors import OperatorError, TransientError
from shared.kafka import Admin, Producer
from shared.settings import ApiSettings, load

_CONNECT_S: Final = 15.0
_POLL_S: Final = 0.05
_BATCH_MARGIN_BYTES: Final = 4_096  # room that a Kafka batch needs beside its records


@dataclass(slots=True)
class FolderReport:
    """What every frame of a folder says."""

    folder: str
    segments: int = 0
    bytes: int = 0
    clicks: int = 0
    """still to be sent"""
    oldest_at: int | None = None
    """ms since the epoch, of the oldest of them"""
    torn: int = 0
    """segments whose end was cut off in mid-write: no answer was given for that"""
    damaged: int = 0
    """pieces that are no frame: clicks may be lost there"""
    set_aside: int = 0
    """files that an earlier replay put aside"""

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged and nothing was set aside."""
        return not self.damaged and not self.set_aside

    def as_record(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def spool_root(data: Path) -> Path:
    """Where the API of a data folder keeps its spools."""
    return data / "api" / "spool"


def inspect(path: Path) -> FolderReport:
    """Read every frame of a folder; changes nothing, so its owner may go on meanwhile. Raises OSError."""
    if not (path / "lock").exists():
        raise OperatorError(f"{path} is no spool folder: name one like .clickledger/api/spool/0")
    report = FolderReport(str(path), set_aside=len(side_files(path)))
    for segment in segment_files(path):
        try:
            data = segment.read_bytes()
        except FileNotFoundError:  # sent and deleted meanwhile
            continue
        report.segments += 1
        report.bytes += len(data)
        for piece in scan(data, progress_of(path, segment.name)):
            if isinstance(piece, Damaged):
                report.damaged += 1
            elif isinstance(piece, Torn):
                report.torn += 1
            else:
                report.clicks += 1
                report.oldest_at = piece.click.timestamp_ms if report.oldest_at is None else report.oldest_at
    return report


def inspect_all(root: Path) -> list[FolderReport]:
    """Every folder below a root, by slot."""
    return [inspect(path) for path in folders(root) if (path / "lock").exists()]


async def replay(found: Located, path: Path) -> tuple[int, int]:
    """Publish what a folder holds, as its API would; (clicks published, pieces set aside).

    Raises OperatorError when a process holds the folder or something must be done first, TransientError when Kafka does
    not take the clicks: then what was acknowledged stays done, and the command can be given again.
    """
    inspect(path)
    folder = SpoolFolder.claim(path)
    if folder is None:
        raise OperatorError(f"{path} belongs to a running API process, which sends it by itself")
    try:
        await read_stream(found)  # no click may go to a topic without a stream
        async with Admin(found.kafka, "clickledger-spool") as admin:
            partitions = (await admin.topics()).get(found.kafka.topic_raw, 0)
        if not partitions:
            raise OperatorError(f"topic {found.kafka.topic_raw} does not exist: run 'clickledger setup'")
        return await _replay(found, folder, partitions)
    finally:
        folder.close()


async def _replay(found: Located, folder: SpoolFolder, partitions: int) -> tuple[int, int]:
    kafka = KafkaDestination(
        lambda: Producer(found.kafka, "clickledger-spool"),
        found.kafka.topic_raw,
        ack_timeout_ms=load(ApiSettings).api_ack_timeout_ms,
    )
    replayer = Replayer(kafka, lambda: partitions, found.kafka.kafka_batch_bytes_max - _BATCH_MARGIN_BYTES)
    running = asyncio.create_task(kafka.run())
    try:
        await _until_connected(kafka)
        for segment in list(folder.segments):
            await replayer.replay(folder, segment)
        if folder.registered and folder.is_done:
            writer = CatalogWriter(found.kafka, kafka.producer())
            for record_id in folder.registered:
                await writer.put(Kind.SPOOL, record_id, None)
            folder.note_registered([])
    finally:
        running.cancel()
        await asyncio.wait([running])
    return replayer.replayed, replayer.set_aside


async def _until_connected(kafka: KafkaDestination) -> None:
    deadline = time.monotonic() + _CONNECT_S
    while why_not := kafka.why_not_ready():
        if time.monotonic() >= deadline:
            raise TransientError(why_not)
        await asyncio.sleep(_POLL_S)


async def registered(found: Located) -> list[dict[str, Any]]:
    """Every spool in the catalog."""
    async with read_catalog(found.kafka, found.catalog, (Kind.SPOOL,)) as catalog:
        return [orjson.loads(value) for _, value in catalog.scan(Kind.SPOOL)]


async def hold_clicks(found: Located) -> bool:
    """Whether a spool says that it holds clicks, or nobody can say."""
    try:
        async with asyncio.timeout(_CONNECT_S):
            return any(record.get("clicks") for record in await registered(found))
    except (TimeoutError, TransientError):
        return True


async def forget(found: Located, spool: str, *, who: str, reason: str) -> Mapping[str, Any]:
    """Delete a spool's record for good; its last one. The reason stays in the topic until it is compacted.

    Raises OperatorError when there is none, or when it was heard of a moment ago: it would be there again at once.
    """
    record = next((each for each in await registered(found) if spool_id(each) == spool), None)
    if record is None:
        raise OperatorError(f"the catalog knows no spool {spool}: see 'clickledger spool list'")
    silent_ms = time.time_ns() // 1_000_000 - int(record["heard_at"])
    if silent_ms <= found.catalog.catalog_spool_silence_ms_max:
        raise OperatorError(f"spool {spool} was heard of {silent_ms // 1000} s ago: it is not gone")
    producer = Producer(found.kafka, "clickledger-spool")
    try:
        await producer.start()
        writer = CatalogWriter(found.kafka, producer)
        await writer.put(Kind.SPOOL, spool, {**record, "forgotten_by": who, "reason": reason})
        await writer.put(Kind.SPOOL, spool, None)
    finally:
        await producer.close()
    return record
