"""The enricher's composition root: reads the environment, builds the parts, runs them.

Scale: any number of processes, up to the number of partitions. One of the processes of a machine follows the catalog
into the local copy, the others read it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from enricher.addresses import AddressBook
from enricher.agents import load_agent_parser
from enricher.directory import Directory
from enricher.member import Member, Stream
from enricher.metrics import SERVICE, Alarm
from enricher.places import COUNTRY_FILE, PlaceFiles
from enricher.producing import Producing
from enricher.row import Tools, raw_bytes_max
from shared.alarms import Alarms, Silence
from shared.catalog import Catalog, CatalogFollower, Kind
from shared.catalog.store import heard_file
from shared.errors import ClickledgerError, OperatorError, TransientError
from shared.kafka import Producer
from shared.metrics import errors
from shared.runtime import Runtime, instance_slot, keep_memory, run_service, spare_collector
from shared.settings import CatalogSettings, EnricherSettings, KafkaSettings, RuntimeSettings, load
from shared.tasks import end

log = logging.getLogger(__name__)

KINDS = (Kind.STREAM, Kind.TENANT, Kind.PROMOTION, Kind.CONTROL)
"""What the enricher keeps of the catalog; links travel in the records."""
SETUP_RETRY_S = 1.0
PRODUCER_CLOSE_S = 2.0
FINISH_SHARE = 0.4
"""Of the time for a graceful stop, how much the batches at hand may take; the rest is for leaving Kafka and for closing."""


def main() -> int:
    """Run the enricher as the environment says, until SIGTERM; the exit code."""
    runtime_settings, settings = load(RuntimeSettings), load(EnricherSettings)
    kafka, catalog_settings = load(KafkaSettings), load(CatalogSettings)

    async def serve(runtime: Runtime) -> None:
        await enrich_until_stopped(runtime, settings, kafka, catalog_settings)

    return run_service("enricher", runtime_settings, serve, health_port=settings.enricher_health_port)


async def enrich_until_stopped(
    runtime: Runtime, settings: EnricherSettings, kafka: KafkaSettings, catalog_settings: CatalogSettings
) -> None:
    """Build everything and work until the runtime is to stop. Raises OperatorError for what a human must mend."""
    slot = instance_slot(runtime.settings, "enricher")
    places = PlaceFiles(place_files(settings.enricher_place_files))
    folder = runtime.settings.data / "catalog-enricher"
    follower = asyncio.ensure_future(CatalogFollower(catalog_settings, kafka, folder, KINDS).run())
    catalog = Catalog(catalog_settings, folder)
    producing = Producing(lambda: Producer(kafka, slot.instance_id))
    silence = Silence(SERVICE, Alarm.STALLED, kafka.kafka_bootstrap, log)
    watching = asyncio.ensure_future(silence.watch(heard_file(folder)))
    runtime.checks += [lambda: "" if catalog.is_ready else "the catalog is not complete yet", silence.why_not_ready]
    try:
        progress = _Progress(runtime)
        stream = await _find_stream(runtime, progress, catalog, kafka.topic_raw)
        if stream is None:
            return
        raw_max = raw_bytes_max(kafka.kafka_batch_bytes_max)
        tools = Tools(load_agent_parser(), AddressBook(places), Directory(catalog), raw_max)
        keep_memory()
        spare_collector()

        def new_member() -> Member:
            return Member(
                kafka,
                stream,
                instance_id=slot.instance_id,
                producing=producing,
                tools=tools,
                catalog=catalog,
                catalog_wait_s=settings.enricher_catalog_wait_ms / 1000,
                look_every_s=catalog_settings.catalog_refresh_ms / 1000,
            )

        await _join(runtime, progress, new_member)
    finally:
        await asyncio.gather(producing.close(PRODUCER_CLOSE_S), end(follower, watching))
        catalog.close()
        places.close()


def place_files(setting: str) -> Sequence[Path]:
    """The databases of places: those of the setting first, then the country file that comes with the package."""
    return [*(Path(path.strip()) for path in setting.split(",") if path.strip()), COUNTRY_FILE]


class _Progress:
    """Why the enricher does not work, for readiness; what a human must mend is an alarm."""

    def __init__(self, runtime: Runtime) -> None:
        self.waiting = "starting"
        self.alarms = Alarms[Alarm](SERVICE, "start", log)
        runtime.checks.append(lambda: self.waiting)

    def failed(self, what: str, exc: ClickledgerError) -> None:
        """Count it and show it."""
        is_operator = isinstance(exc, OperatorError)
        errors.labels(SERVICE, "operator" if is_operator else "transient").inc()
        before, self.waiting = self.waiting, f"{what}: {exc}"
        if is_operator:
            self.alarms.raise_alarm(Alarm.START, self.waiting)
        elif self.waiting != before:
            log.warning("not enriching: %s", self.waiting)

    def works(self) -> None:
        """Nothing is in the way any more."""
        self.waiting = ""
        self.alarms.clear_alarm(Alarm.START)


async def _find_stream(runtime: Runtime, progress: _Progress, catalog: Catalog, topic: str) -> Stream | None:
    """The stream record of the raw topic, waited for until `setup` has written it; None when told to stop."""
    while True:
        catalog.refresh()
        record = catalog.stream(topic) if catalog.is_ready else None
        if record is not None:
            return Stream(record["stream"], record["start_offsets"])
        if catalog.is_current:
            missing = OperatorError(f"the catalog has no stream for topic {topic}: run `clickledger setup`")
            progress.failed("stream record", missing)
        if await runtime.pause(SETUP_RETRY_S):
            return None


async def _join(runtime: Runtime, progress: _Progress, new_member: Callable[[], Member]) -> None:
    """Work as a member of the group; while Kafka cannot be joined or the catalog is lost, try again."""
    finish_s = FINISH_SHARE * runtime.settings.stop_deadline_ms / 1000
    while not runtime.stopping.is_set():
        member = new_member()

        def why_not(member: Member = member) -> str:
            return "; ".join(member.alarms)

        runtime.checks.append(why_not)
        try:
            await member.start()
            progress.works()
            await member.run(runtime.stopping, finish_s)
        except (TransientError, OperatorError) as exc:
            progress.failed("working", exc)
            await runtime.pause(SETUP_RETRY_S)
        finally:
            runtime.checks.remove(why_not)
