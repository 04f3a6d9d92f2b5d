"""One enricher process in the consumer group: fetches for all its partitions, one worker for each.

At a revoke the workers are cancelled before the partitions go to others. Partitions are shared by any number of
processes; each is a static member (host and locked slot), so that a restarted one gets its partitions back at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from enricher import metrics
from enricher.catalog_gate import CatalogGate
from enricher.feed import Feed
from enricher.metrics import SERVICE, Alarm
from enricher.producing import Producing
from enricher.refill import Request, pending_requests
from enricher.row import Tools
from enricher.worker import OPERATOR_RETRY_S, PartitionWorker
from shared.alarms import Alarms
from shared.catalog import Catalog
from shared.enriched import enricher_group
from shared.errors import ClickledgerError, ClientBroken, NotOwned, OffsetLost, OperatorError, TransientError
from shared.kafka import Assignment, Committed, Consumer, Producer
from shared.metrics import catalog_age, catalog_version, errors
from shared.settings import KafkaSettings

log = logging.getLogger(__name__)

POLL_MS: Final = 20
"""How long one look for fetched records waits: a partition that is released in between waits this long at most."""
GATHER_MS: Final = 20
"""At a thousand clicks a second: ten to a fetch instead of one or two."""
FETCH_BYTES_MAX: Final = 8 << 20
"""Of one answer. With many partitions it holds some of them, others the next time: all at once would be in memory for nothing."""
RETRY_S: Final = 1.0
KAFKA_CLOSE_S: Final = 3.0
"""For leaving the group and closing the connections."""
LAG_EVERY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Stream:
    """The stream that is enriched (catalog kind `stream`)."""

    id: str
    start_offsets: Sequence[int]

    def start_offset(self, partition: int) -> int:
        """The first offset of a partition; partitions that were added later begin at 0."""
        return self.start_offsets[partition] if partition < len(self.start_offsets) else 0


class _PartitionGroup:
    """`worker.Group` on a consumer and one assignment."""

    def __init__(self, consumer: Consumer, assignment: Assignment) -> None:
        self._consumer = consumer
        self._assignment = assignment

    @property
    def is_active(self) -> bool:
        return self._assignment.is_active

    async def committed(self) -> Committed | None:
        partition = self._assignment.partition
        if not self.is_active:
            raise NotOwned(f"{self._consumer.topic}/{partition}")
        return (await self._consumer.fetch_committed([partition]))[partition]

    async def commit(self, committed: Committed) -> None:
        await self._consumer.commit(self._assignment, committed)

    async def wait_revoked(self, seconds_max: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._assignment.revoked.wait(), seconds_max)


@dataclass(eq=False)
class _Running:
    worker: PartitionWorker[Producer]
    feed: Feed
    task: asyncio.Task[None]


class Member:
    """Runs the workers of the partitions that the group gives to this process."""

    def __init__(
        self,
        kafka: KafkaSettings,
        stream: Stream,
        *,
        instance_id: str,
        producing: Producing,
        tools: Tools,
        catalog: Catalog,
        catalog_wait_s: float,
        look_every_s: float,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._kafka = kafka
        self._stream = stream
        self._producing = producing
        self._tools = tools
        self._catalog = catalog
        self._gate = CatalogGate(catalog, kafka.topic_raw, stream.id, wait_s_max=catalog_wait_s, on_lost=self._abandon)
        self._look_every_s = look_every_s
        self._now_ms = now_ms
        self._running: dict[int, _Running] = {}
        self._requests: Mapping[int, Sequence[Request]] = {}
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping = False
        self._reading = Alarms[Alarm](SERVICE, f"reading {kafka.topic_raw}", log)
        self._consumer = Consumer(
            kafka,
            kafka.topic_raw,
            enricher_group(stream.id),
            service=SERVICE,
            instance_id=instance_id,
            start_offset=stream.start_offset,
            on_assigned=self._on_assigned,
            on_revoked=self._on_revoked,
            on_name_taken=lambda detail: self._reading.raise_alarm(Alarm.NAME_TAKEN, detail),
            gather_ms=GATHER_MS,
            fetch_bytes_max=FETCH_BYTES_MAX,
        )

    @property
    def alarms(self) -> list[str]:
        """Why partitions of ours stand still, for readiness."""
        parts = [self._reading, *(running.worker.alarms for _, running in sorted(self._running.items()))]
        return [f"{each.name}: {alarm}: {detail}" for each in parts for alarm, detail in each.standing.items()]

    async def start(self) -> None:
        """Join the group. Raises TransientError, OperatorError when it cannot be joined."""
        self._gate.refresh()
        self._requests = pending_requests(self._catalog, self._stream.id)
        await self._consumer.start()

    async def run(self, stopping: asyncio.Event, finish_s: float) -> None:
        """Work until `stopping`, finish the batches at hand (at most `finish_s`), leave the group; once only.

        A bug in a worker ends it with that error. Raises TransientError when another member must be built.
        """
        fetching = asyncio.ensure_future(self._fetch())
        looking = asyncio.ensure_future(self._look())
        told = asyncio.ensure_future(stopping.wait())
        waiting: list[asyncio.Future[Any]] = [fetching, looking, told, self._failed]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for ended in (self._failed, looking, fetching):
                if ended.done():
                    ended.result()
        finally:
            for ending in waiting:
                ending.cancel()
            await self._leave(finish_s, leave=stopping.is_set())

    def look_at_catalog(self) -> None:
        """Renew the catalog's snapshot; wake the workers that are asked to rewind. Raises as `CatalogGate.refresh`."""
        if not self._gate.refresh():
            return
        self._requests = pending_requests(self._catalog, self._stream.id)
        for partition in self._requests:
            if partition in self._running:
                self._running[partition].feed.nudge()

    async def _look(self) -> None:
        """Look at the catalog on a timer, so that new promotions, tenants and requests are seen."""
        while True:
            self.look_at_catalog()
            catalog_version.labels("enricher").set(self._catalog.version)
            catalog_age.labels("enricher").set(self._catalog.age_ms / 1000)
            await asyncio.sleep(self._look_every_s)

    async def _leave(self, finish_s: float, *, leave: bool) -> None:
        """End the workers; one that cannot finish its batch is cut off like in a crash: it is written again."""
        self._stopping = True
        busy = [each.task for each in self._running.values() if each.worker.is_busy]
        for each in self._running.values():
            each.worker.stop()
        if busy:
            await asyncio.wait(busy, timeout=finish_s)
        self._reading.drop()
        await self._consumer.close(KAFKA_CLOSE_S, leave=leave)

    def _abandon(self, why: ClickledgerError) -> None:
        """End all enriching on the spot, and then this member."""
        for each in self._running.values():
            each.task.cancel()
        if self._running and not self._failed.done():
            self._failed.set_exception(why)

    async def _fetch(self) -> None:
        looked_at_s = 0.0
        while True:
            try:
                fetched = await self._consumer.getmany(POLL_MS)
            except OffsetLost as lost:
                self._consumer.hold(lost.partition)
                if lost.partition in self._running:
                    self._running[lost.partition].feed.fail(lost)
            except ClientBroken:
                raise  # `run` ends with it; another member is built
            except OperatorError as exc:
                errors.labels(SERVICE, "operator").inc()
                self._reading.raise_alarm(Alarm.PARTITION_STOPPED, str(exc))
                await asyncio.sleep(OPERATOR_RETRY_S)
            except TransientError as exc:
                errors.labels(SERVICE, "transient").inc()
                log.warning("reading: %s", exc)
                await asyncio.sleep(RETRY_S * random.uniform(0.5, 1.5))  # noqa: S311  # jitter
            else:
                self._reading.clear_alarm(Alarm.PARTITION_STOPPED)
                self._hand_out(fetched)
            if time.monotonic() - looked_at_s >= LAG_EVERY_S:
                looked_at_s = time.monotonic()
                self._show_gauges()

    def _hand_out(self, fetched: Mapping[int, Sequence[Any]]) -> None:
        for partition, records in fetched.items():
            running = self._running.get(partition)
            if running is not None and records:
                running.feed.put(records)
                if running.feed.is_full:
                    self._consumer.hold(partition)

    def _on_assigned(self, assignments: Sequence[Assignment]) -> None:
        log.info("assigned partitions %s", [a.partition for a in assignments])
        for assignment in assignments:
            if not self._stopping:
                self._running[assignment.partition] = self._start_worker(assignment)

    def _start_worker(self, assignment: Assignment) -> _Running:
        partition = assignment.partition
        feed = Feed(
            self._kafka.topic_raw,
            partition,
            seek=lambda offset: self._consumer.seek(assignment, offset),
            resume=lambda: self._consumer.release(partition),
        )
        worker = PartitionWorker(
            stream=self._stream.id,
            partition=partition,
            start_offset=self._stream.start_offset(partition),
            topic_enriched=self._kafka.topic_enriched,
            feed=feed,
            group=_PartitionGroup(self._consumer, assignment),
            producing=self._producing,
            tools=self._tools,
            gate=self._gate,
            requests=lambda p: self._requests.get(p, ()),
            now_ms=self._now_ms,
        )
        task = asyncio.ensure_future(worker.run())
        task.add_done_callback(self._on_worker_end)
        return _Running(worker, feed, task)

    def _on_worker_end(self, task: asyncio.Task[None]) -> None:
        exc = None if task.cancelled() else task.exception()
        if exc is not None and not self._failed.done():
            self._failed.set_exception(exc)

    async def _on_revoked(self, assignments: Sequence[Assignment]) -> None:
        ending = [self._running.pop(a.partition) for a in assignments if a.partition in self._running]
        for each in ending:
            each.task.cancel()
        if ending:
            log.info("revoked partitions %s", [a.partition for a in assignments])
            await asyncio.wait([each.task for each in ending])
        for assignment in assignments:
            metrics.lag.remove(str(assignment.partition))  # it would stand for ever as it was

    def _show_gauges(self) -> None:
        for partition in self._running:
            behind = self._consumer.lag(partition)
            if behind is not None:
                metrics.lag.labels(str(partition)).set(behind)
        addresses = self._tools.addresses.remembered.values()
        for name, some in (("agents", [self._tools.agents.remembered]), ("addresses", addresses)):
            metrics.cache.labels(name, "hit").set(sum(each.hits for each in some))
            metrics.cache.labels(name, "miss").set(sum(each.misses for each in some))
