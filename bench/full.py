"""The whole local stack as `clickledger up` starts it, with a tenant, a key without a limit and links of our own."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from bench import fill, open_loop, wrk
from clickledger.stack.guard import Guard
from shared.kafka import Reader
from shared.settings import KafkaSettings
from tests.support.api_service import CLICKS
from tests.support.full_stack import FullStack
from tests.support.pipeline import query

WAIT_S = 180.0
POLL_S = 0.05


class Full(NamedTuple):
    """A running stack."""

    stack: FullStack
    guard: Guard
    folder: Path
    kafka: KafkaSettings

    @property
    def api_port(self) -> int:
        """Where clicks go."""
        return urlsplit(self.stack.ready["api"]).port or 0

    def pid(self, name: str) -> int:
        """The process of a part of the stack."""
        found = self.stack.ready["pids"][name]
        return int(found[0] if isinstance(found, list) else found)

    def takes(self, link: int) -> bool:
        """Whether a click on the link is answered with 200."""
        body = wrk.clicks(1, 1)[0].replace(fill.link_of(0), fill.link_of(link))
        try:
            return open_loop.hold(self.api_port, CLICKS, [body], 1, 1, self.folder).good == 1
        except RuntimeError:
            return False

    def settle(self) -> int:
        """Wait until every record of the raw topic is a row; the accepted ones' number. Raises TimeoutError.

        A click that took the spool's way may be there twice, once accepted and once as a duplicate.
        """
        deadline = time.monotonic() + WAIT_S
        while True:
            records = asyncio.run(self._records())
            sql = "SELECT count() AS rows, countIf(status = 'accepted') AS accepted FROM clicks"
            (found,) = query(self.stack, sql)
            if int(found["rows"]) == records:
                return int(found["accepted"])
            if time.monotonic() > deadline:
                raise TimeoutError(f"{found['rows']} rows of {records} records after {WAIT_S:.0f} s")
            time.sleep(POLL_S)

    async def _records(self) -> int:
        reader = Reader(self.kafka, self.kafka.topic_raw, client_id="bench")
        await reader.start()
        try:
            return sum((await reader.end_offsets(await reader.partitions())).values())
        finally:
            await reader.close()


@contextmanager
def full_stack(links: int = 1_000) -> Iterator[Full]:
    """Start it, register tenant, key and links, and end it afterwards."""
    guard = Guard()
    try:
        with tempfile.TemporaryDirectory(prefix="clickledger-bench-", ignore_cleanup_errors=True) as name:
            stack = FullStack(guard, Path(name) / "up")
            try:
                kafka = KafkaSettings(kafka_bootstrap=stack.ready["kafka"])
                asyncio.run(fill.put_tenant(kafka))
                asyncio.run(fill.put_links(kafka, 0, links))
                full = Full(stack, guard, Path(name), kafka)
                deadline = time.monotonic() + WAIT_S
                while not full.takes(links - 1):
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"the API does not take clicks on {links} links after {WAIT_S:.0f} s")
                yield full
            finally:
                stack.close()
    finally:
        guard.close()
