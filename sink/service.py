"""The sink's composition root: reads the environment, checks, builds the parts, runs them.

Scale: any number of processes, up to the number of partitions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from shared import metrics
from shared.alarms import Alarms, Silence
from shared.catalog import Catalog, CatalogFollower, Kind
from shared.catalog.store import heard_file
from shared.clickhouse import ClickHouse
from shared.errors import ClickledgerError, DataError, OperatorError, StreamReplaced, TransientError
from shared.runtime import Runtime, instance_slot, keep_memory, run_service, spare_collector
from shared.settings import CatalogSettings, ClickHouseSettings, KafkaSettings, RuntimeSettings, SinkSettings, load
from shared.tasks import end
from sink.blocks import Limits, age_limit_ms
from sink.directory import Directory
from sink.member import Member, Stream
from sink.ports import Bounds
from sink.sealing import SealLimits
from sink.start import check_server, check_topics
from sink.table import Store
from sink.watch import SERVICE, Alarm

log = logging.getLogger(__name__)

T = TypeVar("T")

KINDS: Final = (Kind.STREAM, Kind.TENANT, Kind.PROMOTION)
"""What the sink keeps of the catalog."""
FETCHED_OBJECTS_MAX: Final = 100_000
"""Those of all records of a fetch, three each, which are gone before the next one: no reason to look for cycles."""
RETRY_S: Final = 1.0
FINISH_SHARE: Final = 0.4
"""Of the time for a graceful stop, how much the blocks at hand may take; the rest is for leaving Kafka and for closing."""


def main() -> int:
    """Run the sink as the environment says, until SIGTERM; the exit code."""
    runtime_settings, settings = load(RuntimeSettings), load(SinkSettings)
    kafka, clickhouse_settings, catalog = load(KafkaSettings), load(ClickHouseSettings), load(CatalogSettings)

    async def serve(runtime: Runtime) -> None:
        keep_memory()
        spare_collector(FETCHED_OBJECTS_MAX)
        async with ClickHouse(clickhouse_settings) as clickhouse:
            await store_until_stopped(runtime, settings, kafka, clickhouse, catalog)

    return run_service(SERVICE, runtime_settings, serve, health_port=settings.sink_health_port)


async def store_until_stopped(
    runtime: Runtime,
    settings: SinkSettings,
    kafka: KafkaSettings,
    clickhouse: ClickHouse,
    catalog_settings: CatalogSettings,
) -> None:
    """Build everything and work until the runtime is to stop."""
    slot = instance_slot(runtime.settings, SERVICE)
    folder = runtime.settings.data / "catalog-sink"
    following = asyncio.ensure_future(CatalogFollower(catalog_settings, kafka, folder, KINDS).run())
    catalog = Catalog(catalog_settings, folder)
    progress = _Progress(runtime)
    silence = Silence(SERVICE, Alarm.STALLED, kafka.kafka_bootstrap, log)
    runtime.checks.append(silence.why_not_ready)
    background = [
        following,
        asyncio.ensure_future(silence.watch(heard_file(folder))),
    ]
    try:
        stream = await progress.until("stream record", lambda: _find_stream(catalog, kafka.topic_raw))
        partitions = await progress.until("topics", lambda: check_topics(kafka, len(stream.start_offsets)))
        raw_times = await progress.until("ClickHouse", lambda: check_server(clickhouse, settings))
        store = Store(
            clickhouse,
            raw_times=raw_times,
            inserts_at_once=settings.sink_inserts_at_once,
            insert_timeout_s=settings.sink_insert_timeout_ms / 1000,
        )
        background.append(asyncio.ensure_future(Directory(catalog, clickhouse, store.settings).run()))

        def new_member() -> Member:
            return Member(
                kafka,
                store,
                stream,
                instance_id=slot.instance_id,
                limits=block_limits(settings, partitions),
                bounds=Bounds(
                    settings.sink_answer_age_ms_max / 1000,
                    settings.sink_insert_timeout_ms / 1000,
                    second_tokens=not clickhouse.cluster,
                ),
                buffer_bytes_max=settings.sink_buffer_bytes_max,
                seal_limits=SealLimits(
                    settings.sink_seal_every_ms, settings.sink_seal_age_ms, settings.sink_seal_rows_max
                ),
                partitions=partitions,
            )

        await _until_replaced(_work(runtime, progress, new_member), catalog, kafka.topic_raw, stream.id)
    except _Stopped:
        log.info("stopped before it was ready")
    finally:
        await end(*background)
        catalog.close()


def block_limits(settings: SinkSettings, partitions: int) -> Limits:
    """When blocks are due for a topic of so many partitions."""
    return Limits(
        rows_max=settings.sink_block_rows_max,
        bytes_max=settings.sink_block_bytes_max,
        age_ms=age_limit_ms(settings.sink_block_age_ms, partitions, settings.sink_inserts_per_second),
    )


class _Stopped(Exception):
    """Told to stop before the start was finished."""


class _Progress:
    """The start, step by step: what it waits for stands in readiness, and what a human must mend is an alarm.

    Nothing that a server, a topic or a password can be ends the process: a restart would only ask the same again.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._waiting = "starting"
        self._alarms = Alarms[Alarm](SERVICE, "start", log)
        runtime.checks.append(lambda: self._waiting)

    async def until(self, what: str, step: Callable[[], Awaitable[T]]) -> T:
        """Do a step until it works. Raises _Stopped."""
        while True:
            try:
                result = await step()
            except (TransientError, OperatorError, DataError) as exc:
                self.failed(what, exc)
            else:
                self._alarms.clear_alarm(Alarm.START)
                return result
            if await self._runtime.pause(RETRY_S):
                raise _Stopped

    def done(self) -> None:
        """The start is finished."""
        self._waiting = ""

    def failed(self, what: str, exc: ClickledgerError) -> None:
        """Count it and show it."""
        before, self._waiting = self._waiting, f"{what}: {exc}"
        if isinstance(exc, TransientError):
            metrics.errors.labels(SERVICE, "transient").inc()
            self._alarms.clear_alarm(Alarm.START)
            if self._waiting != before:
                log.warning("not started yet: %s", self._waiting)
        else:
            metrics.errors.labels(SERVICE, "operator").inc()
            self._alarms.raise_alarm(Alarm.START, self._waiting)


