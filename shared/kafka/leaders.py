"""Where partitions are led and a link to each leader: the library's client for metadata, our links for Produce requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.protocol.transaction import InitProducerIdRequest

from shared.kafka.client import bounded, connection, mapped
from shared.kafka.link import Hearer, Link
from shared.kafka.produce_wire import API_KEY, API_VERSION
from shared.settings import KafkaSettings

log = logging.getLogger(__name__)

LOOK_S_MAX: Final = 1.0
"""How long one look waits for metadata and for connections: partitions with living leaders must not wait for a dead one."""
RETRY_S: Final = 0.1
_TRANSACTION_TIMEOUT_MS: Final = 60_000
"""Has no meaning without a transaction, but a place in the request."""


class Leaders:
    """Looks leaders up, connects to them; one event loop."""

    def __init__(self, settings: KafkaSettings, client_id: str, hearer: Hearer) -> None:
        self._options = connection(settings)
        self._client_id = client_id
        self._timeout_ms = settings.kafka_request_timeout_ms
        self._hearer = hearer
        self._client = AIOKafkaClient(client_id=client_id, **self._options)
        self._links: dict[int, Link] = {}
        self._connecting: dict[int, asyncio.Task[None]] = {}

    async def start(self) -> tuple[int, int]:
        """Connect; a new producer's id and epoch. Raises the library's errors; try again until cancelled is the rule."""
        client = self._client
        await client.bootstrap()
        while True:
            node = client.get_random_node()
            try:
                known = {
                    key: (low, high) for key, low, high in (await client.send(node, ApiVersionRequest())).api_versions
                }
                answer = await client.send(node, InitProducerIdRequest(None, _TRANSACTION_TIMEOUT_MS))
                error = kafka_errors.for_code(answer.error_code)
                if error is not kafka_errors.NoError:
                    raise error
            except kafka_errors.KafkaError as exc:
                if not exc.retriable:
                    raise
                log.info("no producer id from broker %s yet: %r", node, exc)
                await asyncio.sleep(RETRY_S)
                await client.force_metadata_update()
                continue
            low, high = known.get(API_KEY, (0, 0))
            if not low <= API_VERSION <= high:
                raise kafka_errors.UnsupportedVersionError(
                    f"the broker takes Produce {low} to {high}, not {API_VERSION}"
                )
            return answer.producer_id, answer.producer_epoch

    def link(self, place: TopicPartition) -> Link | None:
        """An open link to the partition's leader; None while it is unknown or not connected."""
        link = self._links.get(self._client.cluster.leader_for_partition(place))
        return link if link is not None and link.is_open else None

    def partitions(self, topic: str) -> Collection[int] | None:
        """The partitions that the topic is known to have; None while it is unknown. Raises OperatorError."""
        with mapped(f"partitions of {topic}"):
            if topic in self._client.cluster.unauthorized_topics:
                raise kafka_errors.TopicAuthorizationFailedError(topic)
        known: Collection[int] | None = self._client.cluster.partitions_for_topic(topic)
        return known

    async def look(self, places: Iterable[TopicPartition]) -> None:
        """Ask for metadata anew and connect to the leaders of these partitions; within a time, not always with success."""
        places = list(places)
        for topic in {place.topic for place in places}:
            self._client.add_topic(topic)
        await asyncio.wait([self._client.force_metadata_update()], timeout=LOOK_S_MAX)
        leaders = {self._client.cluster.leader_for_partition(place) for place in places} - {None, -1}
        for node in leaders:
            link = self._links.get(node)
            if node not in self._connecting and (link is None or not link.is_open):
                self._connecting[node] = asyncio.get_running_loop().create_task(self._connect(node))
        if tasks := [self._connecting[node] for node in leaders if node in self._connecting]:
            await asyncio.wait(tasks, timeout=LOOK_S_MAX)

    @property
    def are_busy(self) -> bool:
        """Whether some answer is awaited."""
        return any(link.is_busy for link in self._links.values())

    async def close(self) -> None:
        """End all connections at once."""
        for task in self._connecting.values():
            task.cancel()
        for link in self._links.values():
            link.abort()
        await bounded(self._client.close(), 1)

    async def _connect(self, node: int) -> None:
        try:
            broker = self._client.cluster.broker_metadata(node)
            if broker is None:
                return
            opened = AIOKafkaConnection(broker.host, broker.port, client_id=self._client_id, **self._of_a_connection())
            _, writer = await opened.connect()
            link = Link(self._hearer, self._client_id.encode(), self._timeout_ms)
            link.take_over(writer.transport, opened)
            self._links[node] = link
        except (OSError, TimeoutError, kafka_errors.KafkaError, RuntimeError) as exc:  # uvloop's for a closed transport
            log.info("no connection to broker %s: %r", node, exc)
        finally:
            del self._connecting[node]

    def _of_a_connection(self) -> dict[str, Any]:
        """The client's options that a connection takes; it is never closed for being idle: the broker does that."""
        others = ("bootstrap_servers", "metadata_max_age_ms", "retry_backoff_ms", "connections_max_idle_ms")
        return {name: value for name, value in self._options.items() if name not in others}
