"""Kafka's own limit on this machine with the client library alone: records of a click's size, produced and consumed.

The client on core 0, the broker on core 1, as for the services.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from bench.machine import SERVER_CORE
from bench.part import Recorder, main
from bench.stack import World, stores
from tests.support.full_stack import clean_env

RECORD_BYTES = 650
"""A raw record with a phone's user agent."""
SECONDS_MAX = 60.0


def limit(world: World, what: str, topic: str, records: int) -> dict[str, Any]:
    """Produce or consume in a process of its own."""
    module = ["-m", "bench.baselines.kafka_limit", what, topic, str(records), str(RECORD_BYTES)]
    command = ["taskset", "-c", SERVER_CORE, sys.executable, *module]
    env = {**clean_env(), **world.env}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    if done.returncode:
        raise RuntimeError(f"{what}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(recorder: Recorder) -> None:
    """Produce, then consume, each repetition on topics of its own."""
    records = recorder.scale(600_000, 120_000)
    found: dict[str, list[dict[str, Any]]] = {"produce": [], "consume": []}
    with stores() as both:
        both.pin_broker()
        for number in range(recorder.repetitions):
            world = both.world(f"limit{number}")
            for what, some in found.items():
                some.append(limit(world, what, world.kafka.topic_raw, records))
    for what, some in found.items():
        recorder.figure(f"aiokafka, {what}", [each["records"] / each["seconds"] for each in some])
        recorder.figure(f"aiokafka, {what}: CPU", [each["cpu"] / each["records"] * 1e6 for each in some])


if __name__ == "__main__":
    main("kafka", measure, __doc__)
