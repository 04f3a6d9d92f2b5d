"""What aiokafka itself can do on this machine: produce ready records with acks=all, and consume them, nothing else.

`python -m bench.baselines.kafka_limit produce|consume TOPIC RECORDS BYTES`: prints seconds and CPU-seconds as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

BATCH_BYTES = 1 << 20
IDLE_S_MAX = 20.0


async def produce(topic: str, records: int, size: int) -> None:
    """One batch of each partition under way."""
    producer = AIOKafkaProducer(
        bootstrap_servers=os.environ["CLICKLEDGER_KAFKA_BOOTSTRAP"],
        acks="all",
        enable_idempotence=True,
        max_batch_size=BATCH_BYTES,
        max_request_size=2 * BATCH_BYTES,
    )
    await producer.start()
    partitions = sorted(await producer.partitions_for(topic))
    each, value, key = records // len(partitions), b"x" * size, b"k" * 36
    began, cpu = time.monotonic(), time.process_time()

    async def fill(partition: int) -> None:
        left = each
        while left:
            batch = producer.create_batch()
            while left and batch.append(key=key, value=value, timestamp=None) is not None:
                left -= 1
            await (await producer.send_batch(batch, topic, partition=partition))

    await asyncio.gather(*map(fill, partitions))
    say(each * len(partitions), began, cpu)
    await producer.stop()


async def consume(topic: str, records: int, _size: int) -> None:
    """All partitions from their beginning."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=os.environ["CLICKLEDGER_KAFKA_BOOTSTRAP"],
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=BATCH_BYTES,
    )
    await consumer.start()
    done, began, cpu = 0, time.monotonic(), time.process_time()
    moved_at = began
    while done < records:
        found = await consumer.getmany(timeout_ms=500)
        done += sum(map(len, found.values()))
        moved_at = time.monotonic() if found else moved_at
        if time.monotonic() - moved_at > IDLE_S_MAX:
            raise TimeoutError(f"{done} of {records} records")
    say(done, began, cpu)
    await consumer.stop()


def say(done: int, began: float, cpu: float) -> None:
    """The figures."""
    print(json.dumps({"records": done, "seconds": time.monotonic() - began, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    asyncio.run({"produce": produce, "consume": consume}[sys.argv[1]](sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