async def _find_stream(catalog: Catalog, topic: str) -> Stream:
    catalog.refresh()
    record = catalog.stream(topic) if catalog.is_ready else None
    if record is not None:
        return Stream(record["stream"], record["start_offsets"])
    if catalog.is_current:
        raise OperatorError(f"the catalog has no stream for topic {topic}: run `clickledger setup`")
    raise TransientError("the catalog is not complete yet")


async def _until_replaced(working: Coroutine[Any, Any, None], catalog: Catalog, topic: str, stream: str) -> None:
    """Work, and look at the catalog meanwhile.

    Raises StreamReplaced: to this stream's sink the new one's clicks are foreign records.
    """
    task = asyncio.ensure_future(working)
    try:
        while not task.done():
            catalog.refresh()
            metrics.catalog_version.labels(SERVICE).set(catalog.version)
            metrics.catalog_age.labels(SERVICE).set(catalog.age_ms / 1000)
            record = catalog.stream(topic)
            if record is not None and record["stream"] != stream:
                raise StreamReplaced(f"{topic} is now stream {record['stream']}, not {stream} any more")
            await asyncio.wait([task], timeout=RETRY_S)
        await task
    finally:
        await end(task)


async def _work(runtime: Runtime, progress: _Progress, new_member: Callable[[], Member]) -> None:
    """Work as a member of the group; while Kafka cannot be joined, try again. Raises _Stopped."""
    finish_s = FINISH_SHARE * runtime.settings.stop_deadline_ms / 1000

    async def joined() -> Member:
        member = new_member()
        await member.start()
        return member

    while not runtime.stopping.is_set():
        member = await progress.until("joining the group", joined)
        progress.done()  # from here on the member says what stands still

        def why_not(member: Member = member) -> str:
            return "; ".join(member.alarms)

        runtime.checks.append(why_not)
        try:
            await member.run(runtime.stopping, finish_s)
        except (TransientError, OperatorError) as exc:
            progress.failed("working", exc)
            await runtime.pause(RETRY_S)
        finally:
            runtime.checks.remove(why_not)
