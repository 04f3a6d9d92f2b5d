"""One API process: builds every part from settings, serves until told to stop, then finishes what it accepted."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import uvicorn

from ingest_api import metrics
from ingest_api.app import Surface, create_app
from ingest_api.config import ServiceSettings
from ingest_api.destination import KafkaDestination, KafkaOrSpool
from ingest_api.endpoints import BatchPath, ClickPath, clock_ms, connection_refusals, hot_paths, lane_limits
from ingest_api.handler import HandlerState
from ingest_api.publish import GroupCommit
from ingest_api.readiness import Readiness
from ingest_api.registry import Registry
from ingest_api.replay import Replayer
from ingest_api.spool import Spool
from ingest_api.spool_folder import SpoolFolder
from ingest_api.spools import Spools
from ingest_api.throttle import FailureLimiter, Throttle, WorkerSeat, open_cells
from shared import metrics as shared_metrics
from shared.catalog import Catalog, CatalogFollower, CatalogWriter
from shared.errors import OperatorError
from shared.http.fastlane import protocol_class
from shared.http.files import raise_file_limit
from shared.http.lane import Lane
from shared.kafka import Producer
from shared.runtime import Runtime, spare_collector
from shared.tasks import end

SEATS_SPARE: Final = 2
"""Worker seats beyond the number of workers: a new process may come up before the old one has ended."""
FAILURE_SLOTS: Final = 65_536
"""Client addresses whose failed authentications are told apart: 512 KiB per worker seat."""
GROUP_MARGIN_BYTES: Final = 4_096
"""Room that a Kafka batch needs beside its records."""
FLUSH_EVERY_S: Final = 0.5
SPOOLS: Final = "spool"
"""The folder of spools below the API's own."""


