"""What tests do to topics behind everybody's back: measure them, and make Kafka forget."""

from __future__ import annotations

from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from shared.kafka import Admin, Reader
from shared.settings import KafkaSettings


async def end_offsets(kafka: KafkaSettings, topic: str) -> dict[int, int]:
    """The offset after the last record of each partition."""
    reader = Reader(kafka, topic, client_id="test")
    await reader.start()
    try:
        return await reader.end_offsets(await reader.partitions())
    finally:
        await reader.close()


async def delete_records(kafka: KafkaSettings, topic: str, partition: int, before: int) -> None:
    """Delete the records below an offset, as retention does."""
    async with Admin(kafka) as admin:
        await admin._client.delete_records({TopicPartition(topic, partition): RecordsToDelete(before)})
