"""Topics: made with every setting explicit, described, grown; and positions of groups seen from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.commit import OffsetFetchRequest

from shared.errors import OperatorError
from shared.kafka.client import bounded, connection, mapped
from shared.kafka.consumer import Committed, parse_offset_fetch
from shared.settings import KafkaSettings
from shared.topic_rules import TopicConfig

_OF_THE_TOPIC: Final = 1
"""DescribeConfigs' source of what was set for the topic itself (protocol version 1 on, brokers since 1.1)."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic to be made: partitions, replicas and its configuration (Kafka's own names)."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] = field(default_factory=dict)


class Admin:
    """Kafka's administration, as an async context manager. Raises TransientError, OperatorError."""

    def __init__(self, settings: KafkaSettings, client_id: str = "clickledger-admin") -> None:
        arguments = connection(settings)
        self._where = f"connecting to Kafka at {settings.kafka_bootstrap} (CLICKLEDGER_KAFKA_BOOTSTRAP)"
        self._timeout_s = settings.kafka_request_timeout_ms / 1000
        self._client = AIOKafkaAdminClient(**arguments, client_id=client_id)

    async def __aenter__(self) -> Self:
        with mapped(self._where):
            await asyncio.wait_for(self._client.start(), self._timeout_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await bounded(self._client.close(), 2)

    async def topics(self) -> dict[str, int]:
        """Every topic and its number of partitions."""
        with mapped("listing topics"):
            described = await self._client.describe_topics()
        return {topic["topic"]: len(topic["partitions"]) for topic in described}

    async def create(self, spec: TopicSpec) -> bool:
        """Make a topic; False when it is already there."""
        topic = NewTopic(spec.name, spec.partitions, spec.replication_factor, topic_configs=dict(spec.config))
        with mapped(f"creating topic {spec.name}"):
            response = await self._client.create_topics([topic])
            for _name, code, *message in response.topic_errors:
                if kafka_errors.for_code(code) is kafka_errors.TopicAlreadyExistsError:
                    return False
                if code:
                    raise kafka_errors.for_code(code)(f"{spec.name}: {message}")
        return True

    async def delete(self, name: str) -> None:
        """Delete a topic and its records."""
        with mapped(f"deleting topic {name}"):
            response = await self._client.delete_topics([name])
            for _name, code in response.topic_error_codes:
                if code:
                    raise kafka_errors.for_code(code)(name)

    async def grow(self, name: str, partitions: int) -> None:
        """Give a topic more partitions (a total)."""
        with mapped(f"growing topic {name} to {partitions} partitions"):
            await self._client.create_partitions({name: NewPartitions(partitions)})

    async def config(self, name: str) -> TopicConfig:
        """A topic's effective configuration."""
        with mapped(f"configuration of topic {name}"):
            (response,) = await self._client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
            ((code, message, _type, _name, entries),) = response.resources
            if code:
                raise kafka_errors.for_code(code)(f"{name}: {message}")
        own = frozenset(entry[0] for entry in entries if entry[3] == _OF_THE_TOPIC)
        return TopicConfig({entry[0]: entry[1] for entry in entries}, own)

    async def alter_config(self, name: str, config: Mapping[str, str]) -> None:
        """Replace a topic's own configuration."""
        with mapped(f"configuring topic {name}"):
            (response,) = await self._client.alter_configs(
                [ConfigResource(ConfigResourceType.TOPIC, name, configs=dict(config))]
            )
            for code, message, *_ in response.resources:
                if code:
                    raise OperatorError(f"configuring topic {name}: {message}")

    async def committed(self, group_id: str, topic: str, partitions: list[int]) -> dict[int, Committed | None]:
        """A group's committed positions, None where there are none. Raises TransientError when they are unknown."""
        wanted = [TopicPartition(topic, p) for p in partitions]
        with mapped(f"committed offsets of {group_id}"):
            coordinator = await self._client.find_coordinator(group_id)
            response: Any = await self._client._send_request(
                OffsetFetchRequest(group_id, [(topic, partitions)]), coordinator
            )
            found = parse_offset_fetch(response, wanted)
        return {tp.partition: committed for tp, committed in found.items()}