class _Server(uvicorn.Server):
    """The server without signal handlers of its own: the runtime has them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


class Worker:
    """The parts of one process, built in the order in which they need each other."""

    def __init__(self, runtime: Runtime, settings: ServiceSettings) -> None:
        self._runtime = runtime
        self._settings = settings
        raise_file_limit(settings.api.api_connections_max)
        api, kafka = settings.api, settings.kafka
        folder = settings.runtime.data / "api"
        self.catalog_path = folder / "catalog"
        self._seat = WorkerSeat.claim(folder, api.api_workers + SEATS_SPARE)
        self.catalog = Catalog(settings.catalog, self.catalog_path)
        self._partitions = 0
        self._seen_version = -1
        self.kafka = KafkaDestination(
            lambda: Producer(kafka, f"clickledger-api-{settings.runtime.node}"),
            kafka.topic_raw,
            ack_timeout_ms=api.api_ack_timeout_ms,
        )
        batch_bytes_max = kafka.kafka_batch_bytes_max - GROUP_MARGIN_BYTES
        self.spool = self._own_spool(folder / SPOOLS) if api.api_spool else None
        self.replayer = Replayer(self.kafka, lambda: self._partitions, batch_bytes_max)
        self.spools = Spools(
            folder / SPOOLS,
            self.spool,
            self.kafka,
            self.replayer,
            partitions=lambda: self._partitions,
            writer=self._catalog_writer,
            node=settings.runtime.node,
            heard_ms=api.api_spool_heard_ms,
        )
        self.commit = GroupCommit(
            KafkaOrSpool(self.kafka, self.spool),
            partitions=lambda: self._partitions,
            group_bytes_max=batch_bytes_max,
            pending_bytes_max=api.api_pending_bytes_max,
            pending_clicks_max=api.api_pending_clicks_max,
            wait_ms_max=api.api_wait_ms_max,
            group_ms=api.api_group_ms,
            in_flight=api.api_batches_in_flight,
        )
        self.state = self._handler_state()
        self.tallies = metrics.Tallies()
        self.readiness = Readiness(self.catalog, self.commit, runtime.stopping.is_set)
        self.server = self._server()

    def _own_spool(self, root: Path) -> Spool:
        api = self._settings.api
        try:
            folder = SpoolFolder.claim_first(root)
        except OSError as exc:
            raise OperatorError(f"{root}: no spool can be kept here: {exc}; see CLICKLEDGER_API_SPOOL") from exc
        return Spool(folder, bytes_max=api.api_spool_bytes_max, free_bytes_min=api.api_spool_free_bytes_min)

    def _handler_state(self) -> HandlerState:
        api = self._settings.api
        folder = self._settings.runtime.data / "api"
        shape = {"workers": api.api_workers + SEATS_SPARE, "worker": self._seat.number}
        return HandlerState(
            catalog=self.catalog,
            throttle=Throttle(
                open_cells(folder, "throttle", slots=api.api_throttle_keys_max, **shape),
                window_ms=api.api_throttle_window_ms,
            ),
            failures=FailureLimiter(
                open_cells(folder, "failures", slots=FAILURE_SLOTS, **shape),
                limit=api.api_failed_authentications_max,
                window_ms=api.api_failed_authentications_window_ms,
            ),
            settings=api,
            topic_raw=self._settings.kafka.topic_raw,
            node=self._settings.runtime.node,
            next_partition=self.commit.next_partition,
        )

    def _server(self) -> _Server:
        api = self._settings.api
        clicks = ClickPath(self.state, self.commit, self.tallies, self.state.body_bytes_max)
        batches = BatchPath(self.state, self.commit, self.tallies, api.api_batch_bytes_max)
        self.lane = Lane(
            hot_paths(clicks, batches),
            connection_refusals(self.state.answers, api),
            lane_limits(api),
            self.tallies.answer,
            self.tallies.cut,
        )
        registry = Registry(self._catalog_writer, self.catalog)
        surface = Surface(self.state, clicks, batches, self.readiness, registry, self.tallies)
        return _Server(
            uvicorn.Config(
                create_app(surface),
                http=protocol_class(self.lane),
                loop="none",
                ws="none",
                lifespan="off",
                interface="asgi3",
                proxy_headers=False,
                server_header=False,
                access_log=False,
                log_config=None,
                timeout_graceful_shutdown=self._settings.serving_stop_ms // 1000,
            )
        )

    def _catalog_writer(self) -> CatalogWriter:
        return CatalogWriter(self._settings.kafka, self.kafka.producer())

    async def run(self, listener: socket.socket, *, follow: bool) -> None:
        """Serve on `listener` until the runtime is to stop. `follow`: apply the catalog topic in this process too."""
        self._runtime.checks += [self.readiness.why_no_catalog, self.readiness.why_not_durable]
        producing = asyncio.create_task(self.kafka.run(), name="producer")
        background = {
            asyncio.create_task(self._refresh(), name="refresh"),
            asyncio.create_task(self.spools.replay(), name="replay"),
            asyncio.create_task(self.spools.register(), name="registrations"),
        }
        if self.spool is not None:
            background.add(asyncio.create_task(self.spool.watch(), name="spool"))
        if follow:
            follower = CatalogFollower(self._settings.catalog, self._settings.kafka, self.catalog_path)
            background.add(asyncio.create_task(follower.run(), name="catalog follower"))
        try:
            await self._be_patient()
            spare_collector()
            serving = asyncio.create_task(self.server.serve(sockets=[listener]), name="server")
            stopping = asyncio.create_task(self._runtime.stopping.wait(), name="stopping")
            await asyncio.wait([serving, stopping, producing, *background], return_when=asyncio.FIRST_COMPLETED)
            self._runtime.stopping.set()  # whichever it was
            self.server.should_exit = True
            stopping.cancel()
            await serving
            await self.lane.abort_rest()
            await self.commit.drain()
            for task in (producing, *background):
                if task.done():
                    task.result()
        finally:
            await end(*background)
            await self.spools.leave()  # needs the producer
            await end(producing)
            if self.spool is not None:
                await self.spool.close()
            self._flush()

    async def _be_patient(self) -> None:
        """Let the first connections wait in the backlog while the catalog and Kafka come up.

        A copy from before the start must catch up too: keys may have been revoked meanwhile.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.api.api_start_patience_ms / 1000
        while self._is_early() and loop.time() < deadline and not self._runtime.stopping.is_set():
            await self._runtime.pause(0.02)

    def _is_early(self) -> bool:
        return bool(self.readiness.reasons() or self.kafka.why_not_ready()) or not self.catalog.is_current

    async def _refresh(self) -> None:
        """Renew the catalog's snapshot many times a second, and the metrics now and then."""
        period_s = self._settings.catalog.catalog_refresh_ms / 1000
        loop = asyncio.get_running_loop()
        flushed_at = loop.time()
        self._take_catalog()
        while True:
            await asyncio.sleep(period_s)
            self.catalog.refresh()
            if self.catalog.version != self._seen_version:
                self._take_catalog()
            if loop.time() - flushed_at >= FLUSH_EVERY_S:
                flushed_at = loop.time()
                self._flush()

    def _take_catalog(self) -> None:
        self._seen_version = self.catalog.version
        stream = self.catalog.stream(self._settings.kafka.topic_raw)
        self._partitions = stream["partitions"] if stream else 0

    def _flush(self) -> None:
        self.tallies.flush(self.commit, self.kafka, len(self.server.server_state.connections), self.lane)
        self.tallies.flush_spools(self.spool, self.spools, self.replayer, clock_ms())
        shared_metrics.catalog_version.labels("api").set(self.catalog.version)
        shared_metrics.catalog_age.labels("api").set(self.catalog.age_ms / 1000)
