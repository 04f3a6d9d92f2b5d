"""The examples of docs/rte.md in Python: run as they stand there, stopped in the middle, started again."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from clickledger.stack.guard import Guard
from tests.support.processes import WAIT_S
from tests.support.streaming import StreamStack

PAGE = (Path(__file__).parents[2] / "docs/rte.md").read_text(encoding="utf-8")
PROGRAMS = [text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if text.startswith("import")]


@pytest.fixture
async def stack(kafka_bootstrap: str, names: Any, tmp_path: Path, guard: Guard) -> AsyncIterator[StreamStack]:
    """Two partitions and a reporting process."""
    stack = StreamStack(kafka_bootstrap, names, tmp_path, guard, partitions=2)
    try:
        await stack.open()
        yield stack
    finally:
        await stack.close()


async def lines_of(program: str, folder: Path, count: int, **env: str) -> list[str]:
    """What the program prints until it is killed, which is after so many lines."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), cwd=folder, env={**os.environ, **env}, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WAIT_S):
            lines = [await process.stdout.readline() for _ in range(count)]
    finally:
        process.kill()
        left = (await process.communicate())[0]
    return [line.decode() for line in (*lines, *left.splitlines(keepends=True)) if line.endswith(b"\n")]


async def test_the_examples_work(stack: StreamStack, tmp_path: Path) -> None:
    """The client keeps its position over a restart; the consumer drops copies; the three lines are those of the program."""
    client, consumer = PROGRAMS
    (three,) = re.findall(r"```python\n(    if .*?)```", PAGE, re.DOTALL)
    assert all(line.strip() in consumer for line in three.splitlines())
    env = {"RTE_URL": f"http://127.0.0.1:{stack.port}/v1/rte?from=earliest", "RTE_KEY": stack.keys["acme"]}
    await stack.write(0, 6)
    await stack.write_enriched(0, range(3, 6))
    await stack.write(0, 2)
    first = await lines_of(client, tmp_path, 4, **env)
    position = (tmp_path / "position").read_text()
    await stack.write(1, 1)
    done = int(position.split(".")[1])
    assert len(first) - 1 <= done <= len(first)  # killed between the two: that event comes again
    rest = await lines_of(client, tmp_path, 9 - done, **env)
    assert len({*first, *rest}) == 9
    assert all("com.clickledger.click.accepted IN" in line for line in (*first, *rest))
    lines = await lines_of(consumer, tmp_path, 9, TOPIC=stack.kafka.topic_enriched, KAFKA=stack.kafka.kafka_bootstrap)
    assert len(set(lines)) == 9
