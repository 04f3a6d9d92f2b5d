"""Registering many lines leaves the event loop to others in between."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from ingest_api.registry import LINES_AT_ONCE, Registry
from shared.links import RefusedLine
from tests.support.catalog import NOW_MS, example_catalog


def no_writer() -> Any:
    """Nothing is written when every line is refused."""
    raise AssertionError


async def test_many_lines_take_turns() -> None:
    """While a long request is read, a click that arrives waits for a hundred lines at most."""
    registry = Registry(no_writer, cast("Any", example_catalog()))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    registered = await registry.put_links("acme", [{"short_url": "x"}] * (10 * LINES_AT_ONCE), NOW_MS)
    other.cancel()
    assert registered.version == -1
    assert all(isinstance(line, RefusedLine) for line in registered.results)
    assert turns >= 10
